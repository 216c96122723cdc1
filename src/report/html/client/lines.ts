/**
 * Lines over time: percentiles of a latency, and counters per second.
 */
import type uPlot from 'uplot';
import type { Bucketed, PageModel } from '../page-model.ts';
import { axis, Chart, clockAxis, clockRange, type Panel, timeOptions } from './chart.ts';
import { countText, timeText } from './format.ts';
import type { Selection } from './selection.ts';
import { colourOf, colours } from './theme.ts';

const HEIGHT = 280;

const PERCENTILES = [
  ['p50', 'med'],
  ['p95', 'p95'],
  ['p99', 'p99'],
  ['max', 'max'],
] as const;

/** Returns the middles of the buckets. */
export const middles = (seconds: number, values: Bucketed): number[] =>
  values.map((_, i) => Number(((i + 0.5) * seconds).toFixed(6)));

/** Values above 0: a logarithmic axis has no place for others. */
const positive = (values: Bucketed): (number | null)[] =>
  values.map((value) => (value !== null && value > 0 ? value : null));

export class LatencyPanel implements Panel {
  readonly #chart: Chart;
  readonly #selection: Selection;
  #model: PageModel | undefined;

  constructor(place: HTMLElement, selection: Selection) {
    this.#chart = new Chart(place);
    this.#selection = selection;
    selection.onChange(() => this.#draw());
  }

  update(model: PageModel): void {
    this.#model = model;
    this.#draw();
  }

  restyle(): void {
    this.#chart.reset();
    this.#draw();
  }

  #draw(): void {
    const { metric, stage } = this.#selection;
    const model = this.#model;
    const line = model?.trends.find((each) => each.metric === metric && each.stage === stage);
    if (!model || !line) return;
    const all = colours();
    const xs = middles(line.seconds, line.med);
    this.#chart.show({
      key: `${metric} ${stage}`,
      height: HEIGHT,
      range: clockRange(model),
      data: [xs, ...PERCENTILES.map(([, name]) => positive(line[name]))],
      options: {
        ...timeOptions(),
        scales: { x: { time: false }, y: { distr: 3 } },
        axes: [
          clockAxis(all),
          axis(all, {
            size: 64,
            values: (_, splits) => splits.map((us) => (us === null ? '' : timeText(us))),
          }),
        ],
        series: [
          { label: 'time', value: (_, at) => (at === null ? '–' : `${at.toFixed(1)} s`) },
          ...PERCENTILES.map(([label], i) => ({
            label,
            stroke: colourOf(all, i),
            width: 1.75,
            points: { size: 4 },
            ...(label === 'max' && { dash: [3, 3] }),
            value: (_: uPlot, us: number | null) => (us === null ? '–' : timeText(us)),
          })),
        ],
      },
    });
  }
}

/** Lines of the throughput: metric, label. */
const RATES = [
  ['commands', 'commands/s'],
  ['iterations', 'iterations/s'],
  ['dropped_iterations', 'dropped/s'],
] as const;

export class ThroughputPanel implements Panel {
  readonly #chart: Chart;
  #model: PageModel | undefined;

  constructor(place: HTMLElement) {
    this.#chart = new Chart(place);
  }

  update(model: PageModel): void {
    this.#model = model;
    const all = colours();
    const lines = RATES.flatMap(([metric, label]) => {
      const line = model.rates.find((each) => each.metric === metric && each.stage === '');
      return line ? [{ ...line, label }] : [];
    });
    const longest = lines.toSorted((a, b) => b.perSecond.length - a.perSecond.length)[0];
    if (!longest) return;
    const xs = middles(longest.seconds, longest.perSecond);
    this.#chart.show({
      key: `${lines.map(({ label }) => label).join()}`,
      height: HEIGHT,
      range: clockRange(model),
      data: [xs, ...lines.map(({ perSecond }) => xs.map((_, i) => perSecond[i] ?? null))],
      options: {
        ...timeOptions(),
        scales: { x: { time: false }, y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] } },
        axes: [clockAxis(all), axis(all, { size: 56, values: (_, splits) => splits.map(countText) })],
        series: [
          { label: 'time', value: (_, at) => (at === null ? '–' : `${at.toFixed(1)} s`) },
          ...lines.map(({ label }, i) => ({
            label,
            stroke: colourOf(all, i),
            ...(i === 0 && { fill: `${colourOf(all, i)}22` }),
            width: 1.75,
            points: { size: 4 },
            value: (_: uPlot, count: number | null) => (count === null ? '–' : countText(count)),
          })),
        ],
      },
    });
  }

  restyle(): void {
    this.#chart.reset();
    if (this.#model) this.update(this.#model);
  }
}
