/**
 * `mdevsim trace`: prints trace files, merged by time.
 */
import { hex } from '../memory/address.ts';
import { bodyToJson, type Frame } from '../proto/codec.ts';
import { readTrace } from '../proto/trace.ts';

/** Message fields that are printed in hex. */
const HEX_FIELDS: ReadonlySet<string> = new Set(['iova', 'size', 'reason']);

/** Prints the files' frames in order of time. @throws FrameError, the error of `open` */
export function traceCommand(files: readonly string[], { json }: { readonly json?: boolean }): void {
  for (const frame of mergeByTime(files.map((file) => readTrace(file))))
    process.stdout.write(`${json ? frameJson(frame) : frameText(frame)}\n`);
}

/**
 * Maximum distance in a file between two frames in the wrong order. A device's frame has the time at which it was sent,
 * but is written when the coordinator receives it.
 */
const REORDER_WINDOW = 4096;

/** Merges traces and sorts their frames by time. Holds REORDER_WINDOW frames per trace in memory. */
export function* mergeByTime(sources: readonly Generator<Frame>[]): Generator<Frame> {
  const window: Frame[] = [];
  const live = new Set(sources);
  while (live.size > 0)
    for (const source of live) {
      const { done, value } = source.next();
      if (done) live.delete(source);
      else window.splice(firstLater(window, value.header.timeUs), 0, value);
      if (window.length > REORDER_WINDOW * sources.length) yield window.shift() as Frame;
    }
  yield* window;
}

/** Returns the index of the first frame later than `timeUs`. */
function firstLater(frames: readonly Frame[], timeUs: number): number {
  let [low, high] = [0, frames.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((frames[middle] as Frame).header.timeUs <= timeUs) low = middle + 1;
    else high = middle;
  }
  return low;
}

function frameText(frame: Frame): string {
  const { timeUs, vm, device } = frame.header;
  const time = new Date(timeUs / 1000).toISOString().slice(11, 23) + String(timeUs % 1000).padStart(3, '0');
  const where = device < 0 ? `vm${vm}` : `vm${vm}/gpu${device}`;
  const fields = Object.entries(bodyToJson(frame)).map(
    ([name, value]) => `${name}=${fieldText(name, value)}`,
  );
  return `${time}  ${where.padEnd(12)} ${frame.kind.padEnd(20)} ${fields.join(' ')}`.trimEnd();
}

/** Longer values, such as histograms, are truncated in text; `--json` prints them in full. */
const FIELD_CHARACTERS = 100;

function fieldText(name: string, value: unknown): string {
  if (typeof value === 'number') return HEX_FIELDS.has(name) ? hex(value) : String(value);
  const text = JSON.stringify(value);
  return text.length > FIELD_CHARACTERS ? `${text.slice(0, FIELD_CHARACTERS)}…` : text;
}

const frameJson = (frame: Frame): string =>
  JSON.stringify({ ...frame.header, kind: frame.kind, body: bodyToJson(frame) });
