/**
 * `mdevsim trace`: prints trace files, merged by time.
 */
import { bodyToJson, type Frame } from '../channel/codec.ts';
import { readTrace } from '../channel/trace.ts';

/** Fields of messages that are addresses or sizes: printed in hex. */
const HEX_FIELDS: ReadonlySet<string> = new Set(['iova', 'size', 'reason']);

/** Prints the frames of the files in order of time. @throws FrameError, the error of `open` */
export function traceCommand(files: readonly string[], { json }: { readonly json?: boolean }): void {
  for (const frame of mergeByTime(files.map((file) => readTrace(file))))
    process.stdout.write(`${json ? frameJson(frame) : frameText(frame)}\n`);
}

/** Merges generators that are each in order; holds one frame of each in memory. */
export function* mergeByTime(sources: readonly Generator<Frame>[]): Generator<Frame> {
  const heads = sources.map((source) => ({ source, next: source.next() }));
  for (;;) {
    let first: (typeof heads)[number] | undefined;
    for (const head of heads)
      if (
        !head.next.done &&
        (!first || head.next.value.header.timeUs < (first.next.value as Frame).header.timeUs)
      )
        first = head;
    if (!first) return;
    yield first.next.value as Frame;
    first.next = first.source.next();
  }
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

const fieldText = (name: string, value: unknown): string => {
  if (typeof value === 'number' && HEX_FIELDS.has(name)) return `0x${value.toString(16)}`;
  return typeof value === 'string'
    ? JSON.stringify(value)
    : Array.isArray(value)
      ? JSON.stringify(value)
      : String(value);
};

const frameJson = (frame: Frame): string =>
  JSON.stringify({ ...frame.header, kind: frame.kind, body: bodyToJson(frame) });
