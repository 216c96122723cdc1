/**
 * Runs with declared load: data files, thresholds and exit codes, open load on a system that stalls.
 */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { RunSummary } from '../../src/report/summary.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { mdevsim, runScenario } from './run-command.ts';

const data = (name: string): string => `test/fixtures/scenarios/${name}.yaml`;
const script = (name: string): string => `test/fixtures/scenarios/${name}.ts`;

function metric({ load }: RunSummary, name: string, stage?: string): Readonly<Record<string, number>> {
  const found = load.metrics.find((each) => each.name === name && each.tags.stage === stage);
  expect(found, `${name} of ${stage}`).to.not.equal(undefined);
  return found?.values ?? {};
}

/** Thresholds as `metric condition` → whether it was met. */
const verdicts = ({ load }: RunSummary): Readonly<Record<string, boolean>> =>
  Object.fromEntries(load.thresholds.map(({ metric: name, condition, ok }) => [`${name} ${condition}`, ok]));

describe('declared load', function () {
  this.timeout(180_000);
  const folder = temporaryFolder();

  it('of a file of ten lines: every iteration runs and is verified', async () => {
    const { code, summary } = await runScenario(data('ten-lines'), '--processes', '2');
    expect(summary.problems).to.deep.equal([]);
    expect(verdicts(summary)).to.deep.equal({
      'checks rate==1': true,
      'iterations{stage:mixed} count==80': true,
      'iterations{stage:churn} count==30': true,
    });
    expect(code).to.equal(0);
    expect(metric(summary, 'map_latency', 'churn').count).to.equal(30);
    expect(metric(summary, 'boot_time').count).to.equal(2);
    expect(summary.bytesVerified).to.be.above(0);
  });

  it('repeats the iterations of each VU with the same seed, whatever the division', async () => {
    const counts = async (...args: string[]) => {
      const { summary } = await runScenario(data('seeded-mix'), ...args);
      return summary.load.thresholds.map(({ metric: name, observed }) => [name, observed]);
    };
    const first = await counts('--seed', '7');
    expect(first.reduce((sum, [, count]) => sum + Number(count), 0)).to.equal(160);
    expect(await counts('--seed', '7', '--processes', '2')).to.deep.equal(first);
    expect(await counts('--seed', '8')).to.not.deep.equal(first);
  });

  it('a threshold that is not met: exit code 99, and a line for it', async () => {
    const { code, stdout } = await mdevsim('run', data('slow-threshold'));
    expect(code).to.equal(99);
    expect(stdout).to.match(/^THRESHOLDS NOT MET {2}slow-threshold/);
    expect(stdout).to.match(/✗ command_latency\{stage:short\} +p\(99\)<1us +[\d.]+(us|ms|s)\n/);
    expect(stdout).to.match(/✗ command_latency\{op:checksum\} +max<1h +no samples with these tags\n/);
    expect(stdout).to.match(/✓ command_latency\{stage:short\} +count>0 +20\n/);
  });

  it('a wrong byte counts more than a threshold', async () => {
    const { code, summary } = await runScenario(data('slow-threshold'), '--inject', 'worker-crash');
    expect(summary.devicesFailed).to.equal(1);
    expect(code).to.equal(1);
  });

  it('abortOnFail ends the run early', async () => {
    const { code, summary } = await runScenario(data('abort-on-fail'));
    expect(code).to.equal(99);
    expect(summary.load.abortedBy).to.equal('command_latency max<1us');
    expect(summary.load.seconds).to.be.below(300);
  });

  it('abortOnFail ends the other VMs, if one has ended before', async () => {
    const { code, summary } = await runScenario(data('abort-after-end'));
    expect(summary.problems).to.deep.equal([]);
    expect([summary.load.abortedBy, code]).to.deep.equal(['command_latency max<1us', 99]);
    expect(summary.load.seconds).to.be.below(300);
  });

  it('a rate that was missed fails, without a threshold in the file', async () => {
    const { code, summary } = await runScenario(data('missed-rate'));
    expect(code).to.equal(99);
    expect(verdicts(summary)).to.deep.equal({ 'dropped_iterations{stage:missed} count==0': false });
    const started = metric(summary, 'iterations', 'missed').count ?? 0;
    expect(started + (metric(summary, 'dropped_iterations', 'missed').count ?? 0)).to.equal(2000);
  });

  it('open load shows a stall that closed load hides', async () => {
    const { code, summary } = await runScenario(script('stall'));
    expect(verdicts(summary)).to.include({
      'iteration_duration{stage:open} p(99)<500ms': false,
      'command_latency{stage:open} max>900ms': true,
      'iteration_duration{stage:closed} p(99)<500ms': true,
      'iteration_duration{stage:closed} max>900ms': true,
      'stalls{where:cpu} count==1': true,
    });
    expect(code).to.equal(99);
    const open = metric(summary, 'iteration_duration', 'open');
    const closed = metric(summary, 'iteration_duration', 'closed');
    expect(open.p99).to.be.above(700_000);
    expect(closed.p99).to.be.below((open.p99 ?? 0) / 2);
  });

  it('devices are sampled each second', async () => {
    const { code, summary } = await runScenario(data('samples'));
    expect(summary.problems).to.deep.equal([]);
    for (const [threshold, ok] of Object.entries(verdicts(summary))) expect(ok, threshold).to.equal(true);
    expect(code).to.equal(0);
    for (const name of [
      'gpu_busy',
      'gpu_fairness',
      'gpu_wait',
      'iotlb_hits',
      'mapped_pages',
      'pinned_pages',
    ]) {
      const found = summary.load.metrics.find((each) => each.name === name && each.tags.group === undefined);
      const seconds = found?.series.count.filter((count) => count !== null).length;
      expect(seconds, `seconds with samples of ${name}`).to.be.at.least(3);
    }
  });

  it('address spaces are switched under load', async () => {
    const { summary } = await runScenario(data('switches-under-load'));
    expect(summary.problems).to.deep.equal([]);
    for (const [threshold, ok] of Object.entries(verdicts(summary))) expect(ok, threshold).to.equal(true);
    expect(metric(summary, 'iterations', 'work').count).to.be.above(0);
  });

  for (const viommu of ['intel', 'virtio'])
    it(`lazy unmaps behind ${viommu}: the window shows, and nothing is reached after the flush`, async () => {
      const { code, summary } = await runScenario(data('lazy-unmaps'), '--viommu', viommu);
      expect(summary.problems).to.deep.equal([]);
      for (const [threshold, ok] of Object.entries(verdicts(summary))) expect(ok, threshold).to.equal(true);
      expect(code).to.equal(0);
      expect(summary.faultsExpected).to.be.above(0);
    });

  it('devices are reset and hang under load', async () => {
    const { summary } = await runScenario(data('device-faults-under-load'));
    expect(summary.problems).to.deep.equal([]);
    for (const [threshold, ok] of Object.entries(verdicts(summary))) expect(ok, threshold).to.equal(true);
  });

  it("runs a scenario's own iterations, with their metrics", async () => {
    const { code, summary } = await runScenario(script('own-iteration'));
    expect(summary.problems).to.deep.equal([]);
    for (const [threshold, ok] of Object.entries(verdicts(summary))) expect(ok, threshold).to.equal(true);
    expect(code).to.equal(0);
  });

  it('steady-and-burst, by its name: every iteration is right', async () => {
    const { summary } = await runScenario('steady-and-burst');
    expect(summary.problems).to.deep.equal([]);
    // Latencies and missed iterations depend on the machine.
    expect(verdicts(summary)['checks rate==1']).to.equal(true);
    const steady = metric(summary, 'iterations', 'steady').count ?? 0;
    expect(steady + (metric(summary, 'dropped_iterations', 'steady').count ?? 0)).to.equal(400);
    expect(metric(summary, 'iterations', 'burst').count).to.be.above(0);
  });

  it('on groups of unlike VMs, some of which boot during the run', async () => {
    const { code, summary } = await runScenario(data('groups'), '--processes', '2');
    expect(summary.problems).to.deep.equal([]);
    for (const [threshold, ok] of Object.entries(verdicts(summary))) expect(ok, threshold).to.equal(true);
    expect(code).to.equal(0);
    expect(summary.results.map(({ vgpus }) => vgpus.map(({ type }) => type))).to.deep.equal([
      ['vgpu-2g'],
      ['vgpu-2g'],
      ['vgpu-1g', 'vgpu-2g'],
      ['vgpu-1g', 'vgpu-2g'],
      ['vgpu-4g'],
      ['vgpu-4g'],
    ]);
  });

  it('web-and-batch: every arrival is started or dropped', async () => {
    const { summary } = await runScenario('scenarios/web-and-batch.yaml');
    expect(summary.problems).to.deep.equal([]);
    const web = metric(summary, 'iterations', 'web').count ?? 0;
    expect(web + (metric(summary, 'dropped_iterations', 'web').count ?? 0)).to.equal(440);
    expect(metric(summary, 'iterations', 'batch').count).to.be.above(0);
    expect(summary.load.metrics.some(({ tags }) => tags.stage === 'warmup')).to.equal(false);
    expect(summary.load.thresholds.every(({ observed }) => observed !== null)).to.equal(true);
  });

  it('thousand-vgpus, in a short form: each arrival is started or dropped, and every output is written', async () => {
    const text = readFileSync('scenarios/thousand-vgpus.yaml', 'utf8');
    const short = folder('short.yaml');
    writeFileSync(
      short,
      text
        .replace('startTime: 10s', 'startTime: 1s')
        .replace('duration: 60s', 'duration: 4s')
        .replace('rate: 256', 'rate: 32'),
    );
    const kinds = ['html', 'json', 'csv', 'junit', 'prometheus', 'perfetto'];
    const outs = kinds.flatMap((kind) => ['--out', `${kind}=${folder(`out.${kind}`)}`]);
    const { code } = await mdevsim('run', short, '--vms', '4', '--processes', '2', ...outs);
    const summary = JSON.parse(readFileSync(folder('out.json'), 'utf8')) as RunSummary;
    expect(summary.problems).to.deep.equal([]);
    expect([0, 99]).to.include(code); // a busy machine may drop more
    expect(verdicts(summary)['checks rate==1']).to.equal(true);
    const started = metric(summary, 'iterations', 'steady').count ?? 0;
    expect(started + (metric(summary, 'dropped_iterations', 'steady').count ?? 0)).to.equal(128);
    for (const kind of kinds) expect(statSync(folder(`out.${kind}`)).size, kind).to.be.above(0);
    expect(statSync(folder('out.html')).size).to.be.below(2 ** 20);
  });

  it("a script's metrics meet thresholds, or have no samples", async () => {
    const { code, summary } = await runScenario(script('script-thresholds'));
    expect(summary.problems).to.deep.equal([]);
    expect(verdicts(summary)).to.deep.equal({
      'commands count==15': true,
      'map_latency count==5': true,
      'switch_latency count==1': true,
      'bytes_of_round{kind:churn} med<1MiB': true,
      'bytes_of_round{kind:churn} count==5': true,
      'never count==0': false,
    });
    expect(code).to.equal(99);
  });

  it('refuses a malformed file with file, line and column', async () => {
    const { code, stderr } = await mdevsim('run', data('malformed'));
    expect(code).to.equal(104);
    expect(stderr).to.match(
      /malformed\.yaml:4:15: load\.s\.executor: no executor 'constant-vu'; nearest: constant-vus/,
    );
  });
});
