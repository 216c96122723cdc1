/**
 * Shared memory of the model: ordinary buffers, of which every word has one number in the whole run, its *location*.
 *
 * Buffers are allocated again for each schedule, and a pin table has 2 MiB. So buffers are kept and taken again in the
 * same order, and only the words that a schedule wrote are set to 0.
 */

/** View of 32-bit words. */
export class ModelWords {
  readonly array: Int32Array;
  /** Location of the first word. */
  readonly base: number;
  readonly length: number;

  constructor(array: Int32Array, base: number) {
    this.array = array;
    this.base = base;
    this.length = array.length;
  }
}

/** View of bytes. `base` is the location of the word that contains the first byte. */
export class ModelBytes {
  readonly bytes: Uint8Array;
  readonly base: number;
  readonly offset: number;
  readonly length: number;

  constructor(bytes: Uint8Array, base: number, offset: number) {
    this.bytes = bytes;
    this.base = base;
    this.offset = offset;
    this.length = bytes.length;
  }
}

const WORD_BYTES = 4;

/** Larger than any length of a view. */
const VIEW_UNIT = 2 ** 22;

/** Views of a buffer by offset and length. */
interface Views {
  readonly words: Map<number, ModelWords>;
  readonly bytes: Map<number, ModelBytes>;
}

interface Kept {
  readonly buffers: SharedArrayBuffer[];
  taken: number;
}

/** Buffers of the harness that runs, and the journal of words to clear. */
class Memory {
  readonly #kept = new Map<number, Kept>();
  readonly #bases = new Map<SharedArrayBuffer, number>();
  readonly #views = new Map<SharedArrayBuffer, Views>();
  /** Places to clear: array, first index, count. */
  readonly #written: Int32Array[] = [];
  readonly #places: number[] = [];
  #next = 1;
  /** Buffers in the order of their allocation since the last reset. */
  readonly taken: SharedArrayBuffer[] = [];

  allocate(bytes: number): SharedArrayBuffer {
    const buffer = this.#take(bytes);
    this.taken.push(buffer);
    return buffer;
  }

  #take(bytes: number): SharedArrayBuffer {
    const kept = this.#kept.get(bytes) ?? { buffers: [], taken: 0 };
    this.#kept.set(bytes, kept);
    const known = kept.buffers[kept.taken++];
    if (known) return known;
    const buffer = new SharedArrayBuffer(bytes);
    kept.buffers.push(buffer);
    return buffer;
  }

  baseOf(buffer: SharedArrayBuffer): number {
    const known = this.#bases.get(buffer);
    if (known !== undefined) return known;
    const base = this.#next;
    this.#bases.set(buffer, base);
    this.#next += Math.ceil(buffer.byteLength / WORD_BYTES) + 1;
    return base;
  }

  wordsOf(buffer: SharedArrayBuffer, byteOffset = 0, length?: number): ModelWords {
    const views = this.#viewsOf(buffer);
    const key = byteOffset * VIEW_UNIT + (length ?? VIEW_UNIT - 1);
    let words = views.words.get(key);
    if (!words) {
      const array = new Int32Array(buffer, byteOffset, length);
      words = new ModelWords(array, this.baseOf(buffer) + byteOffset / WORD_BYTES);
      views.words.set(key, words);
    }
    return words;
  }

  bytesOf(buffer: SharedArrayBuffer, byteOffset = 0, length?: number): ModelBytes {
    const views = this.#viewsOf(buffer);
    const key = byteOffset * VIEW_UNIT + (length ?? VIEW_UNIT - 1);
    let bytes = views.bytes.get(key);
    if (!bytes) {
      const array = new Uint8Array(buffer, byteOffset, length);
      const base = this.baseOf(buffer) + Math.floor(byteOffset / WORD_BYTES);
      bytes = new ModelBytes(array, base, byteOffset % WORD_BYTES);
      views.bytes.set(key, bytes);
    }
    return bytes;
  }

  /** Views are kept for the next schedule, because V8 collects them slowly. */
  #viewsOf(buffer: SharedArrayBuffer): Views {
    let views = this.#views.get(buffer);
    if (!views) {
      views = { words: new Map(), bytes: new Map() };
      this.#views.set(buffer, views);
    }
    return views;
  }

  /** Notes words that were written. */
  note(array: Int32Array, index: number, count: number): void {
    this.#written.push(array);
    this.#places.push(index, count);
  }

  noteBytes({ bytes }: ModelBytes, offset: number, length: number): void {
    if (length === 0) return;
    const first = Math.floor((bytes.byteOffset + offset) / WORD_BYTES);
    const end = Math.ceil((bytes.byteOffset + offset + length) / WORD_BYTES);
    this.note(this.wordsOf(bytes.buffer as SharedArrayBuffer).array, first, end - first);
  }

  /** Makes all buffers free, and their words 0. */
  reset(): void {
    for (let i = 0; i < this.#written.length; i++) {
      const array = this.#written[i] as Int32Array;
      const [index, count] = [this.#places[2 * i] as number, this.#places[2 * i + 1] as number];
      if (count === 1) array[index] = 0;
      else array.fill(0, index, index + count);
    }
    this.#written.length = 0;
    this.#places.length = 0;
    this.taken.length = 0;
    for (const kept of this.#kept.values()) kept.taken = 0;
  }

  /** Forgets all buffers: another harness follows. */
  clear(): void {
    this.reset();
    this.#kept.clear();
    this.#bases.clear();
    this.#views.clear();
    this.#next = 1;
  }
}

export const memory = new Memory();
