/**
 * MMIO between a guest and the thread that owns the registers: posted writes and non-posted reads as entries of a
 * shared-memory ring, in order, no messages.
 */

import * as mem from '#mem';
import { type AccessSize, allOnes } from '../memory/bus-access.ts';

const { ld, st, rd, wr, add, wake, waitEqAsync, wordsOf, bytesOf, copyIn, copyOut } = mem;

/** Entries a guest may have posted and not yet had taken; a full ring makes the guest wait. */
export const MMIO_RING_ENTRIES = 256;
/** How long a guest waits for an answer or for room before it takes the owner for dead (all ones). */
export const MMIO_TIMEOUT_MS = 60_000;

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

/** Bytes of the window through which blocks go, where a channel has one. */
export const MMIO_WINDOW_BYTES = 16_384;

/** Register space numbers: PCI BARs are 0–5 as in VFIO_PCI_BAR*_REGION_INDEX, 7 is config space. */
export const REGION_BAR0 = 0;
export const REGION_CONFIG = 7;
/** What a device displays: the first index that VFIO leaves to devices. No part of the guest's machine. */
export const REGION_SCANOUT = 9;

/** The guest's end. One thread uses it; entries enter the ring in the order they were made, also past a full ring. */
export class MmioPort {
  readonly #words: mem.SharedWords;
  readonly #window: mem.SharedBytes | undefined;
  readonly #notify: () => void;
  #reads: Promise<unknown> = Promise.resolve();
  /** Entries that found the ring full: the rest queue behind them. */
  #queue: Promise<unknown> = Promise.resolve();
  #queued = 0;
  #sequence = 0;
  /** Set when an answer, or room, did not come in time: a late answer must not be taken for the next. */
  #dead = false;

  /** `windowOffset`: where the channel's window is, for blocks. */
  constructor(sab: SharedArrayBuffer, byteOffset: number, notify: () => void, windowOffset?: number) {
    this.#words = wordsOf(sab, byteOffset, MMIO_CHANNEL_BYTES / 4);
    this.#window = windowAt(sab, windowOffset);
    this.#notify = notify;
  }

  /** Posts a write. Resolves when it has been put in the ring: at once, unless the ring is full. */
  write(region: number, offset: number, size: AccessSize, value: bigint): void | Promise<void> {
    return this.#push(OP_WRITE, region, offset, size, value)?.then(() => {});
  }

  /** Reads; all ones if the owner is gone. Every write made before is taken first. */
  read(region: number, offset: number, size: AccessSize): Promise<bigint> {
    const ones = allOnes(size);
    return this.#afterReads(async () => {
      if (!(await this.#exchange(OP_READ, region, offset, size))) return ones;
      const low = BigInt(rd(this.#words, WORD_REPLY_LOW, 'link.word') >>> 0);
      const high = BigInt(rd(this.#words, WORD_REPLY_HIGH, 'link.word') >>> 0);
      return ((high << 32n) | low) & ones;
    });
  }

  /** Fills `target` from a region, as a string of reads; with ones if the owner is gone. @throws RangeError */
  async readBlock(region: number, offset: number, target: Uint8Array): Promise<void> {
    await this.#eachBlock(target, async (block, at, window) => {
      const answered = await this.#exchange(OP_READ_BLOCK, region, offset + at, block.length);
      if (answered) copyOut(block, 0, window, 0, block.length, 'ring.slot');
      else block.fill(0xff);
    });
  }

  /** Writes `source` to a region, as a string of writes; resolves when the owner has it. @throws RangeError */
  async writeBlock(region: number, offset: number, source: Uint8Array): Promise<void> {
    await this.#eachBlock(source, async (block, at, window) => {
      copyIn(window, 0, block, 0, block.length, 'ring.slot');
      await this.#exchange(OP_WRITE_BLOCK, region, offset + at, block.length);
    });
  }

  /** Has each piece of `bytes` that fits the window go through it, alone. */
  async #eachBlock(
    bytes: Uint8Array,
    move: (block: Uint8Array, at: number, window: mem.SharedBytes) => Promise<void>,
  ): Promise<void> {
    const window = this.#window;
    if (!window) throw new RangeError('this channel has no window for blocks');
    for (let at = 0; at < bytes.length; at += MMIO_WINDOW_BYTES)
      await this.#afterReads(() => move(bytes.subarray(at, at + MMIO_WINDOW_BYTES), at, window));
  }

  #afterReads<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#reads.then(work);
    this.#reads = result;
    return result;
  }

  /** Posts an entry and waits for its answer. False if there is none. */
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
      // Closing raises the flag, then changes the sequence: whoever read the sequence before is not left waiting.
      if (ld(this.#words, WORD_CLOSED, 'link.word') !== 0) return false;
      if (ld(this.#words, WORD_REPLY_SEQUENCE, 'link.word') === this.#sequence) return true;
    }
  }

  /** Undefined if the entry is in the ring; else a promise, false if it never will be. */
  #push(op: number, region: number, offset: number, size: number, value: bigint) {
    if (this.#queued === 0 && this.#tryPush(op, region, offset, size, value)) return undefined;
    this.#queued++;
    const pushed = this.#queue.then(() => this.#pushSoon(op, region, offset, size, value));
    this.#queue = pushed;
    return pushed;
  }

  async #pushSoon(op: number, region: number, offset: number, size: number, value: bigint): Promise<boolean> {
    try {
      while (!this.#dead) {
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

/** What owns the registers behind a channel. */
export interface MmioTarget {
  read(region: number, offset: number, size: AccessSize): bigint;
  write(region: number, offset: number, size: AccessSize, value: bigint): void;
  /** Strings of accesses; without them blocks read as ones, and writes are dropped. */
  readBlock?(region: number, offset: number, target: Uint8Array): void;
  writeBlock?(region: number, offset: number, source: Uint8Array): void;
}

const windowAt = (sab: SharedArrayBuffer, offset: number | undefined): mem.SharedBytes | undefined =>
  offset === undefined ? undefined : bytesOf(sab, offset, MMIO_WINDOW_BYTES);

/** The owner's end. */
export class MmioServer {
  readonly #words: mem.SharedWords;
  readonly #window: mem.SharedBytes | undefined;

  constructor(sab: SharedArrayBuffer, byteOffset: number, windowOffset?: number) {
    this.#words = wordsOf(sab, byteOffset, MMIO_CHANNEL_BYTES / 4);
    this.#window = windowAt(sab, windowOffset);
  }

  /** Serves at most `limit` entries. True if more are waiting. */
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

  /** Says that nobody serves any more: reads answer all ones, writes are dropped. */
  close(): void {
    st(this.#words, WORD_CLOSED, 1, 'link.word');
    // Both words that a guest waits on change: one that looked at the flag just before does not fall asleep.
    add(this.#words, WORD_REPLY_SEQUENCE, 1, 'link.word');
    wake(this.#words, WORD_REPLY_SEQUENCE, 'link.wait');
    st(this.#words, WORD_HEAD, ld(this.#words, WORD_TAIL, 'ring.tail'), 'ring.head');
    wake(this.#words, WORD_HEAD, 'ring.wait');
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

  /** What a guest leaves in its ring may be anything: a block is never larger than the window. */
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
