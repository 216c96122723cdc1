/**
 * Gauges and rates over time, one at a time: fairness first.
 */
import type uPlot from 'uplot';
import type { PageModel } from '../page-model.ts';
import { axis, Chart, clockAxis, clockRange, type Panel, timeOptions } from './chart.ts';
import { bytesText, countText } from './format.ts';
import { middles } from './lines.ts';
import { colourOf, colours } from './theme.ts';

const HEIGHT = 240;

type Unit = PageModel['gauges'][number]['unit'];

const TEXTS: Readonly<Record<Unit, (value: number) => string>> = {
  bytes: bytesText,
  count: countText,
  ratio: (value) => String(Number(value.toFixed(4))),
};

export class GaugesPanel implements Panel {
  readonly #chart: Chart;
  readonly #metrics: HTMLSelectElement;
  #model: PageModel | undefined;
  /** False until the user has chosen: fairness is known later than other gauges. */
  #isChosen = false;

  constructor(place: HTMLElement, metrics: HTMLSelectElement) {
    this.#chart = new Chart(place);
    this.#metrics = metrics;
    metrics.addEventListener('change', () => {
      this.#isChosen = true;
      this.#draw();
    });
  }

  update(model: PageModel): void {
    this.#model = model;
    const names = [...new Set(model.gauges.map(({ metric }) => metric))];
    const isKept = this.#isChosen && names.includes(this.#metrics.value);
    const chosen = isKept ? this.#metrics.value : (names[0] ?? '');
    if (names.join() !== [...this.#metrics.options].map(({ value }) => value).join())
      this.#metrics.replaceChildren(...names.map((name) => new Option(name, name)));
    this.#metrics.value = chosen;
    this.#draw();
  }

  restyle(): void {
    this.#chart.reset();
    this.#draw();
  }

  #draw(): void {
    const model = this.#model;
    const lines = model?.gauges.filter(({ metric }) => metric === this.#metrics.value) ?? [];
    const longest = lines.toSorted((a, b) => b.values.length - a.values.length)[0];
    if (!model || !longest) return;
    const all = colours();
    const textOf = TEXTS[longest.unit];
    const xs = middles(longest.seconds, longest.values);
    this.#chart.show({
      key: `${longest.metric} ${lines.map(({ part }) => part).join()}`,
      height: HEIGHT,
      range: clockRange(model),
      data: [xs, ...lines.map(({ values }) => xs.map((_, i) => values[i] ?? null))],
      options: {
        ...timeOptions(),
        scales: { x: { time: false }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
        axes: [clockAxis(all), axis(all, { size: 72, values: (_, splits) => splits.map(textOf) })],
        series: [
          { label: 'time', value: (_, at) => (at === null ? '–' : `${at.toFixed(1)} s`) },
          ...lines.map(({ part }, i) => ({
            label: part,
            stroke: colourOf(all, i),
            width: 1.75,
            // A busy machine may miss a second.
            spanGaps: true,
            points: { size: 4 },
            value: (_: uPlot, value: number | null) => (value === null ? '–' : textOf(value)),
          })),
        ],
      },
    });
  }
}
