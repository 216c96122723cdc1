/**
 * Invalid vIOMMU states. Each is refused with the name of its field, and no bytes cause another exception.
 */

import { expect } from 'chai';
import { describe, it } from 'mocha';
import protobuf from 'protobufjs/minimal.js';
import { Prng } from '#host';
import { DYNAMIC_WINDOW_START, liobnOf } from '../../src/abi/spapr-host-bridges.ts';
import * as vtd from '../../src/abi/vtd.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import {
  type EncodedState,
  readEncodedState,
  type StateField,
  writeEncodedState,
} from '../../src/proto/schema.ts';
import { encodeState, StateError, type StateValue } from '../../src/proto/state-codec.ts';
import type { VIommu } from '../../src/viommu/viommu.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';
import {
  Bench,
  CASES,
  DEVICES,
  makeSpapr,
  makeVirtio,
  makeVtd,
  virtioBench,
  vtdBench,
} from '../fixtures/viommu-state-cases.ts';

const GARBAGE_RUNS = 500;
const TYPES = ['number', 'bigint', 'boolean', 'text', 'bytes', 'numbers'];
const EDGES = [
  0,
  1,
  2,
  3,
  -1,
  0.5,
  255,
  65535,
  65536,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 53,
  2 ** 64,
  NaN,
  Infinity,
];

const decoded = (bytes: Uint8Array): EncodedState =>
  readEncodedState(protobuf.Reader.create(bytes), bytes.length);
const encoded = (state: EncodedState): Uint8Array =>
  writeEncodedState(state, protobuf.Writer.create()).finish();
const withFields = (bytes: Uint8Array, change: (fields: StateField[]) => StateField[]): Uint8Array => {
  const state = decoded(bytes);
  return encoded({ ...state, fields: change([...state.fields]) });
};

/** Returns the state with other values; `transport.X` is X of the transport's own state. */
function withValues(bytes: Uint8Array, values: Readonly<Record<string, StateValue>>): Uint8Array {
  return Object.entries(values).reduce((state, [name, value]) => {
    const [outer, inner] = name.split('transport.') as [string, string | undefined];
    const [field] = decoded(encodeState('x', 1, { [inner ?? outer]: value })).fields as [StateField];
    return inner === undefined
      ? withField(state, field)
      : withTransport(state, (part) => withField(part, field));
  }, bytes);
}

function withField(bytes: Uint8Array, field: StateField): Uint8Array {
  return withFields(bytes, (fields) => {
    expect(fields.map(({ name }) => name)).to.include(field.name);
    return fields.map((old) => (old.name === field.name ? field : old));
  });
}

const withTransport = (bytes: Uint8Array, change: (part: Uint8Array) => Uint8Array): Uint8Array =>
  withFields(bytes, (fields) =>
    fields.map((field) => (field.name === 'transport' ? { ...field, data: change(field.data) } : field)),
  );

const words = (...values: readonly number[]): Uint8Array => {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  for (const [i, value] of values.entries()) view.setUint32(4 * i, value, true);
  return new Uint8Array(view.buffer);
};

/** Encodes a mapping of a virtio-iommu's state, with addresses below 4 GiB. */
const mapping = (start: number, end: number, phys: number, flags: number): Uint8Array =>
  words(start, 0, end, 0, phys, 0, flags);
const joined = (...parts: readonly Uint8Array[]): Uint8Array => Uint8Array.from(Buffer.concat(parts));

const BRIDGE_0 = 'bridge0.window0';
const BRIDGE_1 = 'bridge0.window1';
/** Invalid values by case: the reported field, and the changes. */
const REFUSED: Readonly<
  Record<string, readonly (readonly [string, Readonly<Record<string, StateValue>>])[]>
> = {
  none: [],
  'VT-d, legacy mode': [
    ['quirks', { quirks: 'qemu' }],
    ['CAP', { CAP: 1n }],
    ['VER', { VER: 2n ** 32n }],
    ['GSTS', { GSTS: 1n }],
    ['GSTS', { GSTS: BigInt(vtd.GCMD_QIE) << 8n }],
    ['RTADDR', { RTADDR: 1n }],
    ['rootInUse', { rootInUse: 0x1001n }],
    ['queueInUse', { queueInUse: 0x17000n }],
    ['queueInUse', { queueInUse: 0x16801n, IQA: 0x16001n }],
    ['IQA', { queueInUse: 0x16801n, IQA: 0x16801n }],
    ['IQH', { IQH: 0x2000n, IQT: 0x2000n }],
    ['IQH', { IQH: 0n, IQT: 32n }],
    ['IQH', { GSTS: BigInt(vtd.GCMD_TE) }],
    ['FSTS', { FSTS: 0n }],
    ['FSTS', { FSTS: 0x42n }],
    ['FECTL', { FECTL: 1n }],
    ['FRCD_LO', { FRCD_LO: 1n }],
    ['FRCD_HI', { FRCD_HI: 0n }],
  ],
  'VT-d, scalable mode': [
    ['ECAP', { ECAP: 0n }],
    // With descriptors of 256 bits, every other head is invalid.
    ['IQH', { IQH: 16n, IQT: 16n, IQA: 0x16801n, queueInUse: 0x16801n }],
  ],
  'AMD-Vi': [
    ['quirks', { quirks: 'qemu' }],
    ['ExtendedFeature', { ExtendedFeature: 0n }],
    ['EventHead', { EventHead: 1n }],
    ['Status', { Status: 0x10n }],
    ['Status', { Status: 0x38n }],
    ['Status', { Control: 0n }],
    ['PciIdentity', { PciIdentity: 0n }],
    ['PciStatus', { PciStatus: 0x8010n }],
    ['deviceTableInUse', { deviceTableInUse: 0x11003n }],
    ['commandBufferInUse', { commandBufferInUse: 0n }],
    ['eventLogInUse', { eventLogInUse: 0n }],
    ['commandHead', { commandHead: 0x20 }],
    ['commandHead', { commandHead: 8 }],
    ['commandTail', { commandTail: 4096 }],
    ['commandHead', { commandHead: 0x20, CommandHead: 0x20n }],
    ['eventsStopped', { eventsStopped: true, Control: 0n, Status: 2n }],
    ['commandsStopped', { commandsStopped: true, Control: 0n, Status: 2n }],
    ['Status', { commandsStopped: true }],
    ['Status', { eventsStopped: true }],
    ['translated', { translated: [0x20] }],
    ['logged', { logged: [0x20, 0x20] }],
    ['logged', { logged: [0x10000] }],
    ['logged', { logged: [0.5] }],
  ],
  'virtio-iommu': [
    ['quirks', { quirks: 'qemu' }],
    ['MAGIC', { 'transport.MAGIC': 1n }],
    ['DEVICE_ID', { 'transport.DEVICE_ID': 1n }],
    ['STATUS', { 'transport.STATUS': 0x100n }],
    ['INTERRUPT_STATUS', { 'transport.INTERRUPT_STATUS': 4n }],
    ['negotiated', { 'transport.negotiated': 2n ** 63n }],
    ['queue0.size', { 'transport.queue0.size': 257 }],
    ['queue0.desc', { 'transport.queue0.desc': -16 }],
    ['queue0.avail', { 'transport.queue0.avail': 2 ** 65 }],
    ['queue1.used', { 'transport.queue1.used': 0.5 }],
    ['queue0.seenIndex', { 'transport.queue0.seenIndex': 65536 }],
    ['queue1.usedIndex', { 'transport.queue1.usedIndex': -1 }],
    ['BYPASS', { BYPASS: 2n }],
    ['INPUT_END', { INPUT_END: 2n ** 64n - 1n }],
    ['functions', { functions: [0, 0x10000] }],
    ['functions', { functions: [0, 0] }],
    ['functions', { functions: new Array(65537).fill(0) }],
    ['members', { functions: [0, 0x20] }],
    ['members', { members: [0x20, 0x28, 0x28] }],
    ['members', { members: [0x20, 0x28] }],
    ['members', { members: [0x20, 0x28, -1] }],
    ['unattached', { unattached: [0x20] }],
    ['unattached', { unattached: [2 ** 32] }],
    ['domains', { domains: [3, 0, 2, 2, 3, 1, 1, 0] }],
    ['domains', { domains: [2 ** 32, 0, 2, 2, 4, 1, 1, 0] }],
    ['domains', { domains: [3, 0, 2, 2, 4, 1, 1] }],
    ['domains', { domains: [3, 0, 3, 2, 4, 1, 0, 0] }],
    ['domains', { domains: [3, 0, 2, 1, 4, 1, 1, 1] }],
    ['domains', { domains: [3, 0, 2, 17, 4, 1, 1, 0] }],
    ['domains', { domains: [3, 0, 2, 2 ** 53, 4, 1, 1, 0] }],
    ['mappings', { domains: [3, 0, 2, 3, 4, 1, 1, 0] }],
    ['mappings', { mappings: joined(mapping(0x5000, 0x6fff, 0, 3), mapping(0x6000, 0x6fff, 0, 3)) }],
    ['mappings', { mappings: joined(mapping(0x5000, 0x4fff, 0, 3), mapping(0x6000, 0x6fff, 0, 3)) }],
    ['mappings', { mappings: joined(mapping(0x5000, 0x5fff, 0, 8), mapping(0x6000, 0x6fff, 0, 3)) }],
    ['mappings', { mappings: joined(mapping(0x5000, 0x57ff, 0, 3), mapping(0x6000, 0x6fff, 0, 3)) }],
    ['mappings', { mappings: joined(mapping(0, 0xfff, 0, 3), mapping(0xfee00000, 0xfee00fff, 0, 3)) }],
  ],
  spapr: [
    ['quirks', { quirks: 'qemu' }],
    ['bridges', { bridges: 3 }],
    ['vioLiobns', { vioLiobns: [0x7100_0001] }],
    ['vioLiobns', { vioLiobns: [] }],
    ['callPage', { callPage: new Uint8Array(4096) }],
    ['callPage', { callPage: new Uint8Array(4095) }],
    [BRIDGE_0, { [`${BRIDGE_0}.liobn`]: liobnOf(1, 0) }],
    [BRIDGE_0, { [`${BRIDGE_0}.entries`]: 2 ** 17 }],
    [BRIDGE_0, { [`${BRIDGE_0}.start`]: 4096 }],
    [BRIDGE_1, { [`${BRIDGE_1}.isDefault`]: true }],
    [BRIDGE_1, { [`${BRIDGE_1}.pageShift`]: 13 }],
    [BRIDGE_1, { [`${BRIDGE_1}.entries`]: 2 ** 32 }],
    [BRIDGE_1, { [`${BRIDGE_1}.entries`]: 3 }],
    [BRIDGE_1, { [`${BRIDGE_1}.start`]: 2 ** 60 }],
    // One overlaps the default window, one the other window.
    [BRIDGE_1, { [`${BRIDGE_1}.start`]: 0 }],
    ['bridge1.window0', { 'bridge1.window0.isDefault': false }],
    [`${BRIDGE_0}.tces`, { [`${BRIDGE_0}.tces`]: words(0) }],
    [`${BRIDGE_0}.tces`, { [`${BRIDGE_0}.tces`]: words(0, 0) }],
    [`${BRIDGE_0}.tces`, { [`${BRIDGE_0}.tces`]: words(0, 2, 0x100003, 0) }],
    [`${BRIDGE_0}.tces`, { [`${BRIDGE_0}.tces`]: words(0, 2 ** 32 - 1, 0x100003, 0) }],
    [`${BRIDGE_0}.tces`, { [`${BRIDGE_0}.tces`]: words(0x40000, 1, 0x100003, 0) }],
    [`${BRIDGE_0}.tces`, { [`${BRIDGE_0}.tces`]: words(4, 1, 0x100003, 0, 4, 1, 0x100003, 0) }],
    [`${BRIDGE_0}.tces`, { [`${BRIDGE_0}.tces`]: words(4, 1, 0, 0) }],
    [`${BRIDGE_0}.tces`, { [`${BRIDGE_0}.tces`]: words(4, 1, 3, 1) }],
    [`${BRIDGE_0}.tces`, { [`${BRIDGE_0}.tces`]: words(0, 65, ...new Array(130).fill(0x1003)) }],
    // The limit is the unit's. With the two TCEs of the other windows, this is one too many.
    ['vio0.tces', { [`${BRIDGE_0}.tces`]: words(0, 63, ...new Array(63).fill([0x1003, 0]).flat()) }],
  ],
};

/** Reads, writes, translates and saves. None of it may throw in a unit with a restored state. */
function exercise(ram: GuestRam, iommu: VIommu): void {
  const bench = new Bench(ram, iommu).plugAll();
  for (const id of DEVICES)
    for (const iova of [0, 0x5000, 0x9000, 0xfee00000, DYNAMIC_WINDOW_START]) {
      bench.translate(id, iova);
      bench.translate(id, iova, true);
    }
  for (let at = 0; at < iommu.registerBytes; at += 8) iommu.readRegister(at, 8);
  for (let at = 0; at < 0x130; at += 4) bench.write(at, 4, iommu.readRegister(at, 4));
  bench.write(0x88, 4, 0x20);
  bench.write(0x50, 4, 0);
  for (const id of DEVICES) iommu.detach(id);
}

/** Returns bytes that were changed in one of a few ways. */
function withGarbage(prng: Prng, bytes: Uint8Array): Uint8Array {
  const choice = prng.below(10);
  if (choice === 0) return bytes.slice(0, prng.below(bytes.length));
  if (choice === 1) return Uint8Array.from({ length: prng.below(200) }, () => prng.below(256));
  if (choice === 2) {
    const flipped = Uint8Array.from(bytes);
    for (let left = 1 + prng.below(3); left > 0; left--)
      (flipped[prng.below(flipped.length)] as number) ^= 1 << prng.below(8);
    return flipped;
  }
  return withFields(bytes, (fields) => {
    const chosen = new Set([prng.below(fields.length), prng.below(fields.length)]);
    return fields.map((field, at) => (chosen.has(at) ? fieldWithGarbage(prng, field) : field));
  });
}

function fieldWithGarbage(prng: Prng, field: StateField): StateField {
  const { name, data, type } = field;
  if (name === 'transport' && prng.below(4) > 0) return { ...field, data: withGarbage(prng, data) };
  const randomBytes = (length: number) => Uint8Array.from({ length }, () => prng.below(256));
  const numbers = (count: number) =>
    new Uint8Array(
      Float64Array.from({ length: count }, () => EDGES[prng.below(EDGES.length)] as number).buffer,
    );
  if (type === 'number') return { ...field, data: numbers(1) };
  if (type === 'numbers' && prng.below(2) === 0) return { ...field, data: numbers(prng.below(12)) };
  if (type === 'bigint' && prng.below(3) > 0) {
    const value = BigInt(prng.next32()) << BigInt(prng.below(40));
    return { ...field, data: Buffer.from(value.toString(16)) };
  }
  if (data.length > 0 && prng.below(2) === 0) {
    const flipped = Uint8Array.from(data);
    (flipped[prng.below(flipped.length)] as number) ^= 1 << prng.below(8);
    return { ...field, data: flipped };
  }
  return { ...field, data: randomBytes(prng.below(2) === 0 ? data.length : prng.below(64)) };
}

describe('invalid vIOMMU state', function () {
  this.timeout(120_000);

  for (const [name, { make, bench }] of Object.entries(CASES)) {
    const ram = smallRam(4 * MIB);
    const state = bench(ram).iommu.save?.() as Uint8Array;
    const restore = (bytes: Uint8Array) => make(ram).restore?.(bytes);
    const rejects = (bytes: Uint8Array, ...blamed: string[]) => {
      const act = () => restore(bytes);
      expect(act).to.throw(StateError).with.property('message').that.includes(blamed.join(' '));
    };
    const { fields, kind, version } = decoded(state);

    it(`is refused with another kind or version: ${name}`, () => {
      rejects(encoded({ ...decoded(state), kind: 'other' }), `accepted: ${kind}`);
      rejects(
        encoded({ ...decoded(state), version: version + 1 }),
        `version ${version + 1}; accepted: ${version} to ${version}`,
      );
      rejects(new Uint8Array(0), `accepted: ${kind}`);
    });

    it(`is refused with any value missing or of another type: ${name}`, () => {
      for (const { name: field, type } of fields) {
        rejects(
          withFields(state, (all) => all.filter((one) => one.name !== field)),
          field,
          'is missing',
        );
        for (const other of TYPES.filter((word) => word !== type))
          rejects(withField(state, { name: field, type: other, data: new Uint8Array(8) }), field);
      }
      if (!fields.some((field) => field.name === 'transport')) return;
      const inner = decoded(fields.find((field) => field.name === 'transport')?.data as Uint8Array);
      for (const { name: field } of inner.fields)
        rejects(
          withTransport(state, (part) => withFields(part, (all) => all.filter((one) => one.name !== field))),
          field,
          'is missing',
        );
    });

    for (const [blamed, values] of REFUSED[name] as NonNullable<(typeof REFUSED)[string]>)
      it(`is refused with changed ${Object.keys(values).join(', ')}, for ${blamed}: ${name}`, () =>
        rejects(withValues(state, values), blamed));

    it(`is refused or makes a working vIOMMU for ${GARBAGE_RUNS} rounds of garbage: ${name}`, () => {
      const prng = new Prng(7);
      let [taken, refused] = [0, 0];
      for (let run = 0; run < GARBAGE_RUNS; run++) {
        const iommu = make(ram);
        try {
          iommu.restore?.(withGarbage(prng, state));
          taken++;
        } catch (error) {
          expect(error, `run ${run}`).to.be.instanceOf(StateError);
          refused++;
          continue;
        }
        exercise(ram, iommu);
      }
      expect(taken + refused).to.equal(GARBAGE_RUNS);
      expect(refused).to.be.greaterThan(50);
      expect(taken).to.be.greaterThan(0);
    });
  }

  it('is refused by another configuration of the same kind', () => {
    const ram = smallRam(4 * MIB);
    const vtdState = vtdBench(ram).iommu.save();
    expect(() => makeVtd(ram, { awBits: 39 }).restore(vtdState)).to.throw(StateError, 'CAP');
    expect(() => makeVtd(ram, { scalable: true }).restore(vtdState)).to.throw(StateError, 'ECAP');
    const virtioState = virtioBench(ram).iommu.save();
    expect(() => makeVirtio(ram, { granule: 8192 }).restore(virtioState)).to.throw(
      StateError,
      'PAGE_SIZE_MASK',
    );
    expect(() => makeVirtio(ram, { mappingLimit: 1 }).restore(virtioState)).to.throw(StateError, 'up to 1');
    expect(() => makeSpapr(ram).restore(virtioState)).to.throw(StateError, 'accepted: spapr-tce');
  });
});
