/**
 * The distribution of a latency: samples by value, on a logarithmic axis.
 */
import type { PageModel } from '../page-model.ts';
import { axis, Chart, type Panel } from './chart.ts';
import { countText, timeText } from './format.ts';
import type { Selection } from './selection.ts';
import { colours } from './theme.ts';

const HEIGHT = 280;

export class DistributionPanel implements Panel {
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

  /** Draws steps: a point at both edges of each bucket, 0 where there are no samples. */
  #draw(): void {
    const { metric, stage } = this.#selection;
    const found = this.#model?.distributions.find((each) => each.metric === metric && each.stage === stage);
    if (!found) return;
    const all = colours();
    const xs: number[] = [];
    const ys: number[] = [];
    let end = 0;
    for (const [i, edge] of found.from.entries()) {
      const from = Math.max(edge, LEAST_US);
      const to = from + 2 ** Math.floor(Math.log2(from)) / found.perOctave;
      if (from > end * 1.0001) {
        if (end > 0) push(xs, ys, end * 1.00001, 0);
        push(xs, ys, from * 0.99999, 0);
      }
      push(xs, ys, from, found.counts[i] ?? 0);
      push(xs, ys, to * 0.99998, found.counts[i] ?? 0);
      end = to;
    }
    push(xs, ys, end * 1.00001, 0);
    const total = found.counts.reduce((sum, count) => sum + count, 0);
    this.#chart.show({
      key: `${metric} ${stage}`,
      height: HEIGHT,
      data: [xs, ys],
      options: {
        padding: [14, 28, 0, 4],
        cursor: { drag: { x: false, y: false } },
        scales: { x: { time: false, distr: 3 }, y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] } },
        axes: [
          axis(all, {
            space: 60,
            values: (_, splits) => splits.map((us) => (us === null ? '' : timeText(us))),
          }),
          axis(all, { size: 56, values: (_, splits) => splits.map(countText) }),
        ],
        series: [
          { label: 'latency', value: (_, us) => (us === null ? '–' : timeText(us)) },
          {
            label: `samples of ${countText(total)}`,
            stroke: all.c0,
            fill: `${all.c0}44`,
            width: 1.25,
            points: { show: false },
            value: (_, count) => (count === null ? '–' : countText(count)),
          },
        ],
      },
    });
  }
}

/** Least latency on the axis, which cannot begin at 0. */
const LEAST_US = 0.01;

function push(xs: number[], ys: number[], x: number, y: number): void {
  xs.push(x);
  ys.push(y);
}
