/**
 * Reads the Trace Event Format strictly, as Perfetto's JSON importer takes it: what it would drop or count as an error
 * throws.
 */
import { z } from 'zod';

const id = z
  .int()
  .min(0)
  .max(2 ** 31 - 1);
const name = z.string().min(1);
const args = z.record(z.string(), z.union([z.string(), z.number(), z.boolean()]));
const ts = z.number().min(0);
const lane = { pid: id, tid: id };

const event = z.union([
  z.strictObject({
    ph: z.literal('X'),
    name,
    cat: name,
    ...lane,
    ts,
    dur: z.number().min(0),
    args: args.optional(),
  }),
  z.strictObject({
    ph: z.literal('i'),
    name,
    cat: name,
    ...lane,
    ts,
    s: z.enum(['t', 'p', 'g']),
    args: args.optional(),
  }),
  z.strictObject({ ph: z.literal('C'), name, ...lane, ts, args: z.record(z.string(), z.number()) }),
  z.strictObject({
    ph: z.literal('M'),
    name: z.enum(['process_name', 'thread_name']),
    ...lane,
    args: z.strictObject({ name }),
  }),
  z.strictObject({
    ph: z.literal('M'),
    name: z.enum(['process_sort_index', 'thread_sort_index']),
    ...lane,
    args: z.strictObject({ sort_index: z.int() }),
  }),
]);

interface TraceEvent {
  readonly ph: string;
  readonly name: string;
  readonly cat?: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly dur: number;
  readonly args: Readonly<Record<string, string | number | boolean>>;
}

interface Trace {
  readonly otherData: Readonly<Record<string, string | number>>;
  readonly events: readonly TraceEvent[];
  /** Names of lanes by `pid/tid`, and of processes by `pid`. */
  readonly names: ReadonlyMap<string, string>;
}

/** @throws Error for an event that is not valid, a lane without a name, and slices of a lane that cross */
export function parseTrace(text: string): Trace {
  const shape = z.strictObject({
    displayTimeUnit: z.enum(['ms', 'ns']),
    otherData: z.record(z.string(), z.union([z.string(), z.number()])),
    traceEvents: z.array(event),
  });
  const { otherData, traceEvents } = shape.parse(JSON.parse(text));
  const events = traceEvents as unknown as readonly TraceEvent[];
  const names = new Map<string, string>();
  for (const { ph, name: kind, pid, tid, args: values } of events)
    if (ph === 'M' && kind.endsWith('_name'))
      names.set(kind === 'process_name' ? `${pid}` : `${pid}/${tid}`, String(values.name));
  for (const { ph, pid, tid, name: what } of events)
    if ((ph === 'X' || ph === 'i') && (!names.has(`${pid}`) || !names.has(`${pid}/${tid}`)))
      throw new Error(`${what} in the lane ${pid}/${tid}, which has no name`);
  checkSlices(events.filter(({ ph }) => ph === 'X'));
  return { otherData, events, names };
}

/** Slices of a lane must follow or contain each other. @throws Error */
function checkSlices(slices: readonly TraceEvent[]): void {
  for (const [at, lane] of Map.groupBy(slices, ({ pid, tid }) => `${pid}/${tid}`)) {
    const open: number[] = [];
    for (const { name: what, ts: start, dur } of lane.toSorted((a, b) => a.ts - b.ts || b.dur - a.dur)) {
      while (open.length > 0 && (open.at(-1) as number) <= start) open.pop();
      const outer = open.at(-1);
      if (outer !== undefined && start + dur > outer)
        throw new Error(`${what} at ${start} in lane ${at} crosses the end of another one at ${outer}`);
      open.push(start + dur);
    }
  }
}
