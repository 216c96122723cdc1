/**
 * Memory of a run's metrics: it does not grow with the length of the run.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Prng, sleep } from '#host';
import { Slots } from '../../src/coordinator/workers/slots.ts';
import { MetricsSender } from '../../src/guest/metrics-sender.ts';
import type { VmControl } from '../../src/guest/protocol.ts';
import { Aggregate } from '../../src/metrics/aggregate.ts';
import { Metrics } from '../../src/metrics/metrics.ts';
import { parseSelector } from '../../src/metrics/selector.ts';
import { MetricStore } from '../../src/metrics/store.ts';
import { parseCondition, type Threshold } from '../../src/metrics/threshold.ts';
import { SERIES_BUCKETS, TimeSeries } from '../../src/metrics/time-series.ts';
import { fromMessage, type MetricsMessage, toMessages } from '../../src/metrics/wire.ts';
import { Latencies } from '../../src/report/histograms.ts';
import { addResults } from '../../src/report/vm-result.ts';
import { RunLoad } from '../../src/scenario/run-load.ts';
import { checkScenario } from '../../src/scenario/scenario.ts';
import { vmResult } from '../fixtures/run-results.ts';
import { until } from '../support/until.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Returns the bytes of live objects. */
function heapBytes(): number {
  collect();
  collect();
  return process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers;
}

/** Virtual seconds after which every part has all that it keeps. */
const WARM = 1_000;
/** Virtual seconds of the rest of a run. */
const LONG = 5_000;
/** Room for what the garbage collector and the compiler keep. */
const NOISE_BYTES = 1.5 * 2 ** 20;

const threshold = (metric: string, condition: string): Threshold => {
  const selector = parseSelector(metric);
  const parsed = parseCondition(condition, selector);
  return { selector, condition: parsed, abortOnFail: false, delayAbortEvalUs: 0, implied: false };
};

/** A guest whose metrics gain as much in each second. */
class Load {
  readonly metrics = new Metrics();
  readonly #prng = new Prng(1);

  second(): void {
    for (const op of ['copy', 'fill', 'map'])
      for (const vgpu of ['0', '1']) {
        const tagged = this.metrics.tagged({ stage: 'steady', vgpu, op });
        for (let i = 0; i < 4; i++) tagged.trend('command_latency').add(50 + this.#prng.below(100_000));
        tagged.counter('iterations').add();
        tagged.rate('checks').add(true);
      }
  }
}

describe('memory of the metrics', function () {
  this.timeout(120_000);

  it('does not grow with the length of a run: guest, messages, store, windows and time series', () => {
    const load = new Load();
    const store = new MetricStore([
      threshold('command_latency{stage:steady}', 'p(99)<1s over 2s'),
      threshold('command_latency', 'p(99)<1s'),
      threshold('iterations', 'rate>0 over 4s'),
    ]);
    const run = (from: number, to: number) => {
      for (let second = from; second < to; second++) {
        load.second();
        for (const message of toMessages(second, load.metrics.take()))
          store.merge({ group: 'all', vm: '0' }, second, fromMessage(message));
        expect(store.tick(second * 1e6)).to.equal(undefined);
      }
    };
    run(0, WARM);
    const before = heapBytes();
    run(WARM, LONG);
    const grown = heapBytes() - before;
    expect(grown).to.be.below(NOISE_BYTES);
    const series = store.summaries(LONG).map((metric) => metric.series);
    for (const { count } of series) expect(count.length).to.be.within(SERIES_BUCKETS / 2, SERIES_BUCKETS);
    expect(store.verdicts(LONG).map(({ ok }) => ok)).to.deep.equal([true, true, true]);
  });

  it('does not grow in the command: timelines, events and the live view', () => {
    const { settings } = checkScenario({
      default: {
        name: 'long',
        vms: 2,
        vgpus: 2,
        load: { steady: { executor: 'constant-vus', duration: '24h', workload: 'copy' } },
      },
    });
    const messages = { start: () => {}, stop: () => {}, act: () => {}, noMoreBoots: () => {} };
    const run = new RunLoad(settings, [2, 2], messages, { keepsPart: false });
    const load = new Load();
    const seconds = (from: number, to: number) => {
      for (let second = from; second < to; second++)
        for (const vm of [0, 1]) {
          load.second();
          for (const message of toMessages(second, load.metrics.take(), [1, 2])) run.metrics(vm, message);
          run.booted(vm); // as often as a VM could ever boot
        }
    };
    seconds(0, 2 * WARM);
    const before = heapBytes();
    seconds(2 * WARM, LONG);
    const grown = heapBytes() - before;
    expect(grown).to.be.below(NOISE_BYTES);
    run.end(new Map(), []);
  });

  it('does not grow with the migrations of a VM', () => {
    const latencies = new Latencies();
    latencies.recordUs('map', 100);
    const leg = vmResult({
      moved: true,
      operations: 1,
      notes: ['moved', 'again'],
      histograms: latencies.encode(),
    });
    let sum = leg;
    for (let i = 1; i < 500; i++) sum = addResults(sum, leg);
    expect([sum.operations, sum.histograms.length, sum.notes.length + sum.notesCut]).to.deep.equal([
      500, 1, 1000,
    ]);
    expect(sum.notes.length).to.be.below(300);
    const merged = new Latencies();
    for (const { name, data } of sum.histograms) merged.merge(name, data);
    expect(merged.summary()[0]?.count).to.equal(500);
  });
});

describe('a time series', () => {
  it('keeps every sample while its buckets are packed, pair up and open again', () => {
    const prng = new Prng(7);
    const series = new TimeSeries('trend');
    const all = new Aggregate('trend');
    for (let i = 0; i < 3000; i++) {
      const second = Math.max(0, Math.floor(i / 4) - prng.below(5)); // some are late
      const samples = new Aggregate('trend');
      samples.add(1 + prng.below(1e6));
      series.add(second, samples.data());
      all.merge(samples.data());
    }
    const sum = new Aggregate('trend');
    for (const bucket of series.buckets) if (bucket) sum.merge(bucket.data());
    expect(sum.data().histogram).to.deep.equal(all.data().histogram);
    expect([sum.count, sum.min, sum.max]).to.deep.equal([3000, all.min, all.max]);
    expect(series.since(0)?.count).to.equal(3000);
    expect(series.since(10_000)).to.equal(undefined);
  });
});

describe('a guest whose coordinator is late', () => {
  it('adds up its metrics and has one message in flight', async () => {
    const metrics = new Metrics();
    const received: MetricsMessage[] = [];
    let answer = () => {};
    const control = {
      metrics: (message: MetricsMessage) => {
        received.push(message);
        return new Promise<void>((resolve) => {
          answer = resolve;
        });
      },
    } as unknown as VmControl;
    const sender = new MetricsSender(metrics, control, false);
    metrics.counter('maps').add(1);
    await until(() => received.length === 1, 'the first message', 20_000);
    for (let i = 0; i < 4; i++) {
      metrics.counter('maps').add(10);
      await sleep(260); // longer than its interval
    }
    expect(received, 'nothing is sent while one is in flight').to.have.length(1);
    const ended = sender.end();
    answer();
    await until(() => received.length === 2, 'the rest', 20_000);
    answer();
    await ended;
    expect(received.flatMap(({ changes }) => changes.map(({ sum }) => sum))).to.deep.equal([1, 40]);
  });
});

describe('slots', () => {
  it('run so much at one time, in order, also after failures', async () => {
    const slots = new Slots(3);
    let running = 0;
    let most = 0;
    const order: number[] = [];
    const results = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) =>
        slots.run(async () => {
          order.push(i);
          most = Math.max(most, ++running);
          await sleep(1);
          running--;
          if (i % 5 === 0) throw new Error('broken');
          return i;
        }),
      ),
    );
    expect([most, running]).to.deep.equal([3, 0]);
    expect(order).to.deep.equal(Array.from({ length: 20 }, (_, i) => i));
    expect(results.filter(({ status }) => status === 'rejected')).to.have.length(4);
  });

  it('are free again only after what follows the work, for which the work does not wait', async () => {
    const slots = new Slots(1);
    let end = () => {};
    const after = () =>
      new Promise<void>((resolve) => {
        end = resolve;
      });
    expect(await slots.run(async () => 'first', after)).to.equal('first');
    let hasRun = false;
    const second = slots.run(async () => {
      hasRun = true;
    });
    await sleep(5);
    expect(hasRun).to.equal(false);
    end();
    await second;
    expect(hasRun).to.equal(true);
  });
});
