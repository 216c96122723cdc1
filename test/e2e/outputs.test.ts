/**
 * Outputs of whole runs: each file is valid for what reads it, all say the same, and a merge of shards equals the run.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { after, before, describe, it } from 'mocha';
import { parse } from 'yaml';
import type { RunRecord } from '../../src/report/record.ts';
import { parseCsv } from '../support/csv-file.ts';
import { parseJunit } from '../support/junit-file.ts';
import { parsePrometheus } from '../support/prometheus-file.ts';
import { recordSchema } from '../support/record-schema.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { parseTrace } from '../support/trace-events.ts';
import { mdevsim } from './run-command.ts';

type Metric = RunRecord['load']['metrics'][number];

const read = (path: string): string => readFileSync(path, 'utf8');
const readRecord = (path: string): RunRecord => JSON.parse(read(path)) as RunRecord;

/** Returns a metric in total, or of a stage. */
const metricOf = ({ load }: RunRecord, name: string, stage?: string): Metric | undefined =>
  load.metrics.find(
    (metric) => metric.name === name && metric.tags.stage === stage && metric.tags.group === undefined,
  );

/** Metrics whose counts follow from the seed, whatever the timing: waits and pins, for instance, do not. */
const SEEDED = [
  'iterations',
  'dropped_iterations',
  'commands',
  'bytes',
  'maps',
  'unmaps',
  'checks',
  'command_latency',
  'iteration_duration',
  'map_latency',
  'unmap_latency',
  'switch_latency',
  'boot_time',
];

/** Counts of results and metrics. @param names metrics; by default all but gauges */
const countsOf = (record: RunRecord, names?: readonly string[]) => ({
  results: record.results.map(({ vm, operations, bytesVerified, vgpus }) => ({
    vm,
    operations,
    bytesVerified,
    vgpus: vgpus.map(({ name, type }) => ({ name, type })),
  })),
  metrics: Object.fromEntries(
    record.load.metrics
      .filter(({ name, type }) => names?.includes(name) ?? type !== 'gauge')
      .map(({ name, tags, values }) => [`${name} ${JSON.stringify(tags)}`, values.count] as const)
      .sort(([a], [b]) => a.localeCompare(b)),
  ),
  faults: record.faultsUnexpected,
});

describe('the outputs of a run', function () {
  this.timeout(240_000);
  const inFolder = temporaryFolder();

  /** Writes web-and-batch with stages of a few seconds. */
  function shortened(path: string): void {
    const scenario = parse(read('scenarios/web-and-batch.yaml'));
    scenario.groups.batch.boot = { at: '1s', every: '100ms' };
    const { warmup, web, batch } = scenario.load;
    warmup.duration = '500ms';
    Object.assign(web, { startTime: '500ms', duration: '4s' });
    Object.assign(batch, { startTime: '1s', stages: [{ duration: '3s', target: 2 }] });
    writeFileSync(path, JSON.stringify(scenario));
  }

  describe('of each kind', () => {
    const kinds = ['html', 'json', 'csv', 'junit', 'prometheus', 'perfetto', 'blob'];
    let folder = '';
    const file = (kind: string) => join(folder, `run.${kind}`);
    let record: RunRecord;

    before(async () => {
      folder = mkdtempSync(join(tmpdir(), 'mdevsim-test-'));
      const scenario = join(folder, 'web-and-batch.json');
      shortened(scenario);
      const out = kinds.flatMap((kind) => ['--out', `${kind}=${file(kind)}`]);
      const { code, stderr, stdout } = await mdevsim('run', scenario, '--seed', '3', ...out);
      expect([0, 99], stdout + stderr).to.include(code);
      record = readRecord(file('json'));
      expect(record.exitCode).to.equal(code);
    });

    after(() => rmSync(folder, { recursive: true, force: true }));

    it('are whole, and nothing else is left', () => {
      expect(readdirSync(folder).sort()).to.deep.equal(
        [...kinds.map((kind) => `run.${kind}`), 'web-and-batch.json'].sort(),
      );
      expect(read(file('html')))
        .to.match(/^<!doctype html>/i)
        .and.include('web-and-batch');
    });

    it('json has the documented format', () => {
      recordSchema.parse(record);
      expect([record.scenario, record.seed, record.vms, record.shard]).to.deep.equal([
        'web-and-batch',
        3,
        6,
        null,
      ]);
      expect(record.command).to.match(/^mdevsim run \S+ --seed 3$/);
      expect(
        record.stages.map(({ name, measured, startSeconds, endSeconds }) => [
          name,
          measured,
          startSeconds,
          endSeconds,
        ]),
      ).to.deep.equal([
        ['warmup', false, 0, 0.5],
        ['web', true, 0.5, 4.5],
        ['batch', true, 1, 4],
      ]);
      expect(record.groups.map(({ name, firstVm, vms }) => [name, firstVm, vms])).to.deep.equal([
        ['web', 0, 4],
        ['batch', 4, 2],
      ]);
      const boots = record.events.filter(({ kind }) => kind === 'boot');
      expect(new Set(boots.map(({ vm }) => vm))).to.deep.equal(new Set([0, 1, 2, 3, 4, 5]));
      for (const { vm, seconds } of boots) expect(seconds > 0, `VM ${vm} at ${seconds}`).to.equal(vm! >= 4);
      const latency = metricOf(record, 'command_latency', 'web');
      const counts = latency?.histogram?.counts ?? [];
      expect(counts.reduce((sum, count) => sum + count, 0)).to.equal(latency?.values.count);
      const count = (name: string) => metricOf(record, name, 'web')?.values.count ?? 0;
      expect(count('iterations') + count('dropped_iterations') + count('interrupted_iterations')).to.equal(
        160,
      );
    });

    it('csv has the values of json', () => {
      const rows = parseCsv(read(file('csv')));
      for (const { name, tags, values, series } of record.load.metrics) {
        const of = (scope: string) =>
          rows.filter(
            (row) =>
              row.metric === name &&
              row.stage === (tags.stage ?? '') &&
              row.group === (tags.group ?? '') &&
              row.scope === scope,
          );
        expect(of('total'), name).to.have.length(1);
        for (const [column, value] of Object.entries(values))
          expect(Number(of('total')[0]?.[column])).to.equal(value);
        expect(of('bucket').map(({ count }) => Number(count))).to.deep.equal(
          series.count.filter((each) => each !== null),
        );
      }
    });

    it('junit fails exactly as the exit code says', () => {
      const suite = parseJunit(read(file('junit')));
      expect(suite.testcase.map(({ name }) => name).slice(3)).to.deep.equal(
        record.load.thresholds.map(({ metric, condition }) => `${metric} ${condition}`),
      );
      expect(suite.failures + suite.errors > 0).to.equal(record.exitCode !== 0);
    });

    it('prometheus has counters that sum to those of json', () => {
      const families = parsePrometheus(read(file('prometheus')));
      for (const { name, tags, type, unit, values } of record.load.metrics) {
        if (Object.keys(tags).length > 0 || type !== 'counter') continue;
        const samples =
          families.get(`mdevsim_${name}${unit === 'bytes' ? '_bytes' : ''}_total`)?.samples ?? [];
        expect(
          samples.reduce((sum, { value }) => sum + value, 0),
          name,
        ).to.equal(values.count);
      }
      const latency = families.get('mdevsim_command_latency_seconds')?.samples ?? [];
      const count = latency.filter(({ name }) => name.endsWith('_count'));
      expect(count.reduce((sum, { value }) => sum + value, 0)).to.equal(
        metricOf(record, 'command_latency')?.values.count,
      );
    });

    it('perfetto has a lane for each worker, with switches and iterations', () => {
      const { events, names } = parseTrace(read(file('perfetto')));
      const lanes = [...names.values()];
      for (const { vm, vgpus } of record.results)
        expect(lanes).to.include.members([`vm${vm} guest`, ...vgpus.map(({ name }) => name)]);
      const of = (category: string) => events.filter(({ cat }) => cat === category);
      expect(of('stage').map(({ name }) => name)).to.deep.equal(['warmup', 'web', 'batch']);
      expect(of('switch').length).to.be.at.least(record.vms);
      const iterations = new Set(of('iteration').map(({ args }) => args.stage));
      // On a busy machine the batch VMs may boot after the end of their stage.
      const busy = ['web', 'batch'].filter(
        (stage) => (metricOf(record, 'iterations', stage)?.values.count ?? 0) > 0,
      );
      expect(busy).to.include('web');
      expect([...iterations]).to.include.members(busy);
    });

    it('blob has all of the run: a merge of it alone has the same metrics and verdict', async () => {
      const merged = inFolder('merged.json');
      const { code, stderr } = await mdevsim('merge', file('blob'), '--out', `json=${merged}`);
      expect(code, stderr).to.equal(record.exitCode);
      const again = readRecord(merged);
      recordSchema.parse(again);
      expect(countsOf(again)).to.deep.equal(countsOf(record));
      expect(again.load.thresholds).to.deep.equal(record.load.thresholds);
      for (const stage of [undefined, 'web', 'batch'])
        expect(metricOf(again, 'command_latency', stage)).to.deep.equal(
          metricOf(record, 'command_latency', stage),
        );
      expect([again.command, again.startedAt, again.timelines]).to.deep.equal([
        record.command,
        record.startedAt,
        JSON.parse(JSON.stringify(record.timelines)),
      ]);
    });
  });

  it('are refused before the run starts if they cannot be written', async () => {
    const { code, stdout, stderr } = await mdevsim(
      'run',
      'first-light',
      '--out',
      `json=${inFolder('no/x.json')}`,
    );
    expect([code, stdout]).to.deep.equal([104, '']);
    expect(stderr).to.match(/^mdevsim: --out json=\S+: ENOENT: no such file or directory[^\n]*\n$/);
  });

  it('go to stdout alone, and a full disk changes neither the others nor the exit code', async () => {
    const args = ['run', 'first-light', '--vms', '1', '--vgpus', '1', '--ram', '32'];
    const { code, stdout, stderr } = await mdevsim(...args, '--out', 'csv=-', '--out', 'junit=/dev/full');
    expect(code, stderr).to.equal(0);
    expect(parseCsv(stdout).some(({ metric }) => metric === 'maps')).to.equal(true);
    expect(stderr).to.include('PASSED  first-light');
    expect(stderr).to.include('mdevsim: --out junit=/dev/full: ENOSPC: no space left on device, write\n');
  });
});

describe('shards of a run', function () {
  this.timeout(300_000);
  const inFolder = temporaryFolder();
  const SCENARIO = {
    name: 'shards',
    ramMiB: 32,
    groups: {
      web: { vms: 4, vgpus: 1 },
      late: { vms: 2, vgpus: 2, viommu: 'virtio', boot: { at: '300ms' } },
    },
    load: {
      each: {
        executor: 'per-vu-iterations',
        vus: 2,
        iterations: 9,
        workload: { copy: 2, fill: 1, 'dma-churn': 1 },
      },
      shared: { executor: 'shared-iterations', iterations: 61, workload: 'checksum' },
      open: {
        group: 'web',
        executor: 'constant-arrival-rate',
        startTime: '1s',
        rate: 37,
        duration: '2s',
        maxVUs: 64,
        workload: 'fill',
      },
    },
    thresholds: {
      // No shard alone meets these.
      'iterations{stage:shared}': ['count==61'],
      'iterations{stage:open}': ['count==74'],
      'iterations{stage:each,group:late}': ['count==72'],
      checks: ['rate==1 over 1s'],
    },
  };
  const scenario = () => {
    const path = inFolder('shards.json');
    writeFileSync(path, JSON.stringify(SCENARIO));
    return path;
  };

  it('merge to the whole run: equal counts for the same seed, also over several host processes', async () => {
    const path = scenario();
    const seed = ['--seed', '77'];
    const whole = inFolder('whole.json');
    const run = await mdevsim('run', path, ...seed, '--processes', '2', '--out', `json=${whole}`);
    expect(run.code, run.stdout + run.stderr).to.equal(0);
    const blobs: string[] = [];
    for (let shard = 1; shard <= 4; shard++) {
      const blob = inFolder(`${shard}.blob`);
      const { code, stdout, stderr } = await mdevsim(
        'run',
        path,
        ...seed,
        '--shard',
        `${shard}/4`,
        '--out',
        `blob=${blob}`,
      );
      expect(code, stdout + stderr).to.equal(0);
      expect(stdout).to.include(`shard ${shard}/4: mdevsim merge judges the thresholds`);
      blobs.push(blob);
    }
    const json = inFolder('merged.json');
    const merge = await mdevsim(
      'merge',
      ...blobs.toReversed(),
      '--out',
      `json=${json}`,
      '--out',
      `junit=${inFolder('x.xml')}`,
    );
    expect(merge.code, merge.stdout + merge.stderr).to.equal(0);
    const [a, b] = [readRecord(whole), readRecord(json)];
    recordSchema.parse(b);
    expect(countsOf(b, SEEDED)).to.deep.equal(countsOf(a, SEEDED));
    expect(Object.keys(countsOf(b, SEEDED).metrics)).to.have.length.above(30);
    expect(b.load.thresholds.map(({ ok, observed }) => [ok, observed])).to.deep.equal(
      a.load.thresholds.map(({ ok, observed }) => [ok, observed]),
    );
    expect(parseJunit(read(inFolder('x.xml'))).failures).to.equal(0);

    const missing = await mdevsim('merge', ...blobs.slice(1));
    expect([missing.code, missing.stdout, missing.stderr]).to.deep.equal([
      104,
      '',
      'mdevsim: no blob of shard 1/4; accepted: all 4\n',
    ]);
  });

  it('start their clock without a VM that boots before it', async () => {
    const json = inFolder('late.json');
    const out = ['--out', `json=${json}`, '--out', `blob=${inFolder('late.blob')}`];
    const { code, stdout, stderr } = await mdevsim(
      'run',
      scenario(),
      '--seed',
      '7',
      '--shard',
      '5/6',
      ...out,
    );
    expect(code, stdout + stderr).to.equal(0);
    const record = readRecord(json);
    expect(record.results.map(({ vm }) => vm)).to.deep.equal([4]);
    expect(metricOf(record, 'iterations', 'each')?.values.count).to.equal(36);
    expect([record.shard, record.load.thresholds]).to.deep.equal([{ index: 5, count: 6 }, []]);
    expect(record.command).to.match(/--seed 7 --shard 5\/6$/);
    const boot = record.events.find(({ kind }) => kind === 'boot');
    expect(boot?.seconds).to.be.above(0.3);
  });

  it('are refused without a seed, without a blob, and where there are fewer VMs', async () => {
    const path = scenario();
    const blob = ['--out', `blob=${inFolder('x.blob')}`];
    const refused: readonly (readonly [readonly string[], string])[] = [
      [['--shard', '1/2', '--seed', '1'], '--shard 1/2 without --out blob=PATH, which a merge needs'],
      [['--shard', '1/2', ...blob], 'shard 1/2 without a seed; accepted: --seed N, the same for all shards'],
      [['--shard', '1/7', '--seed', '1', ...blob], 'shard 1/7 of 6 VMs; accepted: at most 6 shards'],
    ];
    for (const [args, why] of refused) {
      const { code, stderr } = await mdevsim('run', path, ...args);
      expect([code, stderr]).to.deep.equal([104, `mdevsim: ${why}\n`]);
    }
  });
});

describe('a comparison of two stored runs', function () {
  this.timeout(240_000);
  const inFolder = temporaryFolder();

  it('passes and fails by its conditions', async () => {
    const scenario = inFolder('s.json');
    const load = { each: { executor: 'per-vu-iterations', vus: 2, iterations: 20, workload: 'copy' } };
    writeFileSync(scenario, JSON.stringify({ name: 's', viommu: 'none', load }));
    const files = [inFolder('a.json'), inFolder('b.json')];
    for (const file of files) {
      const { code, stderr } = await mdevsim('run', scenario, '--seed', '5', '--out', `json=${file}`);
      expect(code, stderr).to.equal(0);
    }
    const compare = (condition: string) => mdevsim('compare', ...files, '--fail-on', condition);
    const passed = await compare('iterations{stage:each} count != 1x');
    expect([passed.code, passed.stdout.split('\n')[0]]).to.satisfy(
      ([code, line]: [number, string]) =>
        code === 0 && /^PASSED {2}\d+ values, \d+ beyond the noise$/.test(line),
    );
    const failed = await compare('iterations count >= 1x');
    expect([failed.code, failed.stdout.split('  ')[0]]).to.deep.equal([99, 'FAILED']);
    const unknown = await compare('iteration count >= 1x');
    expect([unknown.code, unknown.stderr]).to.satisfy(
      ([code, text]: [number, string]) => code === 104 && text.includes('nearest: iterations'),
    );
  });
});
