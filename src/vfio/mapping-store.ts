/**
 * Mappings of the devices' container, ordered by IOVA, in columns of numbers.
 *
 * It is a list of sorted chunks instead of a tree of objects, for speed. A replay of a million pages appends to the
 * last chunk: 9 ns a mapping, while a B+ tree takes 600 ns and a million live objects. A strict map and unmap finds
 * the chunk of the previous one. An insertion in the middle moves at most one chunk.
 */

/** Count of mappings in a full chunk. */
const CHUNK = 512;
/** Capacity of the first chunk. It is small: most containers hold a few large mappings. */
const FIRST_CAPACITY = 8;

class Chunk {
  size = 0;
  iovas: Float64Array;
  sizes: Float64Array;
  vaddrs: Float64Array;
  perms: Uint8Array;

  constructor(capacity: number) {
    this.iovas = new Float64Array(capacity);
    this.sizes = new Float64Array(capacity);
    this.vaddrs = new Float64Array(capacity);
    this.perms = new Uint8Array(capacity);
  }

  endOf(i: number): number {
    return (this.iovas[i] as number) + (this.sizes[i] as number);
  }

  /** Returns the index of the last mapping that begins at or below `iova`, or -1 if all begin above it. */
  find(iova: number): number {
    const { iovas } = this;
    let [low, high] = [0, this.size];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((iovas[middle] as number) <= iova) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  insert(i: number, iova: number, size: number, vaddr: number, perm: number): void {
    if (this.size === this.iovas.length) this.#grow();
    if (i < this.size) for (const column of this.#columns()) column.copyWithin(i + 1, i, this.size);
    this.iovas[i] = iova;
    this.sizes[i] = size;
    this.vaddrs[i] = vaddr;
    this.perms[i] = perm;
    this.size++;
  }

  /** Appends mappings i to count - 1 of a run from `iova` on, as many as fit. Returns the count of appended ones. */
  append(iova: number, size: number, vaddrs: Float64Array, i: number, count: number, perm: number): number {
    const room = Math.min(count - i, this.iovas.length - this.size);
    for (let at = this.size, end = at + room, j = i; at < end; at++, j++) {
      this.iovas[at] = iova + j * size;
      this.sizes[at] = size;
      this.vaddrs[at] = vaddrs[j] as number;
      this.perms[at] = perm;
    }
    this.size += room;
    return room;
  }

  /** Removes `count` mappings from index `i` on. */
  remove(i: number, count: number): void {
    if (i + count < this.size)
      for (const column of this.#columns()) column.copyWithin(i, i + count, this.size);
    this.size -= count;
  }

  /** Moves the upper half into a new chunk and returns it. */
  split(): Chunk {
    const upper = new Chunk(CHUNK);
    const from = this.size >>> 1;
    upper.iovas.set(this.iovas.subarray(from, this.size));
    upper.sizes.set(this.sizes.subarray(from, this.size));
    upper.vaddrs.set(this.vaddrs.subarray(from, this.size));
    upper.perms.set(this.perms.subarray(from, this.size));
    upper.size = this.size - from;
    this.size = from;
    return upper;
  }

  #columns(): readonly (Float64Array | Uint8Array)[] {
    return [this.iovas, this.sizes, this.vaddrs, this.perms];
  }

  #grow(): void {
    const grown = new Chunk(Math.min(CHUNK, this.iovas.length * 8));
    grown.iovas.set(this.iovas);
    grown.sizes.set(this.sizes);
    grown.vaddrs.set(this.vaddrs);
    grown.perms.set(this.perms);
    ({ iovas: this.iovas, sizes: this.sizes, vaddrs: this.vaddrs, perms: this.perms } = grown);
  }
}

/** Visits one mapping. The visit ends if it returns false. */
// biome-ignore lint/suspicious/noConfusingVoidType: most visitors visit all mappings and return nothing
export type MappingVisitor = (iova: number, size: number, vaddr: number, perm: number) => boolean | void;

/** Mappings in ascending order. They never overlap: the caller checks that before it adds one. */
export class MappingStore {
  /** In ascending order. Only a single chunk may be empty. */
  #chunks: Chunk[] = [new Chunk(FIRST_CAPACITY)];
  #size = 0;
  /** Index of the last used chunk, and the index in it that the last search found. */
  #last = 0;
  #at = -1;

  get size(): number {
    return this.#size;
  }

  /** Sum of the mappings' sizes. Takes about a nanosecond for each mapping. */
  get bytes(): number {
    let bytes = 0;
    for (const { sizes, size } of this.#chunks) for (let i = 0; i < size; i++) bytes += sizes[i] as number;
    return bytes;
  }

  /** Returns the start of the mapping that covers `iova`, or -1. {@link found} then returns the whole mapping. */
  covering(iova: number): number {
    const chunk = this.#find(iova);
    return this.#at >= 0 && chunk.endOf(this.#at) > iova ? (chunk.iovas[this.#at] as number) : -1;
  }

  /** Returns the start of the highest mapping that overlaps [start, end), or -1. {@link found} then returns it. */
  overlapping(start: number, end: number): number {
    // The search includes `end` itself, because a double has no exact `end - 1` beyond 2^53.
    const chunk = this.#find(end);
    let at = this.#at;
    if (at >= 0 && (chunk.iovas[at] as number) === end) {
      if (at === 0) return this.#last === 0 ? -1 : this.#overlapsLastOf(this.#last - 1, start);
      at--;
    }
    this.#at = at;
    return at >= 0 && chunk.endOf(at) > start ? (chunk.iovas[at] as number) : -1;
  }

  /** The mapping that the last search found. */
  get found(): {
    readonly iova: number;
    readonly size: number;
    readonly vaddr: number;
    readonly perm: number;
  } {
    const chunk = this.#chunks[this.#last] as Chunk;
    const at = this.#at;
    return {
      iova: chunk.iovas[at] as number,
      size: chunk.sizes[at] as number,
      vaddr: chunk.vaddrs[at] as number,
      perm: chunk.perms[at] as number,
    };
  }

  /** Returns whether exactly this mapping is held. */
  has(iova: number, size: number, vaddr: number, perm: number): boolean {
    const chunk = this.#find(iova);
    const at = this.#at;
    return (
      at >= 0 &&
      chunk.iovas[at] === iova &&
      chunk.sizes[at] === size &&
      chunk.vaddrs[at] === vaddr &&
      chunk.perms[at] === perm
    );
  }

  /** Adds a mapping that overlaps none. */
  add(iova: number, size: number, vaddr: number, perm: number): void {
    let chunk = this.#find(iova);
    if (chunk.size === CHUNK) {
      // Ascending mappings fill every chunk completely.
      const appended = this.#at === CHUNK - 1;
      const upper = appended ? new Chunk(CHUNK) : chunk.split();
      this.#chunks.splice(this.#last + 1, 0, upper);
      if (appended || iova > (upper.iovas[0] as number)) {
        this.#last++;
        chunk = upper;
      }
      this.#at = chunk.find(iova);
    }
    chunk.insert(this.#at + 1, iova, size, vaddr, perm);
    this.#at++;
    this.#size++;
  }

  /** Adds `count` consecutive mappings of `size` each that overlap none. */
  addRun(iova: number, size: number, vaddrs: Float64Array, count: number, perm: number): void {
    for (let i = 0; i < count; ) {
      this.add(iova + i * size, size, vaddrs[i] as number, perm);
      const chunk = this.#chunks[this.#last] as Chunk;
      i++;
      // After the last mapping of the last chunk, no search is needed.
      if (this.#at !== chunk.size - 1 || this.#last + 1 < this.#chunks.length) continue;
      const appended = chunk.append(iova, size, vaddrs, i, count, perm);
      this.#at += appended;
      this.#size += appended;
      i += appended;
    }
  }

  /** Removes the mapping that begins at `iova`. Returns false if no mapping begins there. */
  remove(iova: number): boolean {
    const chunk = this.#find(iova);
    if (this.#at < 0 || chunk.iovas[this.#at] !== iova) return false;
    chunk.remove(this.#at, 1);
    this.#at--;
    this.#size--;
    if (chunk.size === 0) this.#drop();
    return true;
  }

  clear(): void {
    this.#chunks = [new Chunk(FIRST_CAPACITY)];
    [this.#size, this.#last, this.#at] = [0, 0, -1];
  }

  /** Visits the mappings that intersect [start, end) in ascending order. The visitor must not change the set. */
  forEach(start: number, end: number, visit: MappingVisitor): void {
    let chunk = this.#find(start);
    let at = this.#at;
    if (at < 0 || chunk.endOf(at) <= start) at++;
    for (let i = this.#last; ; chunk = this.#chunks[++i] as Chunk, at = 0) {
      for (; at < chunk.size; at++) {
        const iova = chunk.iovas[at] as number;
        if (iova >= end) return;
        if (
          visit(iova, chunk.sizes[at] as number, chunk.vaddrs[at] as number, chunk.perms[at] as number) ===
          false
        )
          return;
      }
      if (i + 1 >= this.#chunks.length) return;
    }
  }

  /** Returns the chunk for `iova`, and sets `#at` to the last mapping in it that begins at or below `iova`. */
  #find(iova: number): Chunk {
    let chunk = this.#chunks[this.#last] as Chunk;
    const next = this.#chunks[this.#last + 1];
    const inside =
      (this.#last === 0 || (chunk.iovas[0] as number) <= iova) && (!next || iova < (next.iovas[0] as number));
    if (!inside) {
      let [low, high] = [1, this.#chunks.length];
      while (low < high) {
        const middle = (low + high) >>> 1;
        if (((this.#chunks[middle] as Chunk).iovas[0] as number) <= iova) low = middle + 1;
        else high = middle;
      }
      this.#last = low - 1;
      chunk = this.#chunks[this.#last] as Chunk;
    }
    this.#at = chunk.find(iova);
    return chunk;
  }

  #overlapsLastOf(index: number, start: number): number {
    const chunk = this.#chunks[index] as Chunk;
    [this.#last, this.#at] = [index, chunk.size - 1];
    return chunk.endOf(this.#at) > start ? (chunk.iovas[this.#at] as number) : -1;
  }

  /** Removes the last used chunk, which is empty, unless it is the only one. */
  #drop(): void {
    if (this.#chunks.length === 1) return;
    this.#chunks.splice(this.#last, 1);
    this.#last = Math.max(0, this.#last - 1);
    this.#at = -1;
  }
}
