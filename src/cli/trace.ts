/**
 * `mdevsim trace`: prints trace files, merged by time.
 */
import { existsSync } from 'node:fs';
import { hex } from '../memory/address.ts';
import { bodyToJson, type Frame, FrameError } from '../proto/codec.ts';
import { readTrace, tracePath } from '../proto/trace.ts';
import { HOSTS_LIMIT } from '../scenario/scenario.ts';

/** Message fields that are printed in hex. */
const HEX_FIELDS: ReadonlySet<string> = new Set(['iova', 'size', 'reason']);

/**
 * Prints the files' frames in order of time. A file that is broken or cut is printed up to there.
 * @throws TraceError naming the broken files, the errors of `open`
 */
export function traceCommand(files: readonly string[], { json }: { readonly json?: boolean }): void {
  const problems: string[] = [];
  const traces = files.flatMap(filesOf).map((file) => readable(file, problems));
  for (const frame of mergeByTime(traces)) {
    if (process.stdout.errored) break; // the reader has gone
    process.stdout.write(`${json ? frameJson(frame) : frameText(frame)}\n`);
  }
  if (problems.length > 0) throw new TraceError(problems.join('\n'));
}

/** Thrown for broken files, when everything before the broken places has been printed. */
export class TraceError extends Error {
  override name = 'TraceError';
}

/** Returns the files of one trace: those of a run with several host processes end in `.0`, `.1`, …. */
function filesOf(file: string): string[] {
  if (existsSync(file)) return [file];
  const parts = Array.from({ length: HOSTS_LIMIT }, (_, process) => tracePath(file, process)).filter(
    existsSync,
  );
  return parts.length > 0 ? parts : [file];
}

/** Yields a file's frames; adds an error after the last sound one to `problems`. @throws the error of `open` */
function* readable(file: string, problems: string[]): Generator<Frame> {
  try {
    yield* readTrace(file);
  } catch (error) {
    if (!(error instanceof FrameError)) throw error;
    problems.push(`${file}: ${error.message}`);
  }
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
