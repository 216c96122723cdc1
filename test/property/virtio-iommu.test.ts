/**
 * Random virtio-iommu requests. Each device's container holds exactly the mappings of its domain, and garbage in the
 * rings causes no exception.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import * as virtio from '../../src/abi/virtio.ts';
import * as format from '../../src/abi/virtio-iommu.ts';
import { MIB } from '../fixtures/recording-notifier.ts';
import { ENDPOINTS, requestBytes, VirtioIommuRig } from '../fixtures/virtio-iommu-rig.ts';

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

const attach = fc.record({ domain, endpoint, flags: fc.constantFrom(0, 0, 0, 1, 2) }).map((r) =>
  requestBytes(format.T_ATTACH, format.ATTACH_BYTES, (view) => {
    view.setUint32(4, r.domain, true);
    view.setUint32(8, r.endpoint, true);
    view.setUint32(12, r.flags, true);
  }),
);
const detach = fc.record({ domain, endpoint }).map((r) =>
  requestBytes(format.T_DETACH, format.DETACH_BYTES, (view) => {
    view.setUint32(4, r.domain, true);
    view.setUint32(8, r.endpoint, true);
  }),
);
const map = fc
  .record({ domain, range, phys: fc.integer({ min: 0, max: 1030 }), flags: fc.integer({ min: 0, max: 8 }) })
  .map((r) =>
    requestBytes(format.T_MAP, format.MAP_BYTES, (view) => {
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
    requestBytes(format.T_UNMAP, format.UNMAP_BYTES, (view) => {
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

async function perform(rig: VirtioIommuRig, what: Action): Promise<void> {
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
        fc.asyncProperty(fc.array(action, { minLength: 1, maxLength: 40, size: 'max' }), async (actions) => {
          const rig = new VirtioIommuRig({ quirks });
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
          const rig = new VirtioIommuRig();
          await rig.start();
          for (const [at, value] of pokes) {
            rig.ram.write(2 * MIB + at, Uint8Array.of(value));
            rig.write(virtio.QUEUE_NOTIFY_REG, kicks % 3);
          }
          await rig.start();
          rig.check();
          const given = requestBytes(format.T_ATTACH, format.ATTACH_BYTES, (view) =>
            view.setUint32(8, 0x08, true),
          );
          expect(rig.request(given)).to.equal(format.S_OK);
        },
      ),
      { numRuns: 150 },
    ));
});
