/**
 * The one writing thread's end of a pin table (R5): maps, and the three-step unmap.
 *
 * `invalidate` → (pins drop to 0) → `clear` → `drained` → `reclaim`. The steps never block; the container decides
 * how to wait between them.
 */
import * as mem from '#mem';
import { type Hpa, hex, type Iova, PAGE_1G, PAGE_2M, PAGE_SHIFT, PAGE_SIZE } from '../address/address.ts';
import type { HostExtent } from '../host/guest-ram.ts';
import {
  ENTRY_WORDS,
  MAGIC,
  MAX_READERS,
  NODE_ENTRIES,
  NODE_WORDS,
  OUTSIDE,
  PERM_MASK,
  PFN_LIMIT,
  PFN_SHIFT,
  readerEpoch,
  TABLE_IOVA_LIMIT,
  tableBytes,
  WORD_GENERATION,
  WORD_MAGIC,
  WORD_NODES,
  WORD_ROOT,
  WORD_SWITCHING,
  WORD_WRITER_WAITING,
} from './layout.ts';
import {
  generationBump,
  leafClear,
  leafInvalidate,
  leafPins,
  leafPublish,
  readerBlocking,
} from './protocol.ts';
import { PinTableError } from './reader.ts';

const { rd, wr, st, waitEqAsync, wake } = mem;

/** Nodes a table holds unless told otherwise: 2048 × 512 pages = 4 GiB mapped as 4 KiB pages. */
export const DEFAULT_NODES = 2048;

/** Thrown by map when the table has no node left; nothing was mapped. */
export class PinTableFullError extends Error {
  constructor(nodes: number) {
    super(`pin table is full: all ${nodes} nodes are in use`);
    this.name = 'PinTableFullError';
  }
}

/** The writer's private knowledge of its table: which nodes are used and how full each is. */
export class PinTableWriter {
  readonly sab: SharedArrayBuffer;
  readonly nodes: number;
  readonly #table: mem.SharedWords;
  /** Used entries of each node; the writer alone counts them. */
  readonly #used: Uint16Array;
  readonly #free: number[] = [];
  #fresh = 0;
  /** Nodes that became empty: unlinked, reusable once readers have drained. */
  #retired: number[] = [];
  #readers = 0;
  #generation = 1;
  #waiting = 0;

  constructor(nodes = DEFAULT_NODES) {
    this.nodes = nodes;
    this.sab = new SharedArrayBuffer(tableBytes(nodes));
    this.#table = mem.wordsOf(this.sab);
    this.#used = new Uint16Array(nodes);
    st(this.#table, WORD_GENERATION, 1, 'table.init');
    st(this.#table, WORD_MAGIC, MAGIC, 'table.init');
  }

  get nodesInUse(): number {
    return this.#fresh - this.#free.length;
  }

  /** Gives out a reader slot. @throws PinTableError beyond MAX_READERS */
  addReader(): number {
    if (this.#readers >= MAX_READERS) throw new PinTableError(`more than ${MAX_READERS} readers`);
    return this.#readers++;
  }

  /**
   * Marks the address space as being switched (or no longer). The mark and every entry written before
   * `endSwitch` are ordered by its sequentially consistent store.
   */
  setSwitching(on: boolean): void {
    const now = rd(this.#table, WORD_SWITCHING, 'switch.mark');
    if (((now & 1) !== 0) !== on) st(this.#table, WORD_SWITCHING, (now + 1) | 0, 'switch.mark');
  }

  /** Maps one extent; see {@link mapExtents}. */
  map(iova: Iova, hpa: Hpa, size: number, perm: number): number {
    return this.mapExtents(iova, [{ hpa, size }], perm);
  }

  /**
   * Maps `extents` one behind the other from `iova` on, with the largest leaves alignment allows: all or nothing.
   * The range must be page-aligned and unmapped: the container has checked it. Returns the number of leaves.
   * @throws PinTableFullError, PinTableError
   */
  mapExtents(iova: Iova, extents: readonly HostExtent[], perm: number): number {
    if (this.nodes - this.nodesInUse < this.#nodesNeeded(iova, extents))
      throw new PinTableFullError(this.nodes);
    let [leaves, base]: [number, number] = [0, iova];
    for (const { hpa, size } of extents) {
      for (let at = 0; at < size; leaves++) at += this.#mapLeaf(base + at, hpa + at, size - at, perm);
      base += size;
    }
    return leaves;
  }

  /** Step 1: no new pins on the range. Returns the number of pins held there. */
  invalidate(iova: Iova, size: number): number {
    let pins = 0;
    this.#forEachLeaf(iova, size, (entry) => {
      pins += leafInvalidate(this.#table, entry);
    });
    return pins;
  }

  /** Pins held on the range now. */
  pins(iova: Iova, size: number): number {
    let pins = 0;
    this.#forEachLeaf(iova, size, (entry) => {
      pins += leafPins(this.#table, entry);
    });
    return pins;
  }

  /** Waits until some pin of the (invalidated) range is dropped. Undefined if none is held; false on time-out. */
  waitPins(iova: Iova, size: number, timeoutMs: number): Promise<boolean> | undefined {
    let waiting: Promise<boolean> | undefined;
    this.#forEachLeaf(iova, size, (entry) => {
      const word = rd(this.#table, entry + 1, 'unmap.pincount');
      if (word !== 0) waiting ??= waitEqAsync(this.#table, entry + 1, word, timeoutMs, 'unmap.pinwait');
    });
    return waiting;
  }

  /** Drops pins by force; only for a device whose thread has ended. Returns how many there were. */
  forcePins(iova: Iova, size: number): number {
    let dropped = 0;
    this.#forEachLeaf(iova, size, (entry) => {
      const pins = leafPins(this.#table, entry);
      if (pins === 0) return;
      dropped += pins;
      const valid = rd(this.#table, entry + 1, 'unmap.force') & 1;
      st(this.#table, entry + 1, valid, 'unmap.force');
      wake(this.#table, entry + 1, 'unmap.force');
    });
    return dropped;
  }

  /** Step 2: the frames go. No pins may be held. */
  clear(iova: Iova, size: number): void {
    this.#forEachLeaf(iova, size, (entry) => {
      leafClear(this.#table, entry);
      this.#count(entry, -1);
    });
    this.#unlinkEmpty(iova, size);
  }

  /** Step 3: starts a new generation; returns it. Readers inside an older section may still use the old leaves. */
  bump(): number {
    this.#generation = generationBump(this.#table);
    return this.#generation;
  }

  /**
   * Undefined if every reader is outside or in the newest generation; else a promise that resolves when the first
   * blocking reader moves (true) or after `timeoutMs` (false). Ask again until undefined.
   */
  waitDrained(timeoutMs: number): Promise<boolean> | undefined {
    for (let slot = 0; slot < this.#readers; slot++) {
      if (readerBlocking(this.#table, slot, this.#generation) === OUTSIDE) continue;
      this.#raiseWaiting(1);
      // Looked at again after raising the flag: the reader may have left in between without waking anybody.
      const epoch = readerBlocking(this.#table, slot, this.#generation);
      if (epoch === OUTSIDE) continue;
      const waiting = waitEqAsync(this.#table, readerEpoch(slot), epoch, timeoutMs, 'unmap.epochwait');
      if (waiting) return waiting;
      slot--; // it moved while we turned to wait: look at it once more
    }
    this.#raiseWaiting(0);
    return undefined;
  }

  /** Puts reader `slot` outside by force; only for a thread that has ended. */
  forceOutside(slot: number): void {
    st(this.#table, readerEpoch(slot), OUTSIDE, 'unmap.force');
    wake(this.#table, readerEpoch(slot), 'unmap.force');
  }

  /** Step 4, once drained: emptied nodes may be used again. */
  reclaim(): void {
    for (const node of this.#retired) this.#free.push(node);
    this.#retired = [];
  }

  #raiseWaiting(flag: number): void {
    if (this.#waiting === flag) return;
    this.#waiting = flag;
    st(this.#table, WORD_WRITER_WAITING, flag, 'unmap.waiting');
  }

  #mapLeaf(iova: number, hpa: number, room: number, perm: number): number {
    const frame = ((hpa / PAGE_SIZE) << PFN_SHIFT) | perm | 0;
    const gib = Math.floor(iova / PAGE_1G);
    const rootEntry = WORD_ROOT + gib * ENTRY_WORDS;
    if (room >= PAGE_1G && iova % PAGE_1G === 0 && hpa % PAGE_1G === 0)
      if (this.#isEmpty(rootEntry)) return this.#publish(rootEntry, frame, PAGE_1G);
    const low = iova - gib * PAGE_1G;
    const mid = this.#child(rootEntry) + (low >>> 21) * ENTRY_WORDS;
    if (room >= PAGE_2M && iova % PAGE_2M === 0 && hpa % PAGE_2M === 0)
      if (this.#isEmpty(mid)) return this.#publish(mid, frame, PAGE_2M);
    const leaf = this.#child(mid) + ((low >>> PAGE_SHIFT) & (NODE_ENTRIES - 1)) * ENTRY_WORDS;
    if (!this.#isEmpty(leaf)) throw new PinTableError(`IOVA ${hex(iova)} is mapped already`);
    return this.#publish(leaf, frame, PAGE_SIZE);
  }

  /**
   * Nodes that mapping these extents takes: known before the first leaf is written. Follows {@link #mapLeaf}'s
   * choices a node at a time.
   * @throws PinTableError
   */
  #nodesNeeded(iova: number, extents: readonly HostExtent[]): number {
    let nodes = 0;
    let [countedMid, countedLeaf, base] = [-1, -1, iova];
    for (const { hpa, size } of extents) {
      if (base + size > TABLE_IOVA_LIMIT)
        throw new PinTableError(`IOVA ${hex(base)} +${size} beyond 48 bits`);
      if ((hpa + size) / PAGE_SIZE > PFN_LIMIT) throw new PinTableError(`HPA ${hex(hpa)} beyond 42 bits`);
      const end = base + size;
      for (let at = base; at < end; ) {
        const gib = Math.floor(at / PAGE_1G);
        const offset = hpa - base;
        const mid = rd(this.#table, WORD_ROOT + gib * ENTRY_WORDS, 'map.link');
        if ((mid & PERM_MASK) !== 0) throw new PinTableError(`IOVA ${hex(at)} is mapped already`);
        if (mid === 0 && end - at >= PAGE_1G && at % PAGE_1G === 0 && (at + offset) % PAGE_1G === 0) {
          at += PAGE_1G;
          continue;
        }
        if (mid === 0 && countedMid !== gib) {
          countedMid = gib;
          nodes++;
        }
        const large = Math.floor(at / PAGE_2M);
        const linked = mid !== 0 && !this.#isEmpty(mid + (large % NODE_ENTRIES) * ENTRY_WORDS);
        const isLeaf = end - at >= PAGE_2M && at % PAGE_2M === 0 && (at + offset) % PAGE_2M === 0;
        if (!linked && !isLeaf && countedLeaf !== large) {
          countedLeaf = large;
          nodes++;
        }
        at = (large + 1) * PAGE_2M;
      }
      base = end;
    }
    return nodes;
  }

  #isEmpty(entry: number): boolean {
    return rd(this.#table, entry, 'map.link') === 0;
  }

  #publish(entry: number, frame: number, size: number): number {
    this.#count(entry, 1);
    leafPublish(this.#table, entry, frame);
    return size;
  }

  /** The child node below `entry`, linked if absent. @throws PinTableFullError, PinTableError */
  #child(entry: number): number {
    const word = rd(this.#table, entry, 'map.link');
    if ((word & PERM_MASK) !== 0) throw new PinTableError('a larger leaf is mapped here already');
    if (word !== 0) return word;
    const node = this.#takeNode();
    this.#count(entry, 1);
    // A free node is all zeros, so that a reader who follows the link at once finds nothing.
    st(this.#table, entry, node, 'map.link');
    return node;
  }

  #takeNode(): number {
    const reused = this.#free.pop();
    if (reused !== undefined) return reused;
    if (this.#fresh >= this.nodes) throw new PinTableFullError(this.nodes);
    return WORD_NODES + this.#fresh++ * NODE_WORDS;
  }

  #count(entry: number, by: number): void {
    if (entry < WORD_NODES) return;
    const node = Math.floor((entry - WORD_NODES) / NODE_WORDS);
    this.#used[node] = (this.#used[node] as number) + by;
  }

  /** Unlinks the nodes of a cleared range that are now empty. They are zero already. */
  #unlinkEmpty(iova: number, size: number): void {
    const end = iova + size;
    for (let at = iova - (iova % PAGE_2M); at < end; at += PAGE_2M) {
      const gib = Math.floor(at / PAGE_1G);
      const rootEntry = WORD_ROOT + gib * ENTRY_WORDS;
      const mid = rd(this.#table, rootEntry, 'unmap.unlink');
      if (mid === 0 || (mid & PERM_MASK) !== 0) {
        at += PAGE_1G - (at % PAGE_1G) - PAGE_2M;
        continue;
      }
      const midEntry = mid + ((at - gib * PAGE_1G) >>> 21) * ENTRY_WORDS;
      this.#unlinkIfEmpty(midEntry);
      if (at + PAGE_2M >= end || (at + PAGE_2M) % PAGE_1G === 0) this.#unlinkIfEmpty(rootEntry);
    }
  }

  #unlinkIfEmpty(entry: number): void {
    const node = rd(this.#table, entry, 'unmap.unlink');
    if (node === 0 || (node & PERM_MASK) !== 0) return;
    if (this.#used[Math.floor((node - WORD_NODES) / NODE_WORDS)] !== 0) return;
    wr(this.#table, entry, 0, 'unmap.unlink');
    this.#count(entry, -1);
    this.#retired.push(node);
  }

  /** Visits the leaf entries inside the range; leaves belong to whole mappings, so none straddles its ends. */
  #forEachLeaf(iova: number, size: number, visit: (entry: number) => void): void {
    const end = iova + size;
    for (let at = iova; at < end; ) {
      const gib = Math.floor(at / PAGE_1G);
      const low = at - gib * PAGE_1G;
      let entry = WORD_ROOT + gib * ENTRY_WORDS;
      let span = PAGE_1G;
      let word = rd(this.#table, entry, 'walk.root');
      for (let shift = 21; word !== 0 && (word & PERM_MASK) === 0; shift -= 9) {
        entry = word + ((low >>> shift) & (NODE_ENTRIES - 1)) * ENTRY_WORDS;
        span = shift === 21 ? PAGE_2M : PAGE_SIZE;
        word = rd(this.#table, entry, 'walk.leaf');
        if (shift === 12) break;
      }
      if (word !== 0) visit(entry);
      at += span - (at % span);
    }
  }
}
