/**
 * Random virtio-iommu requests. Each device's container holds exactly the mappings of its domain, and garbage in the
 * rings causes no exception.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import * as virtio from '../../src/abi/virtio.ts';
import * as format from '../../src/abi/virtio-iommu.ts';
import { VirtioQueue } from '../../src/guest/iommu/virtio/queue.ts';
import { PageAllocator } from '../../src/guest/page-allocator.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { IOVA_LIMIT } from '../../src/viommu/notifier.ts';
import type { Quirks } from '../../src/viommu/quirks.ts';
import { VirtioIommu } from '../../src/viommu/virtio/iommu.ts';
import { MIB, RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const ENDPOINTS = [0x08, 0x10, 0x18];
const REQUEST = 0x10_0000;
const ANSWER = 0x10_1000;
const RAM_BYTES = 4 * MIB;

/** A unit with three devices, and a driver that sends one request at a time. */
class Rig {
  readonly ram = smallRam(RAM_BYTES);
  readonly iommu: VirtioIommu;
  readonly notifiers = ENDPOINTS.map(() => new RecordingNotifier(this.ram));
  readonly spaces = ENDPOINTS.map(
    (id, i) => new DeviceAddressSpace(id, this.notifiers[i] as RecordingNotifier, this.ram.regions),
  );
  readonly queue: VirtioQueue;

  constructor(quirks: Quirks) {
    this.iommu = new VirtioIommu({ ram: this.ram, quirks, awBits: 64 });
    for (const space of this.spaces) this.iommu.attach(space);
    const port = {
      write: (offset: number, size: 4 | 8, value: bigint) =>
        void this.iommu.writeRegister(offset, size, value),
      read: (offset: number, size: 4 | 8) => Promise.resolve(this.iommu.readRegister(offset, size)),
    };
    this.queue = new VirtioQueue(port, this.ram, new PageAllocator(this.ram, 2 * MIB, MIB), 0);
  }

  write(register: number, value: number): void {
    this.iommu.writeRegister(register, 4, BigInt(value));
  }

  async start(): Promise<void> {
    this.write(virtio.STATUS_REG, 0);
    for (const half of [0, 1]) {
      this.write(virtio.DRIVER_FEATURES_SEL_REG, half);
      this.write(
        virtio.DRIVER_FEATURES_REG,
        Number((format.IOMMU_FEATURES >> BigInt(32 * half)) & 0xffffffffn),
      );
    }
    this.write(virtio.STATUS_REG, 0xb);
    await this.queue.install();
    this.write(virtio.STATUS_REG, 0xf);
  }

  request(bytes: Uint8Array): number {
    this.ram.write(REQUEST, bytes);
    this.queue.describe(0, REQUEST, bytes.length, false, 1);
    this.queue.describe(1, ANSWER, format.TAIL_BYTES, true);
    this.queue.offer(0);
    void this.queue.kick();
    expect(this.queue.take(), 'a used request').to.not.equal(undefined);
    return this.ram.read(ANSWER, 1)[0] as number;
  }

  /** Compares each device's container with its domain. */
  check(): void {
    const bypassed = this.iommu.readRegister(virtio.CONFIG_REG + format.CONFIG_BYPASS, 1) === 1n;
    for (const [i, id] of ENDPOINTS.entries()) {
      const domain = this.iommu.domainOf(id);
      const identity = domain ? domain.bypass : bypassed;
      const wanted = identity ? [[0, 0, RAM_BYTES, 3]] : domain ? this.#mappings(domain.mappings()) : [];
      const held = (this.notifiers[i] as RecordingNotifier).mappings.map((m) => [
        m.iova,
        m.gpa,
        m.size,
        m.perm,
      ]);
      expect(held, `container of ${id}`).to.deep.equal(wanted);
      expect((this.spaces[i] as DeviceAddressSpace).audit()).to.deep.equal([]);
    }
  }

  #mappings(mappings: Iterable<{ start: bigint; end: bigint; phys: bigint; flags: number }>): number[][] {
    const found: number[][] = [];
    for (const { start, end, phys, flags } of mappings) {
      const last = end < IOVA_LIMIT ? end : BigInt(IOVA_LIMIT) - 1n;
      // Of a mapping that extends beyond RAM, the part in RAM is mapped.
      const [whole, ram] = [last + 1n - start, BigInt(RAM_BYTES) - phys];
      const size = whole < ram ? whole : ram;
      if ((flags & 3) !== 0 && start < IOVA_LIMIT && phys < RAM_BYTES)
        found.push([Number(start), Number(phys), Number(size), flags & 3]);
    }
    return found;
  }
}

const page = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: 24 }) },
  { weight: 1, arbitrary: fc.integer({ min: 2 ** 36 - 3, max: 2 ** 36 + 3 }) },
  { weight: 1, arbitrary: fc.constantFrom(0xfedff, 0xfee00, 0xfef00) },
);
const range = fc
  .record({
    first: page,
    pages: fc.integer({ min: -1, max: 6 }),
    skew: fc.constantFrom(0, 0, 0, 0, 0x10, 0x800),
  })
  .map(({ first, pages, skew }) => ({
    start: BigInt(first) * 4096n + BigInt(skew),
    end: BigInt.asUintN(64, BigInt(first + pages) * 4096n - 1n + BigInt(skew)),
  }));
const all = fc.constant({ start: 0n, end: 2n ** 64n - 1n });
const domain = fc.integer({ min: 0, max: 3 });
const endpoint = fc.constantFrom(...ENDPOINTS, 0x20, 0x10008);

function bytes(type: number, length: number, fill: (view: DataView) => void): Uint8Array {
  const view = new DataView(new ArrayBuffer(length));
  view.setUint8(0, type);
  fill(view);
  return new Uint8Array(view.buffer);
}

const attach = fc.record({ domain, endpoint, flags: fc.constantFrom(0, 0, 0, 1, 2) }).map((r) =>
  bytes(format.T_ATTACH, format.ATTACH_BYTES, (view) => {
    view.setUint32(4, r.domain, true);
    view.setUint32(8, r.endpoint, true);
    view.setUint32(12, r.flags, true);
  }),
);
const detach = fc.record({ domain, endpoint }).map((r) =>
  bytes(format.T_DETACH, format.DETACH_BYTES, (view) => {
    view.setUint32(4, r.domain, true);
    view.setUint32(8, r.endpoint, true);
  }),
);
const map = fc
  .record({ domain, range, phys: fc.integer({ min: 0, max: 1030 }), flags: fc.integer({ min: 0, max: 8 }) })
  .map((r) =>
    bytes(format.T_MAP, format.MAP_BYTES, (view) => {
      view.setUint32(4, r.domain, true);
      view.setBigUint64(8, r.range.start, true);
      view.setBigUint64(16, r.range.end, true);
      view.setBigUint64(24, BigInt(r.phys) * 4096n, true);
      view.setUint32(32, r.flags, true);
    }),
  );
const unmap = fc
  .record({ domain, range: fc.oneof({ weight: 4, arbitrary: range }, { weight: 1, arbitrary: all }) })
  .map((r) =>
    bytes(format.T_UNMAP, format.UNMAP_BYTES, (view) => {
      view.setUint32(4, r.domain, true);
      view.setBigUint64(8, r.range.start, true);
      view.setBigUint64(16, r.range.end, true);
    }),
  );
const garbage = fc.uint8Array({ minLength: 4, maxLength: 80 });

type Action = Uint8Array | 'reset' | 'bypass' | 'no bypass' | 'system reset';
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 6, arbitrary: map },
  { weight: 3, arbitrary: attach },
  { weight: 3, arbitrary: unmap },
  { weight: 1, arbitrary: detach },
  { weight: 1, arbitrary: garbage },
  { weight: 1, arbitrary: fc.constantFrom<Action>('reset', 'bypass', 'no bypass', 'system reset') },
);

async function perform(rig: Rig, what: Action): Promise<void> {
  if (what instanceof Uint8Array) rig.request(what);
  else if (what === 'reset') await rig.start();
  else if (what === 'system reset') {
    rig.iommu.systemReset();
    await rig.start();
  } else rig.write(virtio.CONFIG_REG + format.CONFIG_BYPASS, what === 'bypass' ? 1 : 0);
}

describe('random virtio-iommu requests', function () {
  this.timeout(120_000);

  for (const quirks of ['spec', 'qemu'] as const)
    it(`keep every container equal to its domain (${quirks})`, () =>
      fc.assert(
        fc.asyncProperty(fc.array(action, { minLength: 1, maxLength: 40 }), async (actions) => {
          const rig = new Rig(quirks);
          await rig.start();
          for (const each of actions) {
            await perform(rig, each);
            rig.check();
          }
        }),
        { numRuns: 150 },
      ));

  it('set DEVICE_NEEDS_RESET or have no effect in garbage rings, until a reset', () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 4095 }), fc.integer({ min: 0, max: 255 })), {
          maxLength: 60,
        }),
        fc.nat(),
        async (pokes, kicks) => {
          const rig = new Rig('spec');
          await rig.start();
          for (const [at, value] of pokes) {
            rig.ram.write(2 * MIB + at, Uint8Array.of(value));
            rig.write(virtio.QUEUE_NOTIFY_REG, kicks % 3);
          }
          await rig.start();
          rig.check();
          const given = bytes(format.T_ATTACH, format.ATTACH_BYTES, (view) => view.setUint32(8, 0x08, true));
          expect(rig.request(given)).to.equal(format.S_OK);
        },
      ),
      { numRuns: 150 },
    ));
});
