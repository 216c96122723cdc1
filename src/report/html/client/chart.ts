/**
 * A chart of uPlot that follows the width of its place and the colours of the page, with the stages of the run shaded and
 * its events marked.
 */
import uPlot from 'uplot';
import type { PageModel } from '../page-model.ts';
import { clockText } from './format.ts';
import { type Colours, colours, FONT } from './theme.ts';

/** Everything of a chart but its size. */
export type ChartOptions = Omit<uPlot.Options, 'width' | 'height'>;

interface ChartContent {
  readonly options: ChartOptions;
  readonly data: uPlot.AlignedData;
  readonly height: number;
  /** Charts with equal keys differ in their data alone. */
  readonly key: string;
  /** Whole range of the x axis, if parts of it can be selected. */
  readonly range?: readonly [number, number];
}

/** A part of the page that can be drawn again with new data. */
export interface Panel {
  update(model: PageModel): void;
  /** Draws it anew: the colours have changed. */
  restyle(): void;
}

export class Chart {
  readonly #place: HTMLElement;
  #plot: uPlot | undefined;
  #key = '';
  #range: readonly [number, number] | undefined;

  constructor(place: HTMLElement) {
    this.#place = place;
    new ResizeObserver(() => {
      if (this.#plot && this.#plot.width !== this.#width)
        this.#plot.setSize({ width: this.#width, height: this.#plot.height });
    }).observe(place);
  }

  show({ options, data, height, key, range }: ChartContent): void {
    const plot = this.#plot;
    if (plot && this.#key === key && plot.height === height) {
      // A range that the user has selected stays while new data arrive.
      const { min, max } = plot.scales.x ?? {};
      const isWhole = min === this.#range?.[0] && max === this.#range?.[1];
      this.#range = range;
      plot.setData(data, isWhole);
      if (!isWhole && min != null && max != null) plot.setScale('x', { min, max });
      return;
    }
    plot?.destroy();
    [this.#key, this.#range] = [key, range];
    const zoomable: uPlot.Scale = {
      ...options.scales?.x,
      // Without a selected range uPlot passes that of the data, or one around a single value.
      range: ({ data: [xs = []] }, min, max) =>
        this.#range && (xs.length < 2 || (min === xs[0] && max === xs.at(-1)))
          ? [...this.#range]
          : [min, max],
    };
    const scales = { ...options.scales, x: range ? zoomable : { ...options.scales?.x } };
    this.#plot = new uPlot({ ...options, scales, width: this.#width, height }, data, this.#place);
  }

  /** Forgets the drawn chart, so that the next one is drawn with the present colours. */
  reset(): void {
    this.#key = '';
  }

  get #width(): number {
    return Math.max(240, Math.floor(this.#place.clientWidth));
  }
}

/** An axis in the page's colours. */
export const axis = (all: Colours, more: uPlot.Axis = {}): uPlot.Axis => ({
  stroke: all.muted,
  font: FONT,
  labelFont: FONT,
  grid: { stroke: all.grid, width: 1 },
  ticks: { stroke: all.grid, width: 1, size: 5 },
  ...more,
});

/** The axis of time. */
export const clockAxis = (all: Colours, more: uPlot.Axis = {}): uPlot.Axis =>
  axis(all, { values: (_, splits) => splits.map(clockText), space: 70, ...more });

/** The shown run. Its stages and events are drawn into every chart over time. */
let shown: Pick<PageModel, 'stages' | 'events'> = { stages: [], events: [] };

/** Sets the run that the charts show from now on. */
export function setShown(model: PageModel): void {
  shown = model;
}

/** Options that charts over time share. @param shadesStages false where the whole area is painted */
export const timeOptions = (shadesStages = true): Pick<ChartOptions, 'cursor' | 'plugins' | 'padding'> => ({
  padding: [14, 24, 0, 4],
  cursor: { sync: { key: 'clock', scales: ['x', null] }, drag: { x: true, y: false } },
  plugins: [marks(shadesStages)],
});

/** Range of the run's clock, at least one second. */
export const clockRange = ({ from, seconds }: PageModel): [number, number] => [
  from,
  Math.max(from + 1, seconds),
];

/** Maximum count of events that are marked. */
const MARKS_LIMIT = 60;

/** Shades the stages behind the lines, with their names, and marks the events above them. */
const marks = (shadesStages: boolean): uPlot.Plugin => ({
  hooks: {
    drawClear: (plot) => {
      if (shadesStages) within(plot, () => shadeStages(plot, shown.stages));
    },
    draw: (plot) => within(plot, () => markEvents(plot, shown.events.slice(0, MARKS_LIMIT))),
  },
});

/** Height of the names of the stages above the chart. */
const NAMES_HEIGHT = 14;

/** Draws within the chart and the line of names above it. */
function within({ ctx, bbox }: uPlot, draw: () => void): void {
  const above = NAMES_HEIGHT * devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top - above, bbox.width, bbox.height + above);
  ctx.clip();
  draw();
  ctx.restore();
}

function shadeStages(plot: uPlot, stages: PageModel['stages']): void {
  const { ctx, bbox } = plot;
  const all = colours();
  const scale = devicePixelRatio;
  ctx.font = `${11 * scale}px system-ui, sans-serif`;
  ctx.textBaseline = 'top';
  ctx.textAlign = 'left';
  let free = bbox.left;
  for (const [i, stage] of stages.entries()) {
    const [x0, x1] = [plot.valToPos(stage.from, 'x', true), plot.valToPos(stage.to, 'x', true)];
    ctx.fillStyle = all.stage;
    ctx.globalAlpha = i % 2 === 0 ? 1 : 0.55;
    ctx.fillRect(x0, bbox.top, x1 - x0, bbox.height);
    ctx.globalAlpha = 1;
    const at = Math.max(x0 + 4 * scale, free);
    const end = at + ctx.measureText(stage.name).width;
    if (end > bbox.left + bbox.width) continue;
    ctx.fillStyle = all.muted;
    ctx.fillText(stage.name, at, bbox.top - (NAMES_HEIGHT - 1) * scale);
    free = end + 10 * scale;
  }
}

function markEvents(plot: uPlot, events: PageModel['events']): void {
  const { ctx, bbox } = plot;
  const scale = devicePixelRatio;
  ctx.strokeStyle = colours().event;
  ctx.globalAlpha = 0.75;
  ctx.setLineDash([4 * scale, 3 * scale]);
  ctx.lineWidth = scale;
  for (const { at } of events) {
    const x = Math.round(plot.valToPos(at, 'x', true)) + 0.5;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
}
