/**
 * The heat map: a value of each vGPU over time.
 */
import { decodeCell } from '../cells.ts';
import type { HeatLayer, PageModel } from '../page-model.ts';
import { clockAxis, clockRange, type Panel, timeOptions } from './chart.ts';
import { clockText, valueText } from './format.ts';
import { RowsChart } from './rows.ts';
import { colours, heatColour } from './theme.ts';

export class HeatPanel implements Panel {
  readonly #chart: RowsChart;
  readonly #layers: HTMLSelectElement;
  readonly #readout: HTMLElement;
  #model: PageModel | undefined;

  constructor(place: HTMLElement, layers: HTMLSelectElement, readout: HTMLElement) {
    this.#chart = new RowsChart(place);
    this.#layers = layers;
    this.#readout = readout;
    layers.addEventListener('change', () => this.#draw());
  }

  update(model: PageModel): void {
    this.#model = model;
    const names = model.heat?.layers.map(({ name }) => name) ?? [];
    if (names.join() !== [...this.#layers.options].map(({ value }) => value).join())
      this.#layers.replaceChildren(...names.map((name) => new Option(name, name)));
    this.#draw();
  }

  restyle(): void {
    this.#chart.reset();
    this.#draw();
  }

  #draw(): void {
    const model = this.#model;
    const heat = model?.heat;
    const layer = heat?.layers.find(({ name }) => name === this.#layers.value) ?? heat?.layers[0];
    if (!model || !heat || !layer) return;
    const all = colours();
    const { seconds } = heat;
    this.#say(layer);
    this.#chart.show({
      key: 'heat',
      names: model.vgpus,
      range: clockRange(model),
      colours: all,
      xAxis: clockAxis(all),
      base: timeOptions(false),
      paint: (ctx, row, top, bottom, x) => {
        const cells = layer.rows[row] ?? '';
        for (let i = 0; i < cells.length; i++) {
          const part = decodeCell(cells[i]);
          if (part === undefined) continue;
          const left = Math.floor(x(i * seconds));
          ctx.fillStyle = heatColour(part);
          ctx.fillRect(left, top, Math.ceil(x((i + 1) * seconds)) - left, bottom - top);
        }
      },
      point: (row, at) => {
        const bucket = Math.floor(at / seconds);
        const part = row === undefined ? undefined : decodeCell(layer.rows[row]?.[bucket]);
        if (row === undefined || part === undefined) this.#say(layer);
        else
          this.#readout.textContent =
            `${model.vgpus[row]}, ${clockText(bucket * seconds)} to ${clockText((bucket + 1) * seconds)}: ` +
            `${layer.name} about ${valueText(valueAt(layer, part), layer.unit)}`;
      },
    });
  }

  /** Shows the scale. */
  #say(layer: HeatLayer): void {
    const bar = document.createElement('span');
    bar.className = 'scale';
    bar.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map(heatColour).join()})`;
    this.#readout.replaceChildren(
      `${valueText(layer.min, layer.unit)} `,
      bar,
      ` ${valueText(layer.max, layer.unit)} (logarithmic)`,
    );
  }
}

const valueAt = ({ min, max }: HeatLayer, part: number): number => min * (max / min) ** part;
