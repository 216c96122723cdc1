/**
 * The engine shares: for each GPU, the part of its vGPUs in the engine's time.
 */
import type { GpuShares, PageModel } from '../page-model.ts';
import { axis, type Panel } from './chart.ts';
import { RowsChart } from './rows.ts';
import { type Colours, colours } from './theme.ts';

/** Colours of a GPU's vGPUs in turn; none of them looks like an alarm. */
const PARTS: readonly ((all: Colours) => string)[] = [
  ({ c0 }) => c0,
  ({ c4 }) => c4,
  ({ c5 }) => c5,
  ({ c3 }) => c3,
];

const percent = (part: number): string => `${(part * 100).toFixed(1)} %`;

export class SharesPanel implements Panel {
  readonly #chart: RowsChart;
  readonly #readout: HTMLElement;
  #model: PageModel | undefined;

  constructor(place: HTMLElement, readout: HTMLElement) {
    this.#chart = new RowsChart(place);
    this.#readout = readout;
  }

  update(model: PageModel): void {
    this.#model = model;
    const { gpus } = model;
    if (gpus.length === 0) return;
    const all = colours();
    this.#chart.show({
      key: 'shares',
      names: gpus.map(({ name }) => name),
      range: [0, 1],
      rowHeight: 34,
      colours: all,
      xAxis: axis(all, {
        values: (_, splits) => splits.map((part) => `${Math.round(part * 100)} %`),
        space: 60,
      }),
      base: { padding: [8, 24, 0, 4], cursor: { drag: { x: false, y: false } } },
      paint: (ctx, row, top, bottom, x) => {
        let from = 0;
        for (const [i, { name, part }] of (gpus[row]?.vgpus ?? []).entries()) {
          const [left, right] = [x(from), x(from + part)];
          ctx.fillStyle = PARTS[i % PARTS.length]?.(all) ?? all.c0;
          ctx.fillRect(left, top, Math.max(0, right - left - 1), bottom - top);
          from += part;
          ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
          ctx.textBaseline = 'middle';
          ctx.textAlign = 'left';
          ctx.fillStyle = '#fff';
          if (bottom - top > 14 * devicePixelRatio && ctx.measureText(name).width + 10 < right - left)
            ctx.fillText(name, left + 5 * devicePixelRatio, (top + bottom) / 2);
        }
      },
      point: (row, at) => {
        this.#readout.textContent = row === undefined ? '' : shareText(gpus[row], at);
      },
    });
  }

  restyle(): void {
    this.#chart.reset();
    if (this.#model) this.update(this.#model);
  }
}

/** Returns a text about the vGPU at this part of the bar. */
function shareText(gpu: GpuShares | undefined, at: number): string {
  let to = 0;
  const found = gpu?.vgpus.find(({ part }) => {
    to += part;
    return at <= to;
  });
  if (!gpu || !found) return '';
  const fairness = gpu.fairness === null ? '' : `; fairness of ${gpu.name} ${gpu.fairness.toFixed(4)}`;
  return `${found.name} (${found.type}): ${percent(found.part)} of the work, ${percent(found.used)} of the engine${fairness}`;
}
