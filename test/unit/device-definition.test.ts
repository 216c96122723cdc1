/**
 * Identity, memories and state of device definitions and models, and the migration of a user-defined device.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import {
  ConfigSpace,
  type DeviceBehaviour,
  type DeviceDefinition,
  DeviceDefinitionError,
  DeviceHarness,
  DeviceMemory,
  type DeviceModel,
  defineDevice,
  StateError,
} from '../../src/index.ts';

const IDENTITY = {
  vendorId: 1,
  deviceId: 2,
  subsystemVendorId: 3,
  subsystemId: 4,
  revision: 5,
  classCode: 6,
};
const WORD = { name: 'Word', offset: 0, size: 4, rw: 0xffff_ffffn } as const;

const define = (change: object): DeviceDefinition =>
  ({ identity: IDENTITY, bars: {}, create: () => ({}), ...change }) as unknown as DeviceDefinition;

describe('identity of a defined device', () => {
  const wrong: readonly (readonly [object, RegExp])[] = [
    [{ revision: 0x100 }, /identity\.revision is 256; accepted: 0 to 0xff/],
    [{ classCode: undefined }, /identity\.classCode is undefined/],
    [{ command: -1 }, /identity\.command is -1; accepted: 0 to 0xffff/],
    [{ status: 0x1_0000 }, /identity\.status is 65536; accepted: 0 to 0xffff/],
    [{ interruptPin: 5 }, /identity\.interruptPin is 5; accepted: 0 to 0x4/],
    [{ ioBars: [6] }, /identity\.ioBars is 6; accepted: 0 to 0x5/],
    [{ ioBars: 0 }, /identity\.ioBars is 0; accepted: a list of numbers of BARs/],
    [{ prefetchableBars: [0, 'x'] }, /identity\.prefetchableBars is x; accepted: 0 to 0x5/],
    [{ registers: {} }, /identity\.registers is .*; accepted: a list of registers/],
    [{ registers: [{ ...WORD, offset: 0x10 }] }, /offset of 'Word' is 16; accepted: 0x40 to 0xff/],
    [{ registers: [null] }, /offset of 'undefined' is undefined/],
    [
      { capabilities: [{ offset: 0x3c, id: 9, registers: [] }] },
      /capabilities\[0\]\.offset is 60; accepted: 0x40 to 0xfc/,
    ],
    [{ capabilities: [{ offset: 0x42, id: 9, registers: [] }] }, /offset is 0x42; accepted: multiples of 4/],
    [
      { capabilities: [{ offset: 0x40, id: 256, registers: [] }] },
      /capabilities\[0\]\.id is 256; accepted: 0 to 0xff/,
    ],
    [{ capabilities: [{ offset: 0x40, id: 9 }] }, /capabilities\[0\]\.registers is null; accepted: a list/],
    [{ capabilities: [7] }, /capabilities\[0\]\.offset is undefined/],
  ];
  const textOf = (change: object) =>
    JSON.stringify(change, (_, value) => (typeof value === 'bigint' ? Number(value) : value));
  for (const [change, text] of wrong)
    it(`is refused with ${textOf(change)}`, () => {
      const definition = define({ identity: { ...IDENTITY, ...change } });
      expect(() => new DeviceHarness(definition)).to.throw(DeviceDefinitionError, text);
    });

  it('accepts every value that configuration space can hold', () => {
    const bus = new DeviceHarness(
      define({
        identity: {
          ...IDENTITY,
          ioBars: [0],
          prefetchableBars: [1],
          capabilities: [
            { offset: 0x40, id: 9, registers: [{ name: 'Length', offset: 0x42, size: 1, reset: 16n }] },
          ],
          registers: [{ name: 'Own', offset: 0xfc, size: 4, reset: 7n }],
          command: 1,
          status: 0x200,
          interruptPin: 0,
        },
        bars: { 0: { bytes: 16, registers: [] }, 1: { bytes: 0x100_0000, memory: true } },
      }),
    );
    expect([0x10, 0x14, 0x04, 0x40, 0xfc].map((at) => bus.readConfig(at, 4))).to.deep.equal([
      1n,
      8n,
      0x0210_0001n,
      0x0010_5009n,
      7n,
    ]);
  });
});

describe('BARs with memory', () => {
  it('are memory of the device, and may be larger than register BARs', () => {
    let memory: DeviceMemory | undefined;
    const bus = new DeviceHarness(
      define({
        bars: { 0: { bytes: 64, registers: [WORD] }, 2: { bytes: 2 ** 26, memory: true } },
        create: (context: Parameters<DeviceDefinition['create']>[0]) => {
          expect(() => context.memory(0)).to.throw(
            DeviceDefinitionError,
            'BAR0 is not declared in bars with memory',
          );
          expect(() => context.bar(2)).to.throw(
            DeviceDefinitionError,
            'BAR2 is not declared in bars with registers',
          );
          memory = context.memory(2);
          return {};
        },
      }),
    );
    bus.enable();
    bus.write(2, 2 ** 26 - 8, 8, 0x1122n);
    expect([memory!.read(2 ** 26 - 8, 8), memory!.name, memory!.size]).to.deep.equal([
      0x1122n,
      'bar2',
      2 ** 26,
    ]);
  });

  it('are refused when their definition is invalid', () => {
    const wrong = [
      { bytes: 2 ** 29, memory: true },
      { bytes: 4096, memory: true, registers: [] },
      { bytes: 4096 },
    ];
    const text = [
      /accepted: a power of two from 16 to 268435456, with memory/,
      /with memory: true/,
      /with a table/,
    ];
    for (const [index, bar] of wrong.entries())
      expect(() => new DeviceHarness(define({ bars: { 0: bar } }))).to.throw(
        DeviceDefinitionError,
        text[index],
      );
  });
});

describe('check of a new model', () => {
  const model = (changes: object) => (): DeviceModel =>
    ({
      config: new ConfigSpace({ ...IDENTITY, bar0Bytes: 64 }),
      bars: { 0: new DeviceMemory('window', 64) },
      step: () => 'idle',
      dmaUnmap: () => {},
      close: () => {},
      ...changes,
    }) as DeviceModel;
  const state = { version: 1, save: () => ({}), restore: () => {} };

  it('accepts a state and memories', () => {
    const memories = [new DeviceMemory('vram', 4096), new DeviceMemory('rom', 4096)];
    expect(() => new DeviceHarness(model({ state, memories }))).to.not.throw();
    expect(() => new DeviceHarness(model({ state: { ...state, oldest: 1 } }))).to.not.throw();
    const shared = new DeviceMemory('window', 64);
    expect(() => new DeviceHarness(model({ bars: { 0: shared }, memories: [shared] }))).to.not.throw();
  });

  const wrong: readonly (readonly [object, RegExp])[] = [
    [{ state: 5 }, /the model's state is 5; accepted: an object, \{ version, save, restore \}/],
    [{ state: { ...state, version: 0 } }, /version of the model's state is 0; accepted: integers from 1/],
    [{ state: { ...state, oldest: 2 } }, /oldest version of the model's state is 2; accepted: 1 to 1/],
    [{ state: { ...state, save: 1 } }, /the model's state.save is 1; accepted: a function/],
    [{ state: { version: 1, save: () => ({}) } }, /the model's state.restore is undefined/],
    [{ memories: {} }, /the model's memories is .*; accepted: a list of DeviceMemory/],
    [{ memories: [new Uint8Array(4)] }, /one of the model's memories is 0,0,0,0; accepted: a DeviceMemory/],
    [{ memories: [new DeviceMemory('window', 64)] }, /memories is window,window; accepted: all different/],
  ];
  for (const [index, [changes, text]] of wrong.entries())
    it(`refuses an invalid state or memory (${index})`, () => {
      expect(() => new DeviceHarness(model(changes))).to.throw(DeviceDefinitionError, text);
    });
});

describe('migration of a defined device', () => {
  /** A device that counts the writes to its register in its memories. */
  const counter = (stateful = true) => {
    const extra = () => new DeviceMemory('extra', 2 ** 20);
    return defineDevice({
      identity: IDENTITY,
      bars: { 0: { bytes: 64, registers: [WORD] }, 1: { bytes: 4096, memory: true } },
      create(context): DeviceBehaviour {
        const memory = extra();
        let count = 0;
        context.bar(0).onWrite('Word', () => {
          count++;
          memory.write(8 * count, 8, BigInt(count));
          context.memory(1).write(0, 4, BigInt(count));
          context.metrics.set(
            'sum',
            Array.from({ length: count + 1 }, (_, i) => Number(memory.read(8 * i, 8))).reduce(
              (a, b) => a + b,
            ),
          );
        });
        if (!stateful) return {};
        return {
          memories: [memory],
          state: {
            version: 1,
            save: () => ({ count }),
            restore: (saved) => {
              count = saved.integer('count', 1000);
            },
          },
        };
      },
    });
  };

  it('transfers registers, memories and state', () => {
    const [source, target] = [new DeviceHarness(counter()), new DeviceHarness(counter())];
    source.enable();
    for (const value of [5, 6, 7]) source.write(0, 0, 4, value);
    target.restore(source.save());
    expect([target.read(0, 0, 4), target.read(1, 0, 4)]).to.deep.equal([7n, 3n]);
    for (const bus of [source, target]) bus.write(0, 0, 4, 8);
    expect([target.read(1, 0, 4), target.metric('sum'), source.metric('sum')]).to.deep.equal([4n, 10, 10]);
  });

  it('is refused with the model’s name if it has no state, and the device continues', () => {
    const bus = new DeviceHarness(counter(false), { name: 'my-device' });
    expect(() => bus.save()).to.throw("cannot be migrated: the model 'my-device' has no `state`");
    bus.enable();
    bus.write(0, 0, 4, 1);
    expect(bus.read(1, 0, 4)).to.equal(1n);
  });

  it('refuses the state of another model, and accepts a valid state afterwards', () => {
    const [source, target] = [new DeviceHarness(counter()), new DeviceHarness(counter())];
    const valid = source.save();
    expect(() => target.restore(valid.subarray(1))).to.throw(StateError);
    expect(() => target.restore(valid.subarray(0, -1))).to.throw(StateError, 'accepted: header to end');
    target.restore(valid);
    expect(target.run()).to.equal('idle');
  });
});
