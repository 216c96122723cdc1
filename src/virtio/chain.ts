/**
 * One descriptor chain of a split virtqueue, as the device sees it: a readable and a writable part.
 */
import type { QueueMemory } from './queue-memory.ts';

export interface Segment {
  readonly gpa: number;
  /** Bytes, 1 to 2^32 - 1. */
  readonly length: number;
}

const total = (segments: readonly Segment[]): number => segments.reduce((sum, { length }) => sum + length, 0);

/** Buffers outside guest RAM read as zeros and ignore writes, as with QEMU's bounce buffers. */
export class Chain {
  /** Index of the first descriptor, which identifies the chain in the used ring. */
  readonly head: number;
  readonly readableBytes: number;
  readonly writableBytes: number;
  readonly #ram: QueueMemory;
  readonly #readable: readonly Segment[];
  readonly #writable: readonly Segment[];

  constructor(ram: QueueMemory, head: number, readable: readonly Segment[], writable: readonly Segment[]) {
    this.#ram = ram;
    this.head = head;
    this.#readable = readable;
    this.#writable = writable;
    this.readableBytes = total(readable);
    this.writableBytes = total(writable);
  }

  /** Copies the first device-readable bytes to `target` and returns their count. */
  read(target: Uint8Array): number {
    const wanted = Math.min(target.length, this.readableBytes);
    let at = 0;
    for (const { gpa, length } of this.#readable) {
      if (at === wanted) break;
      const piece = Math.min(length, wanted - at);
      if (this.#ram.contains(gpa, piece)) this.#ram.readInto(target, at, gpa, piece);
      else target.fill(0, at, at + piece);
      at += piece;
    }
    return wanted;
  }

  /** Writes `bytes` at `offset` of the device-writable part, cut to its length. Returns the count written. */
  write(offset: number, bytes: Uint8Array): number {
    let start = 0;
    let done = 0;
    for (const { gpa, length } of this.#writable) {
      const skip = Math.max(0, offset + done - start);
      const piece = Math.min(length - skip, bytes.length - done);
      if (piece > 0) {
        if (this.#ram.contains(gpa + skip, piece))
          this.#ram.write(gpa + skip, piece === bytes.length ? bytes : bytes.subarray(done, done + piece));
        done += piece;
      }
      start += length;
      if (done === bytes.length) break;
    }
    return done;
  }
}
