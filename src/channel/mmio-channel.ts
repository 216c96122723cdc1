/**
 * MMIO channel between a guest and the thread that owns the registers. Posted writes and non-posted reads are entries
 * of a ring in shared memory, in order. No message is sent.
 */

import { afterCallback } from '#host';
import * as mem from '#mem';
import { type AccessSize, allOnes } from '../memory/bus-access.ts';
import { Gate } from './gate.ts';

const { ld, st, rd, wr, add, wake, waitEqAsync, wordsOf, bytesOf, copyIn, copyOut } = mem;

/** Entries that a guest may post before the owner takes them. The guest waits while the ring is full. */
export const MMIO_RING_ENTRIES = 256;
/** Time that a guest waits for an answer or for space before it treats the owner as dead: reads return all ones. */
const MMIO_TIMEOUT_MS = 60_000;

const WORD_TAIL = 0;
const WORD_HEAD = 1;
const WORD_REPLY_SEQUENCE = 2;
const WORD_REPLY_LOW = 3;
const WORD_REPLY_HIGH = 4;
const WORD_CLOSED = 5;
const WORD_ENTRIES = 8;

const ENTRY_WORDS = 8;
const OP_READ = 1;
const OP_WRITE = 2;
const OP_READ_BLOCK = 3;
const OP_WRITE_BLOCK = 4;

export const MMIO_CHANNEL_BYTES = (WORD_ENTRIES + MMIO_RING_ENTRIES * ENTRY_WORDS) * 4;

/** Bytes of the window for block accesses, if a channel has one. */
export const MMIO_WINDOW_BYTES = 16_384;

/** Region indices: 0 to 5 are PCI BARs as in VFIO_PCI_BAR*_REGION_INDEX, 7 is configuration space. */
export const REGION_BAR0 = 0;
export const REGION_CONFIG = 7;
/**
 * Picture that a device displays: the first index that VFIO leaves to devices. The guest's machine does not have it.
 */
export const REGION_SCANOUT = 9;

/** A write that has not been posted yet. */
interface CombinedWrite {
  readonly region: number;
  readonly offset: number;
  readonly size: AccessSize;
  value: number;
}

/** Guest's end, for one thread. Entries enter the ring in the order of the calls, also when the ring was full. */
export class MmioPort {
  readonly #words: mem.SharedWords;
  readonly #window: mem.SharedBytes | undefined;
  readonly #notify: () => void;
  readonly #gate: Gate;
  #reads: Promise<unknown> = Promise.resolve();
  /** Last of the entries that found the ring full. Later entries queue behind it. */
  #queue: Promise<unknown> = Promise.resolve();
  #queued = 0;
  /** Count of those among them that came while the gate was closed. */
  #held = 0;
  /** Writes to post at the end of the callback; at most one of each register. */
  readonly #combined: CombinedWrite[] = [];
  /** Count of block accesses that have begun and not ended. */
  #blocks = 0;
  #sequence = 0;
  /** Set when an answer or space did not come in time. A late answer must not be taken for the next one. */
  #dead = false;

  /**
   * `windowOffset` is the offset of the channel's window, for block accesses. While `gate` is closed, no entry enters the
   * ring.
   */
  constructor(
    sab: SharedArrayBuffer,
    byteOffset: number,
    notify: () => void,
    windowOffset?: number,
    gate = new Gate(),
  ) {
    this.#words = wordsOf(sab, byteOffset, MMIO_CHANNEL_BYTES / 4);
    this.#window = windowAt(sab, windowOffset);
    this.#notify = notify;
    this.#gate = gate;
  }

  /** Names of the accesses that have begun, of which the owner may not see all; for messages. */
  get unfinished(): string[] {
    const queued = this.#queued - this.#held;
    const waiting = queued === 0 ? [] : [`${queued} register accesses that wait for room`];
    return this.#blocks === 0 ? waiting : [...waiting, `${this.#blocks} block accesses`];
  }

  /** Posts a write. Resolves when it is in the ring: at once, unless the ring is full. */
  write(region: number, offset: number, size: AccessSize, value: bigint): void | Promise<void> {
    return this.#push(OP_WRITE, region, offset, size, value)?.then(() => {});
  }

  /**
   * Posts a write of a doorbell: at the end of the event loop's callback that runs now, but before any later access. It
   * replaces an earlier one of the same register that is not posted yet, as a write-combining buffer does. A doorbell
   * costs as much as several commands, and one serves all that are queued.
   */
  writeCombined(region: number, offset: number, size: AccessSize, value: number): void {
    const combined = this.#combined;
    for (const write of combined) {
      if (write.region !== region || write.offset !== offset) continue;
      write.value = value;
      return;
    }
    if (combined.length === 0) afterCallback(() => this.postCombined());
    combined.push({ region, offset, size, value });
  }

  /** Posts the combined writes now, also if the gate has closed after they were made. */
  postCombined(): void {
    for (const { region, offset, size, value } of this.#combined.splice(0)) {
      const isNext = this.#queued === 0;
      if (isNext && this.#tryPush(OP_WRITE, region, offset, size, BigInt(value))) continue;
      void this.#push(OP_WRITE, region, offset, size, BigInt(value));
    }
  }

  /** Reads, after the owner has taken all earlier writes. Returns all ones if the owner has gone. */
  read(region: number, offset: number, size: AccessSize): Promise<bigint> {
    const ones = allOnes(size);
    return this.#afterReads(async () => {
      if (!(await this.#exchange(OP_READ, region, offset, size))) return ones;
      const low = BigInt(rd(this.#words, WORD_REPLY_LOW, 'link.word') >>> 0);
      const high = BigInt(rd(this.#words, WORD_REPLY_HIGH, 'link.word') >>> 0);
      return ((high << 32n) | low) & ones;
    });
  }

  /** Fills `target` by consecutive reads of a region, with 0xff if the owner has gone. @throws RangeError */
  async readBlock(region: number, offset: number, target: Uint8Array): Promise<void> {
    await this.#eachBlock(target, async (block, at, window) => {
      const answered = await this.#exchange(OP_READ_BLOCK, region, offset + at, block.length);
      if (answered) copyOut(block, 0, window, 0, block.length, 'ring.slot');
      else block.fill(0xff);
    });
  }

  /** Writes `source` to a region by consecutive writes. Resolves when the owner has taken it. @throws RangeError */
  async writeBlock(region: number, offset: number, source: Uint8Array): Promise<void> {
    await this.#eachBlock(source, async (block, at, window) => {
      copyIn(window, 0, block, 0, block.length, 'ring.slot');
      await this.#exchange(OP_WRITE_BLOCK, region, offset + at, block.length);
    });
  }

  /** Moves `bytes` through the window, one window-sized block after another. */
  async #eachBlock(
    bytes: Uint8Array,
    move: (block: Uint8Array, at: number, window: mem.SharedBytes) => Promise<void>,
  ): Promise<void> {
    const window = this.#window;
    if (!window) throw new RangeError('this channel has no window for blocks');
    this.#blocks++;
    try {
      for (let at = 0; at < bytes.length; at += MMIO_WINDOW_BYTES)
        await this.#afterReads(() => move(bytes.subarray(at, at + MMIO_WINDOW_BYTES), at, window));
    } finally {
      this.#blocks--;
    }
  }

  #afterReads<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#reads.then(work);
    this.#reads = result;
    return result;
  }

  /** Posts an entry and waits for its answer. Returns false if it gets no answer. */
  async #exchange(op: number, region: number, offset: number, size: number): Promise<boolean> {
    if (this.#dead) return false;
    const before = ld(this.#words, WORD_REPLY_SEQUENCE, 'link.word');
    if (ld(this.#words, WORD_CLOSED, 'link.word') !== 0) return false;
    this.#sequence = (before + 1) | 0;
    const pushed = this.#push(op, region, offset, size, 0n);
    if (pushed && !(await pushed)) return false;
    for (;;) {
      const waiting = waitEqAsync(this.#words, WORD_REPLY_SEQUENCE, before, MMIO_TIMEOUT_MS, 'link.wait');
      if (waiting && !(await waiting)) {
        this.#dead = true;
        return false;
      }
      // close() raises the flag, then changes the sequence. A reader of the old sequence therefore wakes up.
      if (ld(this.#words, WORD_CLOSED, 'link.word') !== 0) return false;
      if (ld(this.#words, WORD_REPLY_SEQUENCE, 'link.word') === this.#sequence) return true;
    }
  }

  /** Returns undefined if the entry is in the ring, otherwise a promise, which is false if it cannot enter the ring. */
  #push(op: number, region: number, offset: number, size: number, value: bigint) {
    if (this.#combined.length > 0) this.postCombined();
    const isFree = this.#queued === 0 && !this.#gate.pending;
    if (isFree && this.#tryPush(op, region, offset, size, value)) return undefined;
    this.#queued++;
    if (this.#gate.pending) {
      this.#held++;
      void this.#gate.pending.then(() => this.#held--);
    }
    const pushed = this.#queue.then(() => this.#pushSoon(op, region, offset, size, value));
    this.#queue = pushed;
    return pushed;
  }

  async #pushSoon(op: number, region: number, offset: number, size: number, value: bigint): Promise<boolean> {
    try {
      while (!this.#dead) {
        await this.#gate.pending;
        const head = ld(this.#words, WORD_HEAD, 'ring.head');
        if (ld(this.#words, WORD_CLOSED, 'link.word') !== 0) return false;
        if (this.#tryPush(op, region, offset, size, value)) return true;
        const waiting = waitEqAsync(this.#words, WORD_HEAD, head, MMIO_TIMEOUT_MS, 'ring.wait');
        if (waiting && !(await waiting)) this.#dead = true;
      }
      return false;
    } finally {
      this.#queued--;
    }
  }

  #tryPush(op: number, region: number, offset: number, size: number, value: bigint): boolean {
    const tail = rd(this.#words, WORD_TAIL, 'ring.tail');
    if ((tail - ld(this.#words, WORD_HEAD, 'ring.head')) >>> 0 >= MMIO_RING_ENTRIES) return false;
    const at = WORD_ENTRIES + ((tail >>> 0) % MMIO_RING_ENTRIES) * ENTRY_WORDS;
    wr(this.#words, at, op, 'ring.slot');
    wr(this.#words, at + 1, region, 'ring.slot');
    wr(this.#words, at + 2, offset, 'ring.slot');
    wr(this.#words, at + 3, size, 'ring.slot');
    wr(this.#words, at + 4, Number(BigInt.asIntN(32, value)), 'ring.slot');
    wr(this.#words, at + 5, Number(BigInt.asIntN(32, value >> 32n)), 'ring.slot');
    wr(this.#words, at + 6, this.#sequence, 'ring.slot');
    st(this.#words, WORD_TAIL, (tail + 1) | 0, 'ring.tail');
    this.#notify();
    return true;
  }
}

/** Owner of the registers behind a channel. */
export interface MmioTarget {
  read(region: number, offset: number, size: AccessSize): bigint;
  write(region: number, offset: number, size: AccessSize, value: bigint): void;
  /** Block accesses. Without them blocks read as 0xff, and block writes are dropped. */
  readBlock?(region: number, offset: number, target: Uint8Array): void;
  writeBlock?(region: number, offset: number, source: Uint8Array): void;
}

const windowAt = (sab: SharedArrayBuffer, offset: number | undefined): mem.SharedBytes | undefined =>
  offset === undefined ? undefined : bytesOf(sab, offset, MMIO_WINDOW_BYTES);

/** Owner's end. */
export class MmioServer {
  readonly #words: mem.SharedWords;
  readonly #window: mem.SharedBytes | undefined;

  constructor(sab: SharedArrayBuffer, byteOffset: number, windowOffset?: number) {
    this.#words = wordsOf(sab, byteOffset, MMIO_CHANNEL_BYTES / 4);
    this.#window = windowAt(sab, windowOffset);
  }

  /** Serves at most `limit` entries. Returns true if more are waiting. */
  serve(target: MmioTarget, limit: number): boolean {
    for (let served = 0; served < limit; served++) {
      const head = rd(this.#words, WORD_HEAD, 'ring.head');
      if (head === ld(this.#words, WORD_TAIL, 'ring.tail')) return false;
      this.#serveOne(target, WORD_ENTRIES + ((head >>> 0) % MMIO_RING_ENTRIES) * ENTRY_WORDS);
      st(this.#words, WORD_HEAD, (head + 1) | 0, 'ring.head');
      wake(this.#words, WORD_HEAD, 'ring.wait');
    }
    return rd(this.#words, WORD_HEAD, 'ring.head') !== ld(this.#words, WORD_TAIL, 'ring.tail');
  }

  /** Mark of the last posted entry, for {@link hasServed}. */
  get posted(): number {
    return ld(this.#words, WORD_TAIL, 'ring.tail');
  }

  /** Returns whether every entry up to a mark has been served. */
  hasServed(mark: number): boolean {
    return ((rd(this.#words, WORD_HEAD, 'ring.head') - mark) | 0) >= 0;
  }

  /** Drops the entries in the ring, because the guest that posted them has gone. Nobody waits for their answers. */
  discard(): void {
    st(this.#words, WORD_HEAD, ld(this.#words, WORD_TAIL, 'ring.tail'), 'ring.head');
    wake(this.#words, WORD_HEAD, 'ring.wait');
  }

  /** Marks the owner as gone: reads return all ones, writes are dropped. */
  close(): void {
    st(this.#words, WORD_CLOSED, 1, 'link.word');
    // Change both words that a guest waits on, so that a guest that has just read the flag does not sleep.
    add(this.#words, WORD_REPLY_SEQUENCE, 1, 'link.word');
    wake(this.#words, WORD_REPLY_SEQUENCE, 'link.wait');
    this.discard();
  }

  #serveOne(target: MmioTarget, at: number): void {
    const region = rd(this.#words, at + 1, 'ring.slot');
    const offset = rd(this.#words, at + 2, 'ring.slot');
    const size = rd(this.#words, at + 3, 'ring.slot') as AccessSize;
    const op = rd(this.#words, at, 'ring.slot');
    if (op === OP_WRITE) {
      const low = BigInt(rd(this.#words, at + 4, 'ring.slot') >>> 0);
      const high = BigInt(rd(this.#words, at + 5, 'ring.slot') >>> 0);
      target.write(region, offset, size, (high << 32n) | low);
      return;
    }
    let value = 0n;
    if (op === OP_READ_BLOCK || op === OP_WRITE_BLOCK) this.#serveBlock(op, target, region, offset, size);
    else value = target.read(region, offset, size);
    wr(this.#words, WORD_REPLY_LOW, Number(BigInt.asIntN(32, value)), 'link.word');
    wr(this.#words, WORD_REPLY_HIGH, Number(BigInt.asIntN(32, value >> 32n)), 'link.word');
    st(this.#words, WORD_REPLY_SEQUENCE, rd(this.#words, at + 6, 'ring.slot'), 'link.word');
    wake(this.#words, WORD_REPLY_SEQUENCE, 'link.wait');
  }

  /** A guest may write anything into its ring, so that the size is checked: a block fits in the window. */
  #serveBlock(op: number, target: MmioTarget, region: number, offset: number, size: number): void {
    const window = this.#window;
    if (!window || size < 0 || size > MMIO_WINDOW_BYTES) return;
    const block = new Uint8Array(size);
    if (op === OP_WRITE_BLOCK) {
      copyOut(block, 0, window, 0, size, 'ring.slot');
      target.writeBlock?.(region, offset, block);
      return;
    }
    if (target.readBlock) target.readBlock(region, offset, block);
    else block.fill(0xff);
    copyIn(window, 0, block, 0, size, 'ring.slot');
  }
}
