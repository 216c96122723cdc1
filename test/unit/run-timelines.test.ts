import { expect } from 'chai';
import { describe, it } from 'mocha';
import { nowUs, wallMs } from '#host';
import { ActivityGrid } from '../../src/metrics/activity-grid.ts';
import { Metrics } from '../../src/metrics/metrics.ts';
import { RunTimelines } from '../../src/scenario/run-timelines.ts';

const samples = (count: number, us: number) => ({ count, sum: count * us, max: us });

const sum = (values: readonly (number | null)[] = []): number =>
  values.reduce<number>((total, value) => total + (value ?? 0), 0);

describe('activity of vGPUs over time', () => {
  it('has the commands of each bucket, and null where there were none', () => {
    const grid = new ActivityGrid(2, 0.25);
    grid.addCommands(0, 0, samples(2, 100));
    grid.addCommands(0, 0.3, samples(1, 50));
    grid.addCommands(0, 0.4, samples(1, 250));
    grid.addCommands(0, 1, samples(4, 10));
    grid.addCommands(2, 1, samples(4, 10));
    expect(grid.activity(0)).to.deep.equal({
      seconds: 0.25,
      commands: [2, 2, null, null, 4],
      avgUs: [100, 150, null, null, 10],
      maxUs: [100, 250, null, null, 10],
      engine: [null, null, null, null, null],
    });
    grid.addEngineUse(0, 0.5, { count: 1, sum: 0.25, max: 0.25 });
    grid.addEngineUse(0, 0.5, { count: 1, sum: 0.75, max: 0.75 });
    expect(grid.activity(0)?.engine).to.deep.equal([null, null, 0.5, null, null]);
    expect(grid.activity(1), 'no command').to.equal(undefined);
    expect(grid.activity(2), 'a vGPU that the run does not have').to.equal(undefined);
  });

  it('pairs the buckets of all vGPUs when a run outgrows them, and loses nothing', () => {
    const grid = new ActivityGrid(2, 1);
    grid.addCommands(1, 5, samples(7, 3));
    for (let second = 0; second < 1000; second++) grid.addCommands(0, second, samples(1, second));
    const [first, other] = [grid.activity(0), grid.activity(1)];
    expect(first?.seconds).to.equal(16);
    expect(first?.commands).to.have.length(Math.ceil(1000 / 16));
    expect(sum(first?.commands)).to.equal(1000);
    expect(first?.maxUs.at(0)).to.equal(15);
    expect(other?.seconds).to.equal(16);
    expect(other?.commands[0]).to.equal(7);
    expect(other?.commands).to.have.length(first?.commands.length ?? 0);
  });

  it('has fewer buckets for many vGPUs', () => {
    const grid = new ActivityGrid(1024, 1);
    for (let second = 0; second < 64; second++) grid.addCommands(1023, second, samples(1, 1));
    expect(grid.activity(1023)?.seconds).to.equal(1);
    grid.addCommands(1023, 64, samples(1, 1));
    expect(grid.activity(1023)?.seconds).to.equal(2);
  });
});

describe('timelines of a run', () => {
  const segment = { us: 100, gpaUs: 100, gpaBytes: 4096, iovaUs: 0, iovaBytes: 0, switches: 0 };

  it('keeps the vGPUs of VMs of different sizes apart, in order', () => {
    const timelines = new RunTimelines([1, 3, 0, 2], 'gpu', 1);
    const guest = new Metrics({ vgpu: '1' });
    guest.trend('command_latency').add(40);
    guest.trend('map_latency').add(90);
    guest.gauge('gpu_busy').add(0.125);
    timelines.metrics(3, 2, guest.take());
    timelines.addressSpaces(1, {
      devices: [{ device: 2, segments: [{ ...segment, startUs: 5 }], switches: [] }],
    });
    for (const device of [3, -1])
      timelines.addressSpaces(1, {
        devices: [{ device, segments: [{ ...segment, startUs: 5 }], switches: [] }],
      });
    const all = timelines.list(nowUs());
    expect(all.map(({ name }) => name)).to.deep.equal([
      'vm0/gpu0',
      'vm1/gpu0',
      'vm1/gpu1',
      'vm1/gpu2',
      'vm3/gpu0',
      'vm3/gpu1',
    ]);
    expect(all.map(({ activity }) => activity?.commands ?? null)).to.deep.equal([
      null,
      null,
      null,
      null,
      null,
      [null, null, 1],
    ]);
    expect(all.at(-1)?.activity?.engine).to.deep.equal([null, null, 0.125]);
    expect(all.map(({ addressSpace }) => addressSpace.segments.length)).to.deep.equal([0, 0, 0, 1, 0, 0]);
  });

  it('returns times on the clock of the run', () => {
    const timelines = new RunTimelines([1], 'dev', 1);
    const startUs = nowUs();
    const wallUs = wallMs() * 1000;
    timelines.addressSpaces(0, {
      devices: [{ device: 0, segments: [{ ...segment, startUs: wallUs - 500 }], switches: [] }],
    });
    const [{ addressSpace } = { addressSpace: undefined }] = timelines.list(startUs);
    // The two clocks are read one after the other.
    expect(addressSpace?.segments[0]?.startUs).to.be.closeTo(-500, 5000);
  });
});
