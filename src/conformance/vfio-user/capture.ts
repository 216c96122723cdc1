/**
 * Reader of captures: the requests that a VMM's vfio-user client sent while a guest ran, one JSON object a line.
 *
 * The first line is the header `{capture, source, config}`. Events (`ev`: accept, mmap, eof) and requests (`cmd`)
 * follow in order. Only those that concern the DMA map are read: DMA_MAP, DMA_UNMAP, the `mmap` with the size of the
 * guest's memfd, and the closing `eof` with the count of live maps. Addresses and sizes are hex strings of up to 64
 * bits, and stay exact here (bigint).
 *
 * A file or a line in any other form is refused: a capture that lost its end would otherwise pass.
 */
import { closeSync, constants, createReadStream, fstatSync, openSync } from 'node:fs';
import { pipeline, type Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { PAGE_SIZE } from '../../memory/address.ts';
import { FRAME_SIZE } from '../../memory/host-memory.ts';

/** Maximum length of a line in bytes. Real captures have lines of up to about 300 bytes. */
export const LINE_BYTES_LIMIT = 64 * 1024;
/** Maximum count of lines in one capture. Real captures have up to 20 thousand. */
const LINES_LIMIT = 1_000_000;
/** Maximum count of pages in all maps of one capture. Real captures have up to two million. */
const PAGES_LIMIT = 2 ** 26;
/** Maximum size of the memfd, 2 GiB. A larger PC has RAM above 4 GiB, whose GPA is not its offset in the memfd. */
const MEMFD_LIMIT = 2 ** 31;

/** Maximum count of characters of the capture's own names in a message or a table. */
const NAME_LIMIT = 200;

/** Thrown for a file that is not a complete capture. The message names the file, the line and the expected input. */
export class CaptureError extends Error {
  readonly file: string;
  /** Line number from 1, or 0 for an error of the whole file. */
  readonly line: number;
  constructor(file: string, line: number, problem: string) {
    super(`${file}${line > 0 ? `:${line}` : ''}: ${problem}`);
    this.name = 'CaptureError';
    this.file = file;
    this.line = line;
  }
}

export interface CaptureHeader {
  readonly kind: 'header';
  /** The capture's name. */
  readonly capture: string;
  /** The vIOMMU of the recorded machine, as its recorder described it, or ''. */
  readonly viommu: string;
}

/** The guest's memory: one memfd of `size` bytes. Every later fd refers to it. */
interface MemoryEvent {
  readonly kind: 'memory';
  readonly line: number;
  readonly size: number;
}

export interface MapEvent {
  readonly kind: 'map';
  readonly line: number;
  readonly iova: bigint;
  readonly size: bigint;
  /** Offset in the memfd; meaningless without an fd. */
  readonly offset: bigint;
  /** The request's flags: PERM_READ, PERM_WRITE. */
  readonly flags: number;
  readonly hasFd: boolean;
}

export interface UnmapEvent {
  readonly kind: 'unmap';
  readonly line: number;
  readonly iova: bigint;
  readonly size: bigint;
  /** The request's flags: {@link UNMAP_ALL}. */
  readonly flags: number;
  /** Count of maps that it removed in the recording; 'all' means all live maps. */
  readonly removed: number | 'all';
}

/** A request or an event that does not change the DMA map. */
interface OtherEvent {
  readonly kind: 'other';
  readonly line: number;
}

export interface EofEvent {
  readonly kind: 'eof';
  readonly line: number;
  /** Count of live maps at the end of the recording. */
  readonly liveMaps: number;
}

export type CaptureEvent = MemoryEvent | MapEvent | UnmapEvent | OtherEvent | EofEvent;

/** VFIO_DMA_UNMAP_FLAG_ALL: removes all maps; the range is 0. */
export const UNMAP_ALL = 2;

/**
 * Reads the capture in `file`, gzipped if its name ends in .gz. Yields the header, then every line as an event; the
 * last one is `eof`. Keeps one line in memory.
 * @throws CaptureError
 */
export async function* readCapture(file: string): AsyncGenerator<CaptureHeader | CaptureEvent> {
  let line = 0;
  let pages = 0;
  let changes = 0;
  let hasMemory = false;
  let ended = false;
  for await (const { text, whole } of linesOf(file)) {
    line++;
    if (line > LINES_LIMIT) throw new CaptureError(file, line, `expected at most ${LINES_LIMIT} lines`);
    if (ended) throw new CaptureError(file, line, 'expected nothing after the eof line');
    const fields = new Fields(file, line, objectOf(file, line, text, whole));
    if (line === 1) {
      yield headerOf(fields);
      continue;
    }
    const event = eventOf(fields);
    if (event.kind === 'memory') {
      if (hasMemory) fields.fail('a second mmap event; expected one memfd');
      hasMemory = true;
    } else if (event.kind === 'map' && event.hasFd && !hasMemory)
      fields.fail('DMA_MAP with an fd; expected an mmap event with the size of the memfd before it');
    if (event.kind === 'map' || event.kind === 'unmap') changes++;
    if (event.kind === 'map') pages += Number(event.size) / PAGE_SIZE;
    if (pages > PAGES_LIMIT) fields.fail(`more than ${PAGES_LIMIT} pages in the maps so far`);
    ended = event.kind === 'eof';
    yield event;
  }
  if (line === 0) throw new CaptureError(file, 1, 'the file is empty; expected a capture header');
  if (!ended)
    throw new CaptureError(
      file,
      line,
      'the capture ends here; expected an eof line with liveMaps: it is truncated',
    );
  if (changes === 0) throw new CaptureError(file, line, 'the capture has no DMA_MAP and no DMA_UNMAP');
}

function headerOf(fields: Fields): CaptureHeader {
  const { capture, config } = fields.values;
  if (typeof capture !== 'string' || capture === '')
    fields.fail('expected a capture header: an object whose "capture" is its name');
  const viommu = isRecord(config) && typeof config.viommu === 'string' ? config.viommu : '';
  return { kind: 'header', capture: plain(String(capture)), viommu: plain(viommu) };
}

function eventOf(fields: Fields): CaptureEvent {
  const { line } = fields;
  const { ev, cmd } = fields.values;
  if (ev === 'mmap') return memoryOf(fields);
  if (ev === 'eof') {
    fields.checkNames('ev liveMaps');
    return { kind: 'eof', line, liveMaps: fields.integer('liveMaps') };
  }
  if (ev === 'accept') return { kind: 'other', line };
  if (ev !== undefined) fields.fail(`"ev" is ${shown(ev)}; expected "accept", "mmap" or "eof"`);
  if (cmd === 'DMA_MAP') return mapOf(fields);
  if (cmd === 'DMA_UNMAP') return unmapOf(fields);
  if (typeof cmd !== 'string') fields.fail('expected a request with "cmd" or an event with "ev"');
  if (!OTHER_COMMANDS.has(String(cmd).replace(/^DEVICE_/, '')))
    fields.fail(`"cmd" is ${shown(cmd)}; expected a command of vfio-user, such as "DMA_MAP" or "DMA_UNMAP"`);
  return { kind: 'other', line };
}

/** Commands of vfio-user that do not concern the DMA map, without the prefix DEVICE_. */
const OTHER_COMMANDS: ReadonlySet<string> = new Set(
  `VERSION GET_INFO GET_REGION_INFO GET_REGION_IO_FDS GET_IRQ_INFO SET_IRQS REGION_READ REGION_WRITE REGION_WRITE_MULTI
  DMA_READ DMA_WRITE RESET FEATURE MIG_DATA_READ MIG_DATA_WRITE`.split(/\s+/),
);

function memoryOf(fields: Fields): MemoryEvent {
  fields.checkNames('ev size');
  const size = Number(fields.hex('size'));
  if (size === 0 || size > MEMFD_LIMIT || size % FRAME_SIZE !== 0)
    fields.fail(`memfd of ${size} bytes; expected a multiple of 2 MiB up to 2 GiB`);
  return { kind: 'memory', line: fields.line, size };
}

function mapOf(fields: Fields): MapEvent {
  fields.checkNames('cmd id hasFd argsz flags offset iova size');
  const fds = fields.integer('hasFd');
  if (fds > 1) fields.fail(`DMA_MAP with ${fds} fds; expected 0 or 1`);
  return {
    kind: 'map',
    line: fields.line,
    iova: fields.hex('iova'),
    size: fields.hex('size'),
    offset: fields.hex('offset'),
    flags: fields.integer('flags'),
    hasFd: fds === 1,
  };
}

function unmapOf(fields: Fields): UnmapEvent {
  fields.checkNames('cmd id hasFd argsz flags iova size rangeDeleted miss');
  const { rangeDeleted, miss } = fields.values;
  const flags = fields.integer('flags');
  const silent = miss === true ? 0 : (flags & UNMAP_ALL) !== 0 ? 'all' : 1;
  return {
    kind: 'unmap',
    line: fields.line,
    iova: fields.hex('iova'),
    size: fields.hex('size'),
    flags,
    removed: rangeDeleted === undefined ? silent : fields.integer('rangeDeleted'),
  };
}

/** JSON object of one line, read field by field. */
class Fields {
  readonly file: string;
  readonly line: number;
  readonly values: Readonly<Record<string, unknown>>;

  constructor(file: string, line: number, values: Readonly<Record<string, unknown>>) {
    this.file = file;
    this.line = line;
    this.values = values;
  }

  /** Always throws. @throws CaptureError */
  fail(problem: string): never {
    throw new CaptureError(this.file, this.line, problem);
  }

  /** Refuses names other than these and `t_us`: a misspelt one would be ignored. @throws CaptureError */
  checkNames(names: string): void {
    const known = `t_us ${names}`.split(' ');
    const unknown = Object.keys(this.values).find((name) => !known.includes(name));
    if (unknown !== undefined) this.fail(`unknown field ${shown(unknown)}; accepted: ${known.join(', ')}`);
  }

  /** Returns an unsigned 64-bit number from a hex string. */
  hex(name: string): bigint {
    const value = this.values[name];
    if (typeof value !== 'string' || !/^0x[0-9a-f]{1,16}$/i.test(value))
      this.fail(`"${name}" is ${shown(value)}; expected a hex string of up to 64 bits, such as "0x1000"`);
    return BigInt(value as string);
  }

  /** Returns an unsigned 32-bit number. */
  integer(name: string): number {
    const value = this.values[name];
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value >= 2 ** 32)
      this.fail(`"${name}" is ${shown(value)}; expected an integer from 0 to 4294967295`);
    return value as number;
  }
}

function objectOf(file: string, line: number, text: string, whole: boolean): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new CaptureError(
      file,
      line,
      whole
        ? `not JSON: ${shown(text)}; expected ${line === 1 ? 'a capture header' : 'a JSON object'} on one line`
        : `cut inside the line, after ${text.length} characters; expected a whole JSON object and a newline`,
    );
  }
  if (!isRecord(value))
    throw new CaptureError(
      file,
      line,
      `${shown(value)}; expected ${line === 1 ? 'a capture header' : 'a JSON object'}`,
    );
  return value;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Converts a value of the file to text for an error message: short, on one line. */
const shown = (value: unknown): string => {
  const text = JSON.stringify(value) ?? 'missing';
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
};

/** Makes a name safe for a terminal: replaces control characters and limits the length. */
const plain = (text: string): string => text.replaceAll(/\p{C}/gu, '?').slice(0, NAME_LIMIT);

interface Line {
  readonly text: string;
  /** False for a last line without its newline. */
  readonly whole: boolean;
}

/** Yields the file's lines, each of at most LINE_BYTES_LIMIT bytes. @throws CaptureError */
async function* linesOf(file: string): AsyncGenerator<Line> {
  let line = 1;
  let pending: Buffer = Buffer.alloc(0);
  try {
    for await (const chunk of bytesOf(file)) {
      const bytes: Buffer = pending.length > 0 ? Buffer.concat([pending, chunk]) : chunk;
      let start = 0;
      for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, start)) {
        checkLength(file, line++, end - start);
        yield { text: bytes.toString('utf8', start, end), whole: true };
        start = end + 1;
      }
      pending = bytes.subarray(start);
      checkLength(file, line, pending.length);
    }
  } catch (error) {
    throw error instanceof CaptureError ? error : unreadable(file, line, error);
  }
  if (pending.length > 0) yield { text: pending.toString(), whole: false };
}

function checkLength(file: string, line: number, length: number): void {
  if (length > LINE_BYTES_LIMIT)
    throw new CaptureError(
      file,
      line,
      `line of more than ${LINE_BYTES_LIMIT} bytes; expected one JSON object a line`,
    );
}

/** @throws the file system's own errors, CaptureError for a FIFO or a device, which may never end */
function bytesOf(file: string): Readable {
  const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  if (!fstatSync(fd).isFile()) {
    closeSync(fd);
    throw new CaptureError(file, 0, 'not a regular file; expected a .jsonl or .jsonl.gz');
  }
  const source = createReadStream(file, { fd });
  // The iteration throws the error of either stream, so the callback does nothing.
  return file.endsWith('.gz') ? pipeline(source, createGunzip(), () => {}) : source;
}

/** Converts a failed read to a CaptureError. zlib's codes begin with Z_. */
function unreadable(file: string, line: number, error: unknown): CaptureError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (code === 'Z_BUF_ERROR')
    return new CaptureError(file, line, 'the gzip data end early; expected a whole .jsonl.gz');
  if (code.startsWith('Z_'))
    return new CaptureError(file, line, 'broken gzip data; expected a .jsonl.gz made by gzip');
  if (code === 'ENOENT') return new CaptureError(file, 0, 'no such file; expected a .jsonl or .jsonl.gz');
  return new CaptureError(file, 0, `cannot be read (${code || error}); expected a .jsonl or .jsonl.gz`);
}
