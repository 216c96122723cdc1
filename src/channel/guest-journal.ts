/**
 * The journal of a guest's script, in memory that it shares with its coordinator: counters, messages of failed checks,
 * and notes. The coordinator can read it at any time, so nothing is lost with a guest that hangs or whose worker dies.
 *
 * Only the guest's thread writes. Lines are appended:
 *   1. The guest writes the line's length and bytes behind the last line.
 *   2. It stores the new end.
 *   3. The coordinator loads the end, and reads only the bytes before it: with the end it sees those bytes, too.
 * A counter is two words, and a reader must not combine halves of two values:
 *   1. To change the upper half, the guest stores the new one with the bit CHANGING, then the lower half, then the upper
 *      half without the bit.
 *   2. A reader takes a lower half only between two equal loads of the upper half without the bit.
 *   3. If a guest stops in the middle, the reader returns the new upper half alone. A growing counter is then neither
 *      below the old value nor above the new one.
 * The coordinator trusts nothing here. Counters are masked to 53 bits, and lines are bounded by the memory.
 */
import * as mem from '#mem';

const { ld, st } = mem;

/** Counters of the journal, in the order of their words. */
const COUNTERS = ['operations', 'bytesVerified', 'mismatches', 'checksFailed', 'notesCut'] as const;
type Counter = (typeof COUNTERS)[number];

/** Kind of a line. */
export const JournalLine = { failure: 1, note: 2 } as const;
export type JournalLine = (typeof JournalLine)[keyof typeof JournalLine];

/** Maximum count of lines of each kind; further ones are only counted. */
export const JOURNAL_LIMITS: Readonly<Record<JournalLine, number>> = { 1: 16, 2: 32 };

const WORD_END = 2 * COUNTERS.length;
const HEADER_BYTES = 64;
/** Bytes before a line's text: its kind, and its length in little-endian order. */
const PREFIX_BYTES = 3;
/** Maximum length of a line in bytes; the rest is cut off. */
const LINE_BYTES_LIMIT = 3072;
const LINES_LIMIT = JOURNAL_LIMITS[1] + JOURNAL_LIMITS[2];
/** Size of a journal. Memory that no line has reached is not committed. */
const JOURNAL_BYTES: number = HEADER_BYTES + LINES_LIMIT * (PREFIX_BYTES + LINE_BYTES_LIMIT);

/** Largest high word of a counter: 53 bits in total. */
const HIGH_MASK = 0x1f_ffff;
const HALF = 2 ** 32;
/** Bit of a high word while the two halves of its counter do not match. */
const CHANGING = 1 << 30;
/** Most reads of a counter that changes meanwhile. */
const READ_TRIES = 4;

/** Content of a journal. */
export interface JournalContent extends Readonly<Record<Counter, number>> {
  readonly failures: readonly string[];
  readonly notes: readonly string[];
}

export class GuestJournal {
  readonly sab: SharedArrayBuffer;
  readonly #words: mem.SharedWords;
  readonly #bytes: mem.SharedBytes;
  readonly #lines = { 1: 0, 2: 0 };
  /** The guest's own copies of the counters that it has written, which save it a read of shared words. */
  readonly #own: (number | undefined)[] = [];

  /** Makes an empty journal, or opens the one in `sab`. */
  constructor(sab: SharedArrayBuffer = new SharedArrayBuffer(JOURNAL_BYTES)) {
    this.sab = sab;
    this.#words = mem.wordsOf(sab, 0, HEADER_BYTES / 4);
    this.#bytes = mem.bytesOf(sab, HEADER_BYTES);
  }

  get(counter: Counter): number {
    const index = 2 * COUNTERS.indexOf(counter);
    let high = ld(this.#words, index + 1, 'journal.counter');
    for (let tries = 0; tries < READ_TRIES; tries++) {
      const before = high;
      const low = ld(this.#words, index, 'journal.counter');
      high = ld(this.#words, index + 1, 'journal.counter');
      if (high === before && (high & CHANGING) === 0) return (high & HIGH_MASK) * 2 ** 32 + (low >>> 0);
    }
    return (high & HIGH_MASK) * 2 ** 32;
  }

  /** Sets a counter. A value that is no count, such as NaN, leaves it as it was; a negative one is 0. */
  set(counter: Counter, value: unknown): void {
    const wanted = typeof value === 'bigint' ? Number(value) : value;
    if (typeof wanted !== 'number' || Number.isNaN(wanted)) return;
    const count = Math.floor(Math.min(Math.max(wanted, 0), Number.MAX_SAFE_INTEGER));
    const at = COUNTERS.indexOf(counter);
    this.#own[at] = count;
    const index = 2 * at;
    const high = Math.floor(count / 2 ** 32);
    const carries = ld(this.#words, index + 1, 'journal.counter') !== high;
    if (carries) st(this.#words, index + 1, high | CHANGING, 'journal.counter');
    st(this.#words, index, count | 0, 'journal.counter');
    if (carries) st(this.#words, index + 1, high, 'journal.counter');
  }

  /** Adds to a counter. Only the guest does. */
  add(counter: Counter, count: number): void {
    const at = COUNTERS.indexOf(counter);
    const before = this.#own[at] ?? this.get(counter);
    const after = before + count;
    this.#own[at] = after;
    // The upper half changes once in 2^32.
    if (after % HALF >= count && after < Number.MAX_SAFE_INTEGER)
      st(this.#words, 2 * at, after | 0, 'journal.counter');
    else this.set(counter, after);
  }

  /** Appends a line. Returns false if there are JOURNAL_LIMITS of its kind already. */
  append(kind: JournalLine, text: string): boolean {
    if (this.#lines[kind] >= JOURNAL_LIMITS[kind]) return false;
    this.#lines[kind]++;
    const bytes = Buffer.from(text).subarray(0, LINE_BYTES_LIMIT);
    const end = ld(this.#words, WORD_END, 'journal.end');
    const prefix = Uint8Array.of(kind, bytes.length & 0xff, bytes.length >>> 8);
    mem.copyIn(this.#bytes, end, prefix, 0, PREFIX_BYTES, 'journal.line');
    mem.copyIn(this.#bytes, end + PREFIX_BYTES, bytes, 0, bytes.length, 'journal.line');
    st(this.#words, WORD_END, end + PREFIX_BYTES + bytes.length, 'journal.end');
    return true;
  }

  /** Returns the content as it is now. */
  read(): JournalContent {
    const counters = Object.fromEntries(COUNTERS.map((name) => [name, this.get(name)]));
    const lines = this.#readLines();
    const textsOf = (kind: JournalLine) => lines.filter((line) => line.kind === kind).map(({ text }) => text);
    return {
      ...(counters as Record<Counter, number>),
      failures: textsOf(JournalLine.failure),
      notes: textsOf(JournalLine.note),
    };
  }

  #readLines(): { readonly kind: number; readonly text: string }[] {
    const end = Math.min(ld(this.#words, WORD_END, 'journal.end') >>> 0, this.#bytes.length);
    const bytes = Buffer.alloc(end);
    mem.copyOut(bytes, 0, this.#bytes, 0, end, 'journal.line');
    const lines: { kind: number; text: string }[] = [];
    for (let at = 0; at + PREFIX_BYTES <= end && lines.length < LINES_LIMIT; ) {
      const length = bytes.readUInt16LE(at + 1);
      const text = bytes.toString('utf8', at + PREFIX_BYTES, Math.min(end, at + PREFIX_BYTES + length));
      lines.push({ kind: bytes[at] as number, text });
      at += PREFIX_BYTES + length;
    }
    return lines;
  }
}
