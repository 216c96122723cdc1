/**
 * A single-producer, single-consumer ring of byte frames in shared memory: the control channel of a device.
 *
 * Two counters that only grow (modulo 2^32) say how many bytes were written and read. The producer stores its
 * counter after the bytes, the consumer its own after it has copied them out, both sequentially consistent.
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
  /** Frames that found no room: the other side does not keep up. */
  refused = 0;

  /** `capacity` is a power of two; `byteOffset` a multiple of 4. */
  constructor(sab: SharedArrayBuffer, byteOffset: number, capacity: number) {
    this.#words = wordsOf(sab, byteOffset, frameRingBytes(capacity) / 4);
    this.#bytes = bytesOf(sab, byteOffset + HEADER_BYTES, capacity);
    this.#capacity = capacity;
  }

  /** False if there is no room; the frame is then not sent. */
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

  /** The next frame, copied out; undefined if there is none. */
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
