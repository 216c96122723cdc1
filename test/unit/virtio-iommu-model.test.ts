/**
 * virtio-iommu at its limits, by raw requests: ranges of ids, counts that must fall again, events, saved state.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as virtio from '../../src/abi/virtio.ts';
import * as format from '../../src/abi/virtio-iommu.ts';
import { VirtioQueue } from '../../src/guest/iommu/virtio/queue.ts';
import { PageAllocator } from '../../src/guest/page-allocator.ts';
import type { Iova } from '../../src/memory/address.ts';
import type { VirtioIommuOptions } from '../../src/viommu/virtio/iommu.ts';
import { MIB } from '../fixtures/recording-notifier.ts';
import { ENDPOINTS, requestBytes, VirtioIommuRig } from '../fixtures/virtio-iommu-rig.ts';

const [DEVICE, OTHER] = ENDPOINTS as [number, number];

/** A started unit, and its requests. Each returns its status. */
async function unit(options: Partial<VirtioIommuOptions> = {}) {
  const rig = new VirtioIommuRig(options);
  await rig.start();
  const ids = (type: number, length: number, domain: number, endpoint: number, flags = 0) =>
    rig.request(
      requestBytes(type, length, (view) => {
        view.setUint32(4, domain, true);
        view.setUint32(8, endpoint, true);
        view.setUint32(12, flags, true);
      }),
    );
  const range = (type: number, length: number, domain: number, start: number, end: number) =>
    rig.request(
      requestBytes(type, length, (view) => {
        view.setUint32(4, domain, true);
        view.setBigUint64(8, BigInt(start), true);
        view.setBigUint64(16, BigInt(end), true);
        if (type === format.T_MAP) view.setUint32(32, 3, true);
      }),
    );
  return {
    rig,
    attach: (domain: number, endpoint = DEVICE) =>
      ids(format.T_ATTACH, format.ATTACH_BYTES, domain, endpoint),
    detach: (domain: number, endpoint = DEVICE) =>
      rig.request(
        requestBytes(format.T_DETACH, format.DETACH_BYTES, (view) => {
          view.setUint32(4, domain, true);
          view.setUint32(8, endpoint, true);
        }),
      ),
    map: (domain: number, start: number, end: number) =>
      range(format.T_MAP, format.MAP_BYTES, domain, start, end),
    unmap: (domain: number, start: number, end: number) =>
      range(format.T_UNMAP, format.UNMAP_BYTES, domain, start, end),
    held: () => rig.notifiers[0]?.mappings.map(({ iova }) => iova),
  };
}

const { S_OK, S_NOENT, S_INVAL, S_NOMEM } = format;

describe('virtio-iommu ids', () => {
  it('of domains lie in the range of the device', async () => {
    const { attach } = await unit({ domains: [2, 5] });
    expect([1, 2, 5, 6].map((domain) => attach(domain))).to.deep.equal([S_NOENT, S_OK, S_OK, S_NOENT]);
  });
});

describe('virtio-iommu mappings', () => {
  it('follow the requests in each device of the domain', async () => {
    const { rig, attach, detach, map, unmap, held } = await unit();
    attach(1);
    attach(1, OTHER);
    for (const page of [0, 1, 2]) expect(map(1, page * 4096, page * 4096 + 4095)).to.equal(S_OK);
    rig.check();
    expect(unmap(1, 0, 8191)).to.equal(S_OK);
    rig.check();
    expect(held()).to.deep.equal([8192]);
    expect(detach(1)).to.equal(S_OK);
    expect([held(), rig.notifiers[1]?.mappings.length]).to.deep.equal([[], 1]);
  });

  it('are forgotten with the last endpoint of their domain', async () => {
    const { attach, detach, map, held } = await unit();
    attach(1);
    map(1, 0, 4095);
    detach(1);
    expect(map(1, 0, 4095), 'no such domain').to.equal(S_NOENT);
    attach(1);
    expect([held(), map(1, 0, 4095)]).to.deep.equal([[], S_OK]);
  });

  it('share no byte, not even the last one (QEMU)', async () => {
    const { attach, map } = await unit({ quirks: 'qemu' });
    attach(1);
    expect([map(1, 0, 4095), map(1, 4095, 8190), map(1, 4096, 8191)]).to.deep.equal([S_OK, S_INVAL, S_OK]);
  });

  const ends: Readonly<Record<string, (parts: Awaited<ReturnType<typeof unit>>) => unknown>> = {
    'a DETACH of the last endpoint': ({ detach }) => detach(1),
    'an ATTACH to another domain': ({ attach }) => attach(2),
    'an unplugged function': ({ rig }) => rig.iommu.detach(DEVICE),
    'a reset': ({ rig }) => rig.start(),
  };
  for (const [end, act] of Object.entries(ends))
    it(`do not count any more after ${end}`, async () => {
      const parts = await unit({ mappingLimit: 2 });
      const { attach, map } = parts;
      attach(1);
      const fill = (domain: number) => [0, 1, 2].map((page) => map(domain, page * 4096, page * 4096 + 4095));
      expect(fill(1)).to.deep.equal([S_OK, S_OK, S_NOMEM]);
      await act(parts);
      attach(3, OTHER);
      expect(fill(3)).to.deep.equal([S_OK, S_OK, S_NOMEM]);
    });
});

describe('a virtio-iommu fault', () => {
  it('needs a whole buffer: with a smaller one the device needs a reset', async () => {
    for (const [bytes, status] of [
      [format.EVENT_BYTES, 0xfn],
      [format.EVENT_BYTES - 1, 0x4fn],
    ] as const) {
      const rig = new VirtioIommuRig();
      const events = new VirtioQueue(rig.port, rig.ram, new PageAllocator(rig.ram, 3 * MIB, MIB), 1);
      const { install } = rig.queue;
      rig.queue.install = async () => {
        await install.call(rig.queue);
        await events.install();
      };
      await rig.start();
      events.describe(0, 0x10_2000, bytes, true);
      events.offer(0);
      await events.kick();
      rig.iommu.translate(DEVICE, 0x5000 as Iova, true);
      expect(rig.iommu.readRegister(virtio.STATUS_REG, 4)).to.equal(status);
    }
  });
});

describe('a virtio-iommu that was moved', () => {
  it('keeps the value of bypass', async () => {
    for (const bootBypass of [true, false]) {
      const { rig } = await unit({ bootBypass });
      const moved = new VirtioIommuRig();
      for (const id of ENDPOINTS) moved.iommu.detach(id);
      moved.iommu.restore(rig.iommu.save());
      expect(moved.iommu.translate(DEVICE, 0x5000 as Iova, true).ok).to.equal(bootBypass);
    }
  });
});
