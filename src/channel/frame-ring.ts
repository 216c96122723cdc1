/**
 * Ring of byte frames in shared memory for one producer and one consumer: the control channel of a device.
 *
 * Two counters, which only grow (modulo 2^32), count the bytes written and read. The producer stores its counter
 * after it has written the bytes. The consumer stores its counter after it has copied them out. Both stores are
 * sequentially consistent.
 */
import * as mem from '#mem';

const { ld, st, rd, wr, bytesOf, wordsOf, copyIn, copyOut } = mem;

const WORD_WRITTEN = 0;
const WORD_READ = 1;
const HEADER_BYTES = 8;
const LENGTH_BYTES = 4;

export const frameRingBytes = (capacity: number): number => HEADER_BYTES + capacity;

export class FrameRing {
  readonly #words: mem.SharedWords;
  readonly #bytes: mem.SharedBytes;
  readonly #capacity: number;
  /** Count of frames that found no space, because the consumer is too slow. */
  refused = 0;

  /** `capacity` is a power of two, `byteOffset` a multiple of 4. */
  constructor(sab: SharedArrayBuffer, byteOffset: number, capacity: number) {
    this.#words = wordsOf(sab, byteOffset, frameRingBytes(capacity) / 4);
    this.#bytes = bytesOf(sab, byteOffset + HEADER_BYTES, capacity);
    this.#capacity = capacity;
  }

  /** Appends a frame. Returns false, and appends nothing, if there is no space. */
  push(frame: Uint8Array): boolean {
    const written = rd(this.#words, WORD_WRITTEN, 'ring.head');
    const used = (written - ld(this.#words, WORD_READ, 'ring.tail')) >>> 0;
    const size = LENGTH_BYTES + ((frame.length + 3) & ~3);
    if (used + size > this.#capacity) {
      this.refused++;
      return false;
    }
    wr(this.#words, HEADER_BYTES / 4 + this.#at(written) / 4, frame.length, 'ring.slot');
    this.#wrapped(written + LENGTH_BYTES, frame.length, (at, from, length) =>
      copyIn(this.#bytes, at, frame, from, length, 'ring.slot'),
    );
    st(this.#words, WORD_WRITTEN, (written + size) | 0, 'ring.head');
    return true;
  }

  /** Removes the next frame and returns a copy, or undefined if the ring is empty. */
  shift(): Uint8Array | undefined {
    const read = rd(this.#words, WORD_READ, 'ring.tail');
    if (read === ld(this.#words, WORD_WRITTEN, 'ring.head')) return undefined;
    const length = rd(this.#words, HEADER_BYTES / 4 + this.#at(read) / 4, 'ring.slot');
    if (length < 0 || length > this.#capacity - LENGTH_BYTES)
      throw new RangeError(`frame of ${length} bytes in a ring of ${this.#capacity}`);
    const frame = new Uint8Array(length);
    this.#wrapped(read + LENGTH_BYTES, length, (at, from, piece) =>
      copyOut(frame, from, this.#bytes, at, piece, 'ring.slot'),
    );
    st(this.#words, WORD_READ, (read + LENGTH_BYTES + ((length + 3) & ~3)) | 0, 'ring.tail');
    return frame;
  }

  #at(counter: number): number {
    return (counter >>> 0) & (this.#capacity - 1);
  }

  #wrapped(counter: number, length: number, move: (at: number, from: number, piece: number) => void): void {
    const at = this.#at(counter);
    const first = Math.min(length, this.#capacity - at);
    move(at, 0, first);
    if (first < length) move(0, first, length - first);
  }
}
