import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { LOG_LINE_LIMIT, LOG_LINES_LIMIT, UNIMPLEMENTED_ROWS_LIMIT } from '../../src/device/instance.ts';
import { METRICS_LIMIT } from '../../src/device/metrics.ts';
import { SPIN_READS, SPIN_TIME_US, SPINS_LIMIT, SpinDetector } from '../../src/device/spin-detector.ts';
import { TIMER_DELAY_LIMIT_US, TIMERS_LIMIT, TimerQueue } from '../../src/device/timers.ts';
import {
  ConfigSpace,
  type DeviceDefinition,
  DeviceDefinitionError,
  DeviceHarness,
  type DeviceModel,
} from '../../src/index.ts';
import { burndownLines, sumReports } from '../../src/report/device-report.ts';
import { runScenario } from '../../src/scenario/run.ts';
import { parseSettings, ScenarioError } from '../../src/scenario/scenario.ts';
import { resolveModel } from '../../src/scenario/try-model.ts';
import { buildDevice as build } from '../fixtures/built-device.ts';

const GOLDEN = new URL('../data/register-burndown.txt', import.meta.url);

describe('defined device', () => {
  it('has the BARs and vectors of its definition, with sizes that software can read', () => {
    const { bus } = build(undefined, 4);
    for (const [offset, mask] of [
      [0x10, 0xffff_ffc0n],
      [0x14, 0n],
      [0x18, 0xffff_f000n],
    ] as const) {
      bus.writeConfig(offset, 4, 0xffff_ffffn);
      expect(bus.readConfig(offset, 4)).to.equal(mask);
    }
    bus.write(2, 8, 4, 7);
    expect([bus.read(2, 8, 4), bus.read(0, 0, 4), bus.read(1, 0, 4)]).to.deep.equal([7n, 1n, 0xffff_ffffn]);
    expect(bus.readConfig(0x52, 2), 'four vectors, all enabled').to.equal(0x80n | 0x25n);
  });

  it('shares vectors when software enables fewer, and raises none while MSI is disabled', () => {
    const { bus, context } = build(undefined, 4);
    context.interrupt(3);
    bus.writeConfig(0x52, 2, 0x11n);
    context.interrupt(3);
    bus.writeConfig(0x52, 2, 0n);
    context.interrupt(3);
    expect(bus.interrupts).to.deep.equal([3, 1]);
  });

  const wrong: Record<string, [change: object, text: RegExp]> = {
    'a vendor ID of 17 bits': [
      { identity: { vendorId: 0x10000 } },
      /identity\.vendorId is 65536; accepted: 0 to 0xffff/,
    ],
    'three vectors': [{ vectors: 3 }, /vectors is 3; accepted: 1, 2, 4, 8, 16, 32/],
    'a seventh BAR': [{ bars: { 6: { bytes: 16, registers: [] } } }, /bars has 6; accepted: 0 to 5/],
    'a BAR of 24 bytes': [
      { bars: { 0: { bytes: 24, registers: [] } } },
      /24 bytes; accepted: a power of two from 16/,
    ],
    'a BAR of 8 bytes': [
      { bars: { 0: { bytes: 8, registers: [] } } },
      /8 bytes; accepted: a power of two from 16/,
    ],
    'a BAR of NaN bytes': [{ bars: { 0: { bytes: Number.NaN, registers: [] } } }, /NaN bytes/],
    'no create': [{ create: undefined }, /exports no device model by default; accepted: defineDevice/],
    'a create without an answer': [
      { create: () => undefined },
      /create\(\) returns undefined; accepted: an object/,
    ],
  };
  for (const [what, [change, text]] of Object.entries(wrong))
    it(`is refused for ${what}`, () => {
      const identity = {
        vendorId: 1,
        deviceId: 2,
        subsystemVendorId: 3,
        subsystemId: 4,
        revision: 5,
        classCode: 6,
      };
      const definition = { identity, bars: {}, create: () => ({}), ...change } as unknown as DeviceDefinition;
      expect(() => new DeviceHarness(definition)).to.throw(DeviceDefinitionError, text);
    });
});

describe('model without a definition', () => {
  const IDENTITY = {
    vendorId: 1,
    deviceId: 2,
    subsystemVendorId: 3,
    subsystemId: 4,
    revision: 5,
    classCode: 6,
  };
  /** A model with 64 KiB of its own memory behind BAR 2. */
  const aperture = (changes: object = {}): DeviceModel => {
    const memory = new DataView(new ArrayBuffer(0x1_0000));
    return {
      config: new ConfigSpace({ ...IDENTITY, bar0Bytes: 0, barBytes: { 2: 0x1_0000 } }),
      bars: {
        2: {
          size: memory.byteLength,
          read: (offset) => BigInt(memory.getUint32(offset, true)),
          write: (offset, _size, value) => memory.setUint32(offset, Number(value), true),
        },
      },
      counters: { accesses: 2.5 },
      step: () => 'idle',
      dmaUnmap: () => {},
      close: () => {},
      ...changes,
    };
  };

  it('serves accesses to its own memory', () => {
    const bus = new DeviceHarness(() => aperture());
    bus.enable();
    bus.write(2, 0xfffc, 4, 0x1234);
    expect([bus.read(2, 0xfffc, 4), bus.read(2, 0xfffd, 4)]).to.deep.equal([0x1234n, 0xffff_ffffn]);
    expect(bus.report().unimplemented).to.deep.equal([{ bar: 2, offset: 0xfffd, write: false, count: 1 }]);
    expect(bus.metric('accesses')).to.equal(2);
  });

  it('receives no access that no bus can make', () => {
    const bus = new DeviceHarness(() => aperture());
    bus.enable();
    for (const [offset, size] of [
      [-4, 4],
      [0, 3],
      [0, 0x7fff_ffff],
      [Number.NaN, 4],
    ] as const) {
      expect(bus.read(2, offset, size as 4)).to.equal(0xffff_ffff_ffff_ffffn);
      bus.write(2, offset, size as 4, 1);
    }
  });

  it('is reported for counters with invalid values', () => {
    const bus = new DeviceHarness(() => aperture({ counters: { lost: Number.NaN, owed: -1, kept: 3 } }));
    expect(bus.report().metrics).to.deep.equal([{ name: 'kept', value: 3 }]);
    expect(bus.violations).to.deep.equal([
      "bad-answer: counter 'lost' is NaN; accepted: 0 to 2^53 - 1",
      "bad-answer: counter 'owed' is -1; accepted: 0 to 2^53 - 1",
    ]);
  });

  const wrong: Record<string, [model: unknown, text: RegExp]> = {
    nothing: [undefined, /the model is undefined; accepted: an object/],
    'no configuration space': [
      aperture({ config: {} }),
      /config is \[object Object\]; accepted: a ConfigSpace/,
    ],
    'no bars': [aperture({ bars: 5 }), /bars is 5; accepted/],
    'a region of NaN bytes': [
      aperture({ bars: { 0: { size: Number.NaN } } }),
      /BAR0 is a region of NaN bytes/,
    ],
    'no step': [aperture({ step: 'idle' }), /step is idle; accepted: a function/],
  };
  for (const [what, [model, text]] of Object.entries(wrong))
    it(`is refused for ${what}`, () => {
      expect(() => new DeviceHarness(() => model as DeviceModel)).to.throw(DeviceDefinitionError, text);
    });
});

describe('timers, metrics and log lines', () => {
  it('run in order on the injected clock, and can be cancelled', () => {
    const ran: string[] = [];
    const { bus, context } = build();
    context.timers.after(20, () => ran.push('second'));
    context.timers.after(10, () => {
      ran.push('first');
      cancel();
    });
    const cancel = context.timers.after(15, () => ran.push('cancelled'));
    bus.advance(9);
    expect(ran).to.deep.equal([]);
    bus.advance(11);
    expect(ran).to.deep.equal(['first', 'second']);
  });

  it('have limits', () => {
    const queue = new TimerQueue(() => 0);
    for (let i = 0; i < TIMERS_LIMIT; i++) queue.after(TIMER_DELAY_LIMIT_US, () => {});
    expect(() => queue.after(1, () => {})).to.throw(RangeError, /more than 256 timers/);
    for (const delay of [-1, Number.NaN, TIMER_DELAY_LIMIT_US + 1])
      expect(() => new TimerQueue(() => 0).after(delay, () => {})).to.throw(RangeError, /accepted: 0 to/);
    const { bus, context } = build();
    for (let i = 0; i < METRICS_LIMIT; i++) context.metrics.add(`metric ${i}`);
    expect(() => context.metrics.add('one more')).to.throw(RangeError, /exceeds the 64 metrics/);
    expect(() => context.metrics.set('metric 0', -1)).to.throw(RangeError, /accepted: 0 to 2\^53 - 1/);
    for (let i = 0; i < LOG_LINES_LIMIT + 5; i++) context.log('x'.repeat(LOG_LINE_LIMIT + 1));
    bus.close();
    expect(bus.logged).to.have.length(LOG_LINES_LIMIT + 1);
    expect([bus.logged[0]?.length, bus.logged.at(-1)]).to.deep.equal([LOG_LINE_LIMIT, 'and 5 more lines']);
  });
});

describe('register burndown', () => {
  it('lists registers that guests use and a model lacks, as in the golden file', () => {
    const { bus } = build();
    for (let i = 0; i < 1200; i++) bus.read(0, 0x10, 4);
    for (let offset = 0x100; offset < 0x130; offset += 4) bus.write(2, offset, 4, 1);
    for (const offset of [0x10, 0x14, 0x800]) bus.write(0, offset, 4, 1);
    bus.read(5, 0x20, 4);
    for (let i = 0; i < 3; i++) bus.read(3, 0, 4);
    const report = { ...bus.report(), faultsDropped: 0, stalls: 0, interrupts: 0 };
    const text = `${burndownLines(sumReports([report, report])).join('\n')}\n`;
    expect(text).to.equal(readFileSync(GOLDEN, 'utf8'));
    expect(burndownLines(sumReports([]))).to.deep.equal([]);
  });

  it('lists a bounded number of registers', () => {
    const { bus } = build();
    for (let offset = 0x100; offset < 0x1000; offset += 4) bus.read(2, offset, 4);
    for (let bar = 3; bar <= 5; bar++)
      for (let offset = 0; offset < 0x1000; offset += 4) bus.read(bar as 3, offset, 4);
    const { unimplemented, unimplementedOthers } = bus.report();
    expect(unimplemented).to.have.length(UNIMPLEMENTED_ROWS_LIMIT);
    expect(unimplementedOthers).to.equal(0xf00 / 4 + (3 * 0x1000) / 4 - UNIMPLEMENTED_ROWS_LIMIT);
  });
});

describe('spin detector for a guest', () => {
  const poll = (bus: DeviceHarness, reads: number, tookUs: number, between = () => {}) => {
    for (let i = 0; i < reads; i++) {
      bus.read(0, 0, 4);
      bus.nowUs += tookUs / reads;
      between();
    }
  };

  it('reports once a spin on a bit that cannot change', () => {
    const { bus } = build();
    poll(bus, 2 * SPIN_READS, 4 * SPIN_TIME_US, () => bus.step());
    expect(bus.logged).to.have.length(1);
    expect(bus.logged[0]).to.match(
      /^the guest spins on BAR0\+0x0 \(Status\): read 2000 times in 1\.0 s, always 0x1;/,
    );
  });

  it('accepts polling of a device that works, has a timer, or is written to', () => {
    const working = build(() => ({ step: () => 'more' })).bus;
    poll(working, 2 * SPIN_READS, 4 * SPIN_TIME_US, () => working.step());
    const timed = build();
    timed.context.timers.after(TIMER_DELAY_LIMIT_US, () => {});
    poll(timed.bus, 2 * SPIN_READS, 4 * SPIN_TIME_US);
    const written = build().bus;
    poll(written, 2 * SPIN_READS, 4 * SPIN_TIME_US, () => written.write(2, 8, 4, 0));
    const quick = build().bus;
    poll(quick, SPIN_READS, SPIN_TIME_US / 2);
    for (const bus of [working, timed.bus, written, quick]) expect(bus.logged).to.deep.equal([]);
  });

  it('reports a bounded number of registers', () => {
    let now = 0;
    const watch = new SpinDetector(() => now);
    let named = 0;
    for (let offset = 0; offset < 2 * SPINS_LIMIT; offset++)
      for (let read = 0; read < SPIN_READS; read++) {
        now += SPIN_TIME_US;
        if (watch.read(0, offset, 0n, undefined) !== undefined) named++;
      }
    expect(named).to.equal(SPINS_LIMIT);
  });
});

describe('model file', () => {
  const file = (name: string) => `test/fixtures/models/${name}.ts`;
  const refused: Record<string, [model: string, why: RegExp]> = {
    'is missing': ['./no-such-model.ts', /no such file; accepted: a file that exports a device model/],
    'is a folder': ['./test', /not a file; accepted: a file that exports a device model/],
    'never finishes loading': [file('never-loads'), /did not load within \d+ ms/],
    'awaits without end': [file('never-settles'), /its top-level await never completes/],
    'has no default export': [
      file('no-export'),
      /exports no device model by default; accepted: defineDevice/,
    ],
    'has registers that overlap': [file('overlaps'), /RegisterTableError: register Second overlaps First/],
    'has no known name': [
      'nothing',
      /no such device model; nearest: \w+; accepted: vgpu, .*edu.*, or the path of a file/,
    ],
  };

  it('has none of the faults that can be injected into the vgpu', async () => {
    const refusal = await runScenario({
      path: 'scenarios/edu-device.ts',
      settings: parseSettings({ name: 'x', model: 'edu' }),
      processes: 1,
      seed: 1,
      inject: 'never-unpin',
      trace: '',
      artifacts: '',
      sysfs: '',
      program: '',
      commandFor: () => '',
      wantsBlob: false,
      wantsIterations: false,
      onSysfs: () => {},
      onSysfsWrite: () => {},
      onSysfsLost: () => {},
      onProgress: () => {},
      onStart: () => {},
    }).catch((error: Error) => error);
    expect(String(refusal)).to.match(/never-unpin is a fault of 'vgpu'; the model of this run is edu/);
  });

  it('is refused with its name and the accepted values', async () => {
    await Promise.all(
      Object.entries(refused).map(async ([what, [model, why]]) => {
        const limitMs = model.includes('never-loads') ? 100 : 10_000;
        const refusal = await resolveModel(model, limitMs).catch((error: Error) => error);
        expect(refusal, what).to.be.instanceOf(ScenarioError);
        expect((refusal as Error).message, what).to.match(why);
        expect((refusal as Error).message, what).to.include(`model ${model}: `);
      }),
    );
  });
});
