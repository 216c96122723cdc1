/**
 * Save and restore of devices at random moments. After any further guest actions, source and target have the same
 * register values, interrupts and memory writes.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import type { BarIndex } from '../../src/device/bar-region.ts';
import type { ModelFactory } from '../../src/device/model.ts';
import { DeviceHarness } from '../../src/device/sdk/harness.ts';
import { BUFFER_BASE, BUFFER_BYTES } from '../../src/models/edu/edu.ts';
import { MODELS } from '../../src/models/index.ts';
import { Mdpy } from '../../src/models/mdpy/mdpy.ts';
import { StateError } from '../../src/proto/state-codec.ts';

const RUNS = 150;
/** The guest RAM that the device can reach. From there to RAM_LIMIT, DMA faults. */
const MAPPED = 0x4000;
const RAM_LIMIT = 0x6000;

type Size = 1 | 2 | 4 | 8;
type Action =
  | { readonly do: 'read'; readonly bar: BarIndex; readonly at: number; readonly size: Size }
  | {
      readonly do: 'write';
      readonly bar: BarIndex;
      readonly at: number;
      readonly size: Size;
      readonly value: bigint;
    }
  | { readonly do: 'config'; readonly at: number; readonly size: 1 | 2 | 4; readonly value: bigint }
  | {
      readonly do: 'block';
      readonly bar: BarIndex;
      readonly at: number;
      readonly length: number;
      readonly byte: number;
    }
  | { readonly do: 'switching'; readonly on: boolean }
  | { readonly do: 'step' }
  | { readonly do: 'advance'; readonly us: number };

/** Does an action, and returns its visible result. */
function act(bus: DeviceHarness, action: Action): unknown {
  switch (action.do) {
    case 'read':
      return bus.read(action.bar, action.at, action.size);
    case 'write':
      return bus.write(action.bar, action.at, action.size, action.value);
    case 'config':
      return bus.writeConfig(action.at, action.size, action.value);
    case 'block':
      bus.writeBlock(action.bar, action.at, new Uint8Array(action.length).fill(action.byte));
      return Buffer.from(bus.readBlock(action.bar, action.at, action.length)).toString('hex');
    case 'switching':
      return bus.switching(action.on);
    case 'step':
      return bus.step();
    case 'advance':
      bus.nowUs += action.us;
      return bus.step();
  }
}

function machine(model: ModelFactory, enabled: boolean): DeviceHarness {
  const bus = new DeviceHarness(model, { map: [{ iova: 0, gpa: 0, size: MAPPED }] });
  if (enabled) bus.enable();
  return bus;
}

const ramOf = (bus: DeviceHarness): Buffer => Buffer.from(bus.ram.read(0, RAM_LIMIT));
const configOf = (bus: DeviceHarness): Buffer => Buffer.from(bus.model.config.bytes());

/** Saves after `before`, restores in a target, and continues with `after` in both. */
function migrate(
  model: ModelFactory,
  enabled: boolean,
  before: readonly Action[],
  after: readonly Action[],
): void {
  const source = machine(model, enabled);
  source.ram.write(0, Buffer.alloc(RAM_LIMIT, 'ram of the guest; '));
  let switching = false;
  for (const action of before) {
    if (action.do === 'switching') switching = action.on;
    act(source, action);
  }
  const target = machine(model, false);
  // The target has its own clock.
  target.nowUs = 1e6;
  target.ram.write(0, ramOf(source));
  target.switching(switching);
  target.restore(source.save());
  source.interrupts.length = 0;
  source.faults.length = 0;
  for (const [index, action] of after.entries()) {
    const [there, here] = [act(source, action), act(target, action)];
    expect(here, `action ${index}: ${action.do}`).to.deep.equal(there);
    expect(target.interrupts, `interrupts up to action ${index}`).to.deep.equal(source.interrupts);
  }
  expect(target.faults).to.deep.equal(source.faults);
  expect(ramOf(target).equals(ramOf(source)), 'guest RAM').to.equal(true);
  expect(configOf(target).equals(configOf(source)), 'configuration space').to.equal(true);
  expect(target.screenshot()).to.deep.equal(source.screenshot());
  expect([source.violations, target.violations]).to.deep.equal([[], []]);
}

const sizes = fc.constantFrom<Size>(1, 2, 4, 8);
const config: fc.Arbitrary<Action> = fc.oneof(
  // Command, MSI, a BAR, the interrupt line.
  fc.record({
    do: fc.constant('config' as const),
    at: fc.constantFrom(0x04, 0x52),
    size: fc.constant(2 as const),
    value: fc.constantFrom(0n, 1n, 3n, 7n),
  }),
  fc.record({
    do: fc.constant('config' as const),
    at: fc.constantFrom(0x10, 0x14, 0x3c, 0x54, 0x58, 0x5c),
    size: fc.constantFrom<1 | 2 | 4>(1, 2, 4),
    value: fc.bigInt({ min: 0n, max: 2n ** 32n - 1n }),
  }),
);
const time: fc.Arbitrary<Action> = fc.oneof(
  fc.constant({ do: 'step' as const }),
  fc.record({ do: fc.constant('advance' as const), us: fc.integer({ min: 0, max: 8 }) }),
);

const write = (at: number, size: Size, value: fc.Arbitrary<bigint>): fc.Arbitrary<Action> =>
  fc.record({
    do: fc.constant('write' as const),
    bar: fc.constant(0 as const),
    at: fc.constant(at),
    size: fc.constant(size),
    value,
  });
const anyAccess = (bars: readonly BarIndex[], bytes: number): fc.Arbitrary<Action> =>
  fc.oneof(
    fc.record({
      do: fc.constant('read' as const),
      bar: fc.constantFrom(...bars),
      at: fc.nat(bytes),
      size: sizes,
    }),
    fc.record({
      do: fc.constant('write' as const),
      bar: fc.constantFrom(...bars),
      at: fc.nat(bytes),
      size: sizes,
      value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    }),
  );

const small = (max: number) => fc.nat(max).map(BigInt);
const inBuffer = small(BUFFER_BYTES).map((at) => BigInt(BUFFER_BASE) + at);
const poke = (at: number, size: Size, value: number): Action => ({
  do: 'write',
  bar: 0,
  at,
  size,
  value: BigInt(value),
});
/** A valid transfer. */
const transfer = fc
  .record({ inside: fc.nat(255), iova: fc.nat(MAPPED - 64), out: fc.boolean(), step: fc.boolean() })
  .map(({ inside, iova, out, step }): readonly Action[] => [
    poke(out ? 0x80 : 0x88, 8, BUFFER_BASE + inside),
    poke(out ? 0x88 : 0x80, 8, iova),
    poke(0x90, 8, 64),
    poke(0x98, 4, out ? 7 : 5),
    ...(step ? [{ do: 'step' as const }] : []),
  ]);
const eduAction: fc.Arbitrary<Action | readonly Action[]> = fc.oneof(
  { weight: 4, arbitrary: transfer },
  { weight: 4, arbitrary: time },
  { weight: 1, arbitrary: config },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('switching' as const), on: fc.boolean() }) },
  { weight: 3, arbitrary: anyAccess([0], 0xa0) },
  { weight: 2, arbitrary: write(0x08, 4, small(40)) },
  { weight: 2, arbitrary: write(0x20, 4, fc.constantFrom(0n, 0x80n)) },
  { weight: 1, arbitrary: write(0x60, 4, small(15)) },
  { weight: 1, arbitrary: write(0x64, 4, small(0x3ff)) },
  { weight: 3, arbitrary: write(0x80, 8, fc.oneof(inBuffer, small(RAM_LIMIT - BUFFER_BYTES))) },
  { weight: 3, arbitrary: write(0x88, 8, fc.oneof(inBuffer, small(RAM_LIMIT - BUFFER_BYTES))) },
  { weight: 2, arbitrary: write(0x90, 8, small(600)) },
  { weight: 4, arbitrary: write(0x98, 4, small(7)) },
);

const uart = (bar: 0 | 1): fc.Arbitrary<Action | readonly Action[]> =>
  fc.oneof(
    fc.record({
      do: fc.constant('write' as const),
      bar: fc.constant(bar),
      at: fc.nat(7),
      size: fc.constant(1 as const),
      value: fc.oneof(small(255), fc.constantFrom(1n, 3n, 7n, 0x80n)),
    }),
    fc.record({ do: fc.constant('read' as const), bar: fc.constant(bar), at: fc.nat(7), size: sizes }),
    // Bytes to receive, which may overrun the buffer.
    fc
      .record({ first: fc.nat(255), length: fc.nat(20), enable: fc.boolean() })
      .map(({ first, length, enable }): readonly Action[] => [
        ...(enable ? [{ do: 'write' as const, bar, at: 2, size: 1 as const, value: 1n }] : []),
        ...Array.from({ length }, (_, i) => ({
          do: 'write' as const,
          bar,
          at: 0,
          size: 1 as const,
          value: BigInt((first + i) % 256),
        })),
      ]),
  );
const mttyAction = fc.oneof(
  { weight: 10, arbitrary: uart(0) },
  { weight: 6, arbitrary: uart(1) },
  { weight: 1, arbitrary: config },
);

const MODE = { width: 200, height: 170 };
const mdpyAction = fc.oneof(
  { weight: 1, arbitrary: config },
  { weight: 4, arbitrary: anyAccess([0], 2 ** 18 - 1) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('block' as const),
      bar: fc.constant(0 as const),
      at: fc.nat(2 ** 18 - 1),
      length: fc.integer({ min: 1, max: 70_000 }),
      byte: fc.constantFrom(0, 1, 255),
    }),
  },
);

/** Lists of single actions and of action sequences. */
const some = (action: fc.Arbitrary<Action | readonly Action[]>, minLength: number) =>
  fc.array(action, { minLength, maxLength: 60 }).map((actions) => actions.flat());

const CASES: readonly (readonly [string, ModelFactory, fc.Arbitrary<Action | readonly Action[]>])[] = [
  ['edu', MODELS.edu!, eduAction],
  ['mtty', MODELS.mtty!, mttyAction],
  ['mdpy', () => new Mdpy(MODE), mdpyAction],
];

describe('restored device', function () {
  this.timeout(120_000);

  for (const [name, model, action] of CASES)
    it(`equals its source: ${name}`, () => {
      fc.assert(
        fc.property(fc.nat(3), some(action, 0), some(action, 20), (quarter, before, after) =>
          migrate(model, quarter > 0, before, after),
        ),
        { numRuns: RUNS },
      );
    });

  it('continues a factorial and a waiting transfer (edu)', () => {
    const [source, target] = [machine(MODELS.edu!, true), machine(MODELS.edu!, false)];
    source.write(0, 0x20, 4, 0x80);
    source.write(0, 0x08, 4, 5);
    source.advance(7);
    source.switching(true);
    target.switching(true);
    source.write(0, 0x80, 8, MAPPED);
    source.write(0, 0x88, 8, BUFFER_BASE);
    source.write(0, 0x90, 8, 64);
    source.write(0, 0x98, 4, 5);
    expect(source.step()).to.equal('stalled');
    target.restore(source.save());
    target.nowUs += 2;
    expect([target.step(), target.read(0, 0x20, 4), target.interrupts]).to.deep.equal(['stalled', 0x81n, []]);
    target.nowUs += 1;
    expect([target.step(), target.read(0, 0x08, 4), target.interrupts]).to.deep.equal(['stalled', 120n, [0]]);
    target.switching(false);
    expect([target.step(), target.read(0, 0x24, 4)]).to.deep.equal(['idle', 0x201n]);
    expect(target.faults).to.deep.equal([{ iova: MAPPED, write: false, denied: false }]);
  });
});

describe('corrupt migration stream', function () {
  this.timeout(120_000);

  for (const [name, model] of CASES)
    it(`is refused with a StateError, or restores a working device: ${name}`, () => {
      const source = machine(model, true);
      if (name === 'edu') source.write(0, 0x08, 4, 5);
      const valid = source.save();
      const tampered = fc.array(
        fc.record({
          back: fc.oneof(fc.nat(100), fc.integer({ min: BUFFER_BYTES, max: 2 ** 20 })),
          byte: fc.nat(255),
        }),
        {
          minLength: 1,
          maxLength: 4,
        },
      );
      let refused = 0;
      const target = machine(model, false);
      fc.assert(
        fc.property(tampered, (changes) => {
          const bytes = Uint8Array.from(valid);
          for (const { back, byte } of changes) bytes[bytes.length - 1 - (back % bytes.length)] = byte;
          try {
            target.restore(bytes);
          } catch (error) {
            expect(error).to.be.instanceOf(StateError);
            refused++;
          }
          target.restore(valid);
          target.advance(20);
        }),
        { numRuns: 300 },
      );
      expect(refused).to.be.greaterThan(30);
    });
});
