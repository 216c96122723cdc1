/**
 * Charts with a row for each vGPU or GPU: uPlot has the axes, the cursor and the selection of a range, and each chart
 * paints its rows.
 */
import type uPlot from 'uplot';
import { axis, Chart, type ChartOptions } from './chart.ts';
import type { Colours } from './theme.ts';

/** Height of all rows together, which many rows divide; and limits of the height of one. */
const ROWS_HEIGHT = 640;
const ROW_MAX = 26;
const ROW_MIN = 2;
/** Height of the axis and the space around it. */
const AXIS_HEIGHT = 44;
/** Least height of a row that has a name of its own on the axis. */
const NAME_HEIGHT = 13;

interface RowsContent {
  readonly names: readonly string[];
  readonly range: readonly [number, number];
  readonly key: string;
  /** Height of a row of few; they may be higher than the usual limit. */
  readonly rowHeight?: number;
  readonly colours: Colours;
  readonly xAxis: uPlot.Axis;
  readonly base: Pick<ChartOptions, 'cursor' | 'plugins' | 'padding'>;
  /** Paints the row between the pixels `top` and `bottom`; `x` returns the pixel of a value. */
  paint(
    ctx: CanvasRenderingContext2D,
    row: number,
    top: number,
    bottom: number,
    x: (at: number) => number,
  ): void;
  /** Called with the row and the value under the pointer; undefined outside. */
  point(row: number | undefined, at: number): void;
}

const rowHeightOf = (rows: number, highest = ROW_MAX): number =>
  Math.max(ROW_MIN, Math.min(highest, Math.floor(ROWS_HEIGHT / Math.max(1, rows))));

/** A chart of rows. New content with an equal key is painted without a new chart. */
export class RowsChart {
  readonly #chart: Chart;
  #content: RowsContent | undefined;

  constructor(place: HTMLElement) {
    this.#chart = new Chart(place);
  }

  /** Forgets the drawn chart, so that the next one is drawn with the present colours. */
  reset(): void {
    this.#chart.reset();
  }

  show(content: RowsContent): void {
    this.#content = content;
    const { names, range, colours: all, xAxis, base } = content;
    const count = Math.max(1, names.length);
    const rowHeight = rowHeightOf(count, content.rowHeight);
    const every = Math.ceil(NAME_HEIGHT / rowHeight);
    const shown = names.map((_, i) => i).filter((i) => i % every === 0);
    const widest = Math.max(0, ...names.map(({ length }) => length));
    this.#chart.show({
      key: `${content.key} ${names.join()}`,
      height: count * rowHeight + AXIS_HEIGHT,
      range,
      data: [
        [range[0], range[1]],
        [0, count],
      ],
      options: {
        ...base,
        legend: { show: false },
        scales: { x: { time: false }, y: { dir: -1, range: [0, count] } },
        axes: [
          // Rows beyond the height of the page scroll: their axis stands above them.
          { ...xAxis, side: count * rowHeight > ROWS_HEIGHT ? 0 : 2 },
          axis(all, {
            size: Math.min(120, 16 + widest * 6.5),
            splits: () => shown.map((i) => i + 0.5),
            values: () => shown.map((i) => names[i] ?? ''),
            grid: { show: false },
            ticks: { show: false },
          }),
        ],
        series: [{}, { paths: () => null, points: { show: false } }],
        hooks: { draw: [(plot) => this.#paint(plot)], setCursor: [(plot) => this.#point(plot)] },
      },
    });
  }

  #paint({ ctx, bbox, valToPos }: uPlot): void {
    if (!this.#content) return;
    const { paint, names } = this.#content;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const height = bbox.height / Math.max(1, names.length);
    const gap = height > 6 * devicePixelRatio ? 2 * devicePixelRatio : 0;
    const x = (at: number) => valToPos(at, 'x', true);
    for (let row = 0; row < names.length; row++)
      paint(ctx, row, bbox.top + row * height, bbox.top + (row + 1) * height - gap, x);
    ctx.restore();
  }

  #point({ cursor: { left = -1, top = -1 }, posToVal }: uPlot): void {
    if (!this.#content) return;
    const { point, names } = this.#content;
    if (left < 0 || top < 0) point(undefined, 0);
    else point(Math.min(names.length - 1, Math.floor(posToVal(top, 'y'))), posToVal(left, 'x'));
  }
}
