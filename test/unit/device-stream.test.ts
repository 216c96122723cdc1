import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Prng } from '#host';
import type { DeviceMemory } from '../../src/device/memory.ts';
import { MigrationState, migrationStateName } from '../../src/device/migration/states.ts';
import { MODEL_STATE_BYTES_MAX } from '../../src/device/migration/stream-writer.ts';
import type { DeviceStateRecord } from '../../src/proto/schema.ts';
import { encodeState, StateError } from '../../src/proto/state-codec.ts';
import {
  drain,
  type Gadget,
  type GadgetRig,
  gadget,
  IDENTITY,
  REGISTERS,
  recordsOf,
  saved,
  streamOf,
  type Variant,
  VRAM_BYTES,
} from '../fixtures/migrating-device.ts';

const { RUNNING, STOP_COPY, PRE_COPY } = MigrationState;
const PAGE = 4096;

const contents = (memory: DeviceMemory): Buffer => {
  const bytes = Buffer.alloc(memory.size);
  memory.readInto(0, bytes);
  return bytes;
};

function expectSame(found: Gadget, expected: Gadget): void {
  expect([...found.registers.entries()].map(({ value }) => value)).to.deep.equal(
    [...expected.registers.entries()].map(({ value }) => value),
  );
  expect(Buffer.from(found.config.bytes()).equals(expected.config.bytes()), 'configuration space').to.equal(
    true,
  );
  expect(found.level).to.equal(expected.level);
  for (const name of ['window', 'vram'] as const)
    expect(contents(found[name]).equals(contents(expected[name])), name).to.equal(true);
}

/** Writes a stream in pieces, whose sizes `next` returns, and lets the device run. */
function restoredFrom(stream: Uint8Array, variant: Variant = {}, next = () => stream.length): GadgetRig {
  const rig = gadget(variant, true);
  for (let at = 0; at < stream.length; ) {
    const length = next();
    rig.device.writeData(stream.subarray(at, at + length));
    at += length;
  }
  rig.device.setMigrationState(RUNNING);
  return rig;
}

/** Returns a device with changes in every kind of state. */
function busyGadget(): GadgetRig {
  const rig = gadget();
  const { model } = rig;
  model.registers.write(0, 4, 0x1234n);
  model.registers.write(8, 8, 0xfedc_ba98_7654_3210n);
  model.registers.write(16, 1, 0xffn);
  model.config.registers.write(4, 2, 6n);
  model.config.registers.write(0x10, 4, 0x8000_0040n);
  model.config.registers.write(0x54, 4, 0xfee0_0000n);
  model.level = 42;
  model.window.store(100, Buffer.alloc(5000, 3));
  model.vram.store(VRAM_BYTES - 1, Uint8Array.of(1));
  return rig;
}

describe('migration stream of a device', function () {
  this.timeout(120_000);

  it('restores an equal device from any split, without register actions', () => {
    const source = busyGadget();
    const stream = saved(source);
    const random = new Prng(5);
    const splits = [() => stream.length, () => 1, () => 1 + random.below(10), () => 1 + random.below(20_000)];
    for (const next of splits) {
      const { model } = restoredFrom(stream, {}, next);
      expectSame(model, source.model);
      expect(model.modeWrites).to.equal(0);
    }
  });

  it('is read in pieces of any size, and reports its end', () => {
    const whole = saved(busyGadget());
    const random = new Prng(6);
    for (const limit of [1, 100, 3 * PAGE]) {
      const source = busyGadget();
      source.device.setMigrationState(STOP_COPY);
      const pieces: Uint8Array[] = [];
      for (let end = false; !end; ) {
        const bytes = 1 + random.below(limit);
        const part = source.device.readData(bytes);
        expect(part.data.length).to.be.within(1, bytes);
        pieces.push(part.data);
        end = part.end;
      }
      expect(Buffer.concat(pieces).equals(whole), `up to ${limit}`).to.equal(true);
      const after = source.device.readData(1000);
      expect([after.data.length, after.end]).to.deep.equal([0, true]);
    }
    const source = busyGadget();
    source.device.setMigrationState(STOP_COPY);
    expect(source.device.readData(0)).to.deep.include({ end: false, initialBytes: 5 * 65536, dirtyBytes: 0 });
  });

  it('follows a running device, and reports the remaining bytes', () => {
    const source = busyGadget();
    const random = new Prng(8);
    const pieces: Uint8Array[] = [];
    const read = (bytes: number) => {
      const part = source.device.readData(bytes);
      pieces.push(part.data);
      return part;
    };
    source.device.setMigrationState(PRE_COPY);
    for (let i = 0; i < 200; i++) {
      const { vram, window, registers } = source.model;
      vram.store(random.below(VRAM_BYTES - 9000), Buffer.alloc(random.below(9000), i));
      vram.clear(random.below(VRAM_BYTES / 2), random.below(200_000));
      window.write(random.below(0x3_fff0), 8, BigInt(i));
      registers.write(0, 4, BigInt(i));
      read(random.below(60_000));
    }
    while (!read(8192).end);
    expect(source.device.readData(8192)).to.deep.equal({
      data: Buffer.alloc(0),
      end: true,
      initialBytes: 0,
      dirtyBytes: 0,
    });
    source.model.window.write(0, 1, 77n);
    expect(source.device.readData(0)).to.deep.include({ end: false, dirtyBytes: PAGE });
    source.model.level = 7;
    source.device.setMigrationState(STOP_COPY);
    pieces.push(drain(source));
    const { model } = restoredFrom(Buffer.concat(pieces));
    expectSame(model, source.model);
    expect([model.level, model.modeWrites]).to.deep.equal([7, 0]);
  });

  it('sends no zeros as data, and clears the initial content of the target', () => {
    const source = gadget();
    source.model.vram.clear();
    source.model.window.store(0, Buffer.alloc(0x4_0000, 1));
    source.model.window.store(0, Buffer.alloc(0x4_0000));
    const stream = saved(source);
    expect(stream.length).to.be.below(2000);
    const { model } = restoredFrom(stream);
    expectSame(model, source.model);
    expect(model.vram.allocatedBytes).to.equal(0);
  });

  it('accepts an older or newer register table, and an older state', () => {
    const newer = [...REGISTERS, { name: 'New', offset: 24, size: 4, reset: 5n }] as const;
    const { model } = restoredFrom(saved(busyGadget()), { registers: newer });
    expect([model.registers.get('Wide'), model.registers.get('New')]).to.deep.equal([
      0xfedc_ba98_7654_3210n,
      5n,
    ]);
    expect(() => restoredFrom(saved(gadget({ registers: newer })))).to.throw(
      StateError,
      'register bar0.New is unknown',
    );
    const oldGadget = () => gadget({ state: { version: 1 } });
    expect(() => restoredFrom(saved(oldGadget()))).to.throw(
      StateError,
      "its model's has version 1; accepted: 2 to 2",
    );
    expect(restoredFrom(saved(oldGadget()), { state: { oldest: 1 } }).model.level).to.equal(0);
    const next = gadget({ state: { version: 3 } });
    expect(() => restoredFrom(saved(next))).to.throw(
      StateError,
      "its model's has version 3; accepted: 2 to 2",
    );
  });

  it('limits the state of a model', () => {
    const state = { save: () => ({ level: new Uint8Array(MODEL_STATE_BYTES_MAX) }) };
    expect(() => saved(gadget({ state }))).to.throw(StateError, /has \d+ bytes; accepted: up to 16777216/);
  });

  it('reports an exception of a model, with the model’s name', () => {
    const state = {
      restore: () => {
        throw new RangeError('too late');
      },
    };
    expect(() => restoredFrom(saved(gadget()), { state })).to.throw(
      StateError,
      'state of 1234:9999 cannot be restored: RangeError: too late',
    );
  });
});

describe('invalid migration stream', function () {
  this.timeout(120_000);

  const valid = recordsOf(saved(busyGadget()));
  const kindAt = (kind: keyof DeviceStateRecord) => valid.findIndex((record) => record[kind] !== undefined);
  const at = (kind: keyof DeviceStateRecord, record: DeviceStateRecord) => valid.with(kindAt(kind), record);
  const without = (kind: keyof DeviceStateRecord) => valid.filter((record) => record[kind] === undefined);
  const { header, memory } = { header: valid[0]!.header!, memory: valid[1]!.memory! };
  const registers = valid[kindAt('registers')]!.registers!;
  const pages = (changed: Partial<typeof memory>) => at('memory', { memory: { ...memory, ...changed } });
  const register = (file: string, name: string, low: number, high = 0) =>
    at('registers', { registers: { file, values: [{ name, low, high }] } });
  const state = (kind: string, values = {}) =>
    at('model', { model: { state: encodeState(kind, 2, { level: 3, ...values }) } });
  const none = new Uint8Array();

  const REFUSED: readonly (readonly [string, readonly DeviceStateRecord[], RegExp])[] = [
    ['without a header', without('header'), /memory after nothing/],
    ['with two headers', [valid[0]!, ...valid], /header after header/],
    ['of another format', at('header', { header: { ...header, version: 9 } }), /version 9; accepted: 1/],
    [
      'of another device',
      at('header', { header: { ...header, deviceId: 5 } }),
      /1234:0005 .*accepted: 1234:9999/,
    ],
    ['of another card', at('header', { header: { ...header, subsystemId: 5 } }), /\(1af4:0005\)/],
    [
      'of a model without state',
      at('header', { header: { ...header, modelVersion: 0 } }),
      /version 0; accepted/,
    ],
    ['with an unknown memory', pages({ memory: 'rom' }), /memory 'rom'; accepted: vram,window/],
    ['with pages outside', pages({ offset: VRAM_BYTES }), /within 2097152 bytes/],
    [
      'with pages across the end',
      pages({ offset: VRAM_BYTES - PAGE, data: none, zeroBytes: 8192 }),
      /within/,
    ],
    ['with half a page', pages({ data: new Uint8Array(100) }), /100 bytes and 0 zeros/],
    ['with misaligned pages', pages({ offset: 100 }), /at 100/],
    ['with pages of an unknown memory', pages({ offset: 2 ** 60 }), /memory 'vram'/],
    ['with pages and zeros', pages({ zeroBytes: PAGE }), /4096 zeros/],
    ['with no pages', pages({ data: none }), /0 bytes and 0 zeros/],
    [
      'with registers of an unknown file',
      register('bar5', 'Mode', 1),
      /registers 'bar5'; accepted: config,bar0/,
    ],
    ['with registers of a memory', register('bar1', 'Mode', 1), /registers 'bar1'/],
    ['with an unknown register', register('bar0', 'Moon', 1), /bar0.Moon is unknown/],
    ['with a register too wide', register('bar0', 'Byte', 0x100), /bar0.Byte is 0x100; accepted: 1 bytes/],
    ['with a register far too wide', register('bar0', 'Mode', 0, 1), /bar0.Mode is 0x100000000/],
    ['with another class', register('config', 'BaseClass', 1), /config.BaseClass is 0x1, in bits/],
    ['with a misaligned BAR', register('config', 'Bar1', 0x8000_1000), /config.Bar1/],
    [
      'with a register twice',
      at('registers', { registers: { ...registers, values: [registers.values[0]!, registers.values[0]!] } }),
      /comes twice/,
    ],
    [
      'with pages after registers',
      [...valid.slice(0, -2), valid[1]!, ...valid.slice(-2)],
      /memory after registers/,
    ],
    [
      'with registers after the state',
      [...valid.slice(0, -1), { registers }, valid.at(-1)!],
      /registers after model/,
    ],
    ['without the state', without('model'), /end after registers/],
    ['with another state', state('1234:0000'), /state of '1234:0000'/],
    [
      'with a state out of range',
      state('1234:9999', { level: 101 }),
      /level is 101; accepted: integers from 0 to 100/,
    ],
    [
      'with garbage as state',
      at('model', { model: { state: Uint8Array.of(0x0a, 0xff) } }),
      /state of 1234:9999/,
    ],
    ['without an end', without('end'), /ends after model; accepted: header to end/],
    ['with nothing', [], /ends after nothing/],
    ['with an empty message', at('memory', { memory, end: {} }), /a record of memory and end/],
    ['with bytes after its end', [...valid, valid[1]!], /bytes after its end/],
  ];
  for (const [what, records, message] of REFUSED)
    it(`is refused ${what}, and leaves the device in ERROR`, () => {
      const rig = gadget({}, true);
      const attempt = () => {
        rig.device.writeData(streamOf(records));
        rig.device.setMigrationState(RUNNING);
      };
      expect(attempt).to.throw(StateError, message);
      expect(migrationStateName(rig.device.migrationState)).to.equal('ERROR');
      expect(rig.model.modeWrites).to.equal(0);
    });

  it('is not the original of these records', () => {
    expectSame(restoredFrom(streamOf(valid)).model, busyGadget().model);
    expect(valid[0]!.header).to.include({ vendorId: IDENTITY.vendorId, modelVersion: 2 });
    expect(recordsOf(streamOf(at('model', { model: { state: none } })))).to.have.length(valid.length);
  });

  it('is refused when it announces records of an invalid length', () => {
    const refused = [[0], [0x80, 0x80, 0x80, 0x80, 0x80, 0x01], [0xff, 0xff, 0xff, 0xff, 0x0f], [0x80, 0x00]];
    for (const bytes of refused) {
      const rig = gadget({}, true);
      expect(() => rig.device.writeData(Uint8Array.from(bytes))).to.throw(
        StateError,
        'accepted: 1 to 16777280',
      );
    }
  });

  it('ends with a StateError or a running device, for any bytes', () => {
    const random = new Prng(99);
    const stream = streamOf(valid);
    let refused = 0;
    for (let i = 0; i < 2000; i++) {
      const bytes = Buffer.from(
        stream.subarray(0, random.below(4) === 0 ? random.below(stream.length) : undefined),
      );
      for (let flips = random.below(4); flips >= 0; flips--)
        if (bytes.length > 0) {
          // Most of a stream is page data, where every value is valid.
          const place =
            random.below(2) === 0
              ? bytes.length - 1 - random.below(Math.min(2000, bytes.length))
              : random.below(Math.min(60, bytes.length));
          bytes[place] = random.below(256);
        }
      try {
        restoredFrom(bytes, {}, () => 1 + random.below(5000));
      } catch (error) {
        expect(error, `seed 99, round ${i}`).to.be.instanceOf(StateError);
        refused++;
      }
    }
    expect(refused).to.be.within(1000, 2000);
  });
});
