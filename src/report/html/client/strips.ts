/**
 * The address-space strip of every device: over time, how much of its container is GPA (identity) and how much IOVA.
 */
import type { PageModel, StripRow, SwitchRow } from '../page-model.ts';
import { clockAxis, type Panel, timeOptions } from './chart.ts';
import { bytesText, clockText, timeText } from './format.ts';
import { RowsChart } from './rows.ts';
import { type Colours, colours } from './theme.ts';

/** Numbers of a segment in a row. */
const FIELDS = 6;
const KIB = 1024;
const MICRO = 1e6;
/** Mapped bytes at the lower end of the scale, and least part of a row's height. */
const LEAST_BYTES = 4096;
const LEAST_HEIGHT = 0.15;
/** Height of rows below which heights cannot be told apart. */
const LOW_ROW = 8;

interface Segment {
  readonly from: number;
  readonly to: number;
  /** Parts of the time. */
  readonly gpa: number;
  readonly iova: number;
  readonly gpaBytes: number;
  readonly iovaBytes: number;
  readonly switches: number;
}

export class StripsPanel implements Panel {
  readonly #chart: RowsChart;
  readonly #readout: HTMLElement;
  readonly #table: SwitchTable;
  #model: PageModel | undefined;

  constructor(place: HTMLElement, readout: HTMLElement, devices: HTMLSelectElement, table: HTMLElement) {
    this.#chart = new RowsChart(place);
    this.#readout = readout;
    this.#table = new SwitchTable(devices, table);
  }

  update(model: PageModel): void {
    this.#model = model;
    this.#table.update(model);
    this.#draw(model);
  }

  restyle(): void {
    this.#chart.reset();
    if (this.#model) this.#draw(this.#model);
  }

  #draw(model: PageModel): void {
    const rows = model.strips.map(segmentsOf);
    const all = colours();
    const highest = Math.max(LEAST_BYTES, ...rows.flat().flatMap((s) => [s.gpaBytes, s.iovaBytes]));
    const from = Math.min(0, ...rows.flatMap((row) => row[0]?.from ?? 0));
    const to = Math.max(1, model.seconds, ...rows.flatMap((row) => row.at(-1)?.to ?? 0));
    this.#chart.show({
      key: 'strips',
      names: model.vgpus,
      range: [from, to],
      rowHeight: 34,
      colours: all,
      xAxis: clockAxis(all),
      base: timeOptions(false),
      paint: (ctx, row, top, bottom, x) => {
        for (const segment of rows[row] ?? []) paintSegment(ctx, segment, { top, bottom, x, highest }, all);
        ctx.fillStyle = all.text;
        for (const [, , at] of model.strips[row]?.switches ?? [])
          ctx.fillRect(Math.round(x(at / MICRO)), top, devicePixelRatio, bottom - top);
      },
      point: (row, at) => {
        const segment = row === undefined ? undefined : rows[row]?.find((s) => at >= s.from && at < s.to);
        this.#readout.textContent =
          row === undefined || !segment ? '' : `${model.vgpus[row]}, ${segmentText(segment)}`;
      },
    });
  }
}

function segmentsOf({ start, segments }: StripRow): Segment[] {
  const result: Segment[] = [];
  let from = start;
  for (let i = 0; i + FIELDS <= segments.length; i += FIELDS) {
    const [us = 0, gpa = 0, iova = 0, gpaKib = 0, iovaKib = 0, switches = 0] = segments.slice(i, i + FIELDS);
    const to = from + us / MICRO;
    const bytes = { gpaBytes: gpaKib * KIB, iovaBytes: iovaKib * KIB };
    result.push({ from, to, gpa: gpa / 100, iova: iova / 100, ...bytes, switches });
    from = to;
  }
  return result;
}

interface Area {
  readonly top: number;
  readonly bottom: number;
  readonly highest: number;
  x(at: number): number;
}

/**
 * Paints a segment: the height stands for the mapped bytes on a logarithmic scale. A segment with both kinds is divided
 * by their parts of the time.
 */
function paintSegment(ctx: CanvasRenderingContext2D, segment: Segment, area: Area, all: Colours): void {
  const { top, bottom, highest, x } = area;
  // Whole pixels: parts of them would leave seams.
  const left = Math.round(x(segment.from));
  const width = Math.round(x(segment.to)) - left;
  if (width <= 0) return;
  ctx.fillStyle = all.none;
  ctx.fillRect(left, top, width, bottom - top);
  // A row of a few pixels shows the kind alone.
  const isLow = bottom - top < LOW_ROW * devicePixelRatio;
  const height = (bytes: number) =>
    bytes <= 0 || isLow
      ? Math.sign(bytes) * (bottom - top)
      : (bottom - top) *
        Math.max(LEAST_HEIGHT, Math.log(1 + bytes / LEAST_BYTES) / Math.log(1 + highest / LEAST_BYTES));
  const gpaWidth = Math.round(width * segment.gpa);
  ctx.fillStyle = all.gpa;
  ctx.fillRect(left, bottom - height(segment.gpaBytes), gpaWidth, height(segment.gpaBytes));
  ctx.fillStyle = all.iova;
  const iovaHeight = height(segment.iovaBytes);
  ctx.fillRect(left + gpaWidth, bottom - iovaHeight, Math.round(width * segment.iova), iovaHeight);
}

function segmentText({ from, to, gpa, iova, gpaBytes, iovaBytes, switches }: Segment): string {
  const parts = [
    gpa > 0 && `GPA ${bytesText(gpaBytes)}${gpa < 1 ? ` for ${Math.round(gpa * 100)} % of it` : ''}`,
    iova > 0 && `IOVA ${bytesText(iovaBytes)}${iova < 1 ? ` for ${Math.round(iova * 100)} % of it` : ''}`,
    gpa + iova === 0 && 'nothing mapped',
    switches > 1 && `${switches} switches`,
  ].filter((part) => part !== false);
  return `${clockText(from)} to ${clockText(to)}: ${parts.join(', ')}`;
}

/** Words of the kinds of address spaces, by number. */
const KINDS = ['nothing', 'GPA', 'IOVA'];

/** The switches of one device, chosen from a list. */
class SwitchTable {
  readonly #devices: HTMLSelectElement;
  readonly #table: HTMLElement;
  #model: PageModel | undefined;

  constructor(devices: HTMLSelectElement, table: HTMLElement) {
    this.#devices = devices;
    this.#table = table;
    devices.addEventListener('change', () => this.#draw());
  }

  update(model: PageModel): void {
    this.#model = model;
    if (this.#devices.options.length !== model.vgpus.length)
      this.#devices.replaceChildren(...model.vgpus.map((name, i) => new Option(name, String(i))));
    this.#draw();
  }

  #draw(): void {
    const strip = this.#model?.strips[Number(this.#devices.value) || 0];
    const head = ['at', 'from', 'to', 'old mappings gone', 'new ones there', 'mapped before', 'after'];
    const rows = strip?.switches.map(cellsOf) ?? [];
    const more = (strip?.switchCount ?? 0) - rows.length;
    const table = document.createElement('table');
    table.append(rowOf('th', head), ...rows.map((cells) => rowOf('td', cells)));
    const note = document.createElement('p');
    note.className = 'muted';
    note.textContent = more > 0 ? `The first and the last switches; ${more} more are not listed.` : '';
    this.#table.replaceChildren(table, note);
  }
}

const cellsOf = ([from, to, at, removedUs, tookUs, before, after]: SwitchRow): string[] => [
  clockText(at / MICRO),
  KINDS[from] ?? '–',
  KINDS[to] ?? '–',
  removedUs > 0 ? `after ${timeText(removedUs)}` : 'only differences',
  `after ${timeText(tookUs)}`,
  bytesText(before * KIB),
  bytesText(after * KIB),
];

function rowOf(kind: 'th' | 'td', texts: readonly string[]): HTMLTableRowElement {
  const row = document.createElement('tr');
  row.append(
    ...texts.map((text) => {
      const cell = document.createElement(kind);
      cell.textContent = text;
      return cell;
    }),
  );
  return row;
}
