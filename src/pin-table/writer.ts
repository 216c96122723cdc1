/**
 * The writing thread's side of a pin table (R5): maps, and the steps of an unmap. None of them blocks.
 *
 * 1. `invalidate` refuses new pins. The container then waits until no pin is held (`waitPins`).
 * 2. `clear` clears the frames and takes empty nodes out of the radix.
 * 3. `bump` starts a new generation. The container then waits until no reader is in an older one (`waitDrained`).
 * 4. `reclaim` frees the nodes that step 2 took out.
 */
import * as mem from '#mem';
import { type Hpa, hex, type Iova, PAGE_1G, PAGE_2M, PAGE_SHIFT, PAGE_SIZE } from '../memory/address.ts';
import type { HostExtent } from '../memory/guest-ram.ts';
import { forceUnpin } from './force-release.ts';
import {
  HIGH_IOVA_LIMIT,
  HIGH_SPAN,
  type IovaBits,
  LIST_PAGES,
  MAGIC,
  MAX_NODES,
  MAX_READERS,
  NODE_ENTRIES,
  NODE_WORDS,
  OUTSIDE,
  PERM_MASK,
  PFN_SHIFT,
  pinWord,
  readerEpoch,
  TABLE_IOVA_LIMIT,
  tableWords,
  WORD_GENERATION,
  WORD_HIGH_ROOT,
  WORD_LISTS,
  WORD_LOG,
  WORD_LOG_FIRST,
  WORD_LOG_PAGES,
  WORD_MAGIC,
  WORD_NODES,
  WORD_SWITCHING,
  WORD_WRITER_WAITING,
} from './layout.ts';
import { NodePool, PinTableFullError } from './node-pool.ts';
import { type HostPages, logWords, PageLog } from './page-log.ts';
import {
  framesFill,
  generationBump,
  leafClear,
  leafInvalidate,
  leafPins,
  leafPublish,
  leavesFill,
  linkPublish,
  readerBlocking,
} from './protocol.ts';
import { forEachEntry, isAligned, linkOf, nodesNeeded } from './ranges.ts';
import { PinTableError } from './reader.ts';
import { gibEntry, highEntry, lookup } from './walk.ts';
import { allocateTable, bindKernels, type PinKernels, type PinTableHandle } from './wasm/kernels.ts';

const { rd, wr, st, waitEqAsync, wake } = mem;

/** Nodes of a table by default: 2048 × 512 pages = 4 GiB mapped as 4 KiB pages. */
const DEFAULT_NODES = 2048;

const NO_PAGES: HostPages = { first: 0, count: 0 };

interface PinTableOptions {
  /** Width of the IOVAs; 48 by default. IOVAs below 2^48 cost the same in both. */
  readonly iovaBits?: IovaBits;
  /** Host pages whose writes the table can log; none by default. */
  readonly hostPages?: HostPages;
}

/** The writer's private state of one table, and the steps of map and unmap. */
export class PinTableWriter {
  /** The shared part, for readers. */
  readonly handle: PinTableHandle;
  readonly nodes: number;
  /** First IOVA beyond the table. */
  readonly iovaLimit: number;
  readonly #table: mem.SharedWords;
  readonly #kernels: PinKernels | undefined;
  /** Log of the host pages that devices write and hold. */
  readonly log: PageLog;
  readonly #pool: NodePool;
  /** Word index of the high root, or 0. */
  readonly #highRoot: number;
  #readers = 0;
  #generation = 1;
  #waiting = 0;
  /** Count of leaves that the current map has written. */
  #leaves = 0;

  /** Allocates a table of `nodes` nodes. @throws PinTableError */
  constructor(nodes = DEFAULT_NODES, { iovaBits = 48, hostPages = NO_PAGES }: PinTableOptions = {}) {
    if (!(Number.isInteger(nodes) && nodes >= 0 && nodes <= MAX_NODES))
      throw new PinTableError(`${nodes} nodes; accepted: 0 to ${MAX_NODES}`);
    this.nodes = nodes;
    this.iovaLimit = iovaBits === 57 ? HIGH_IOVA_LIMIT : TABLE_IOVA_LIMIT;
    const words = tableWords(nodes, iovaBits);
    const lists = words + logWords(hostPages.count);
    this.handle = allocateTable((lists + MAX_READERS * LIST_PAGES) * Int32Array.BYTES_PER_ELEMENT);
    this.#table = mem.wordsOf(this.sab);
    this.#kernels = bindKernels(this.handle);
    this.#pool = new NodePool(this.#table, nodes);
    this.#highRoot = iovaBits === 57 ? WORD_NODES + nodes * NODE_WORDS : 0;
    st(this.#table, WORD_HIGH_ROOT, this.#highRoot, 'table.init');
    st(this.#table, WORD_GENERATION, 1, 'table.init');
    st(this.#table, WORD_LISTS, lists, 'table.init');
    st(this.#table, WORD_LOG, words, 'table.init');
    st(this.#table, WORD_LOG_FIRST, hostPages.first, 'table.init');
    st(this.#table, WORD_LOG_PAGES, hostPages.count, 'table.init');
    this.log = new PageLog(this.#table);
    st(this.#table, WORD_MAGIC, MAGIC, 'table.init');
  }

  get sab(): SharedArrayBuffer {
    return this.handle.sab;
  }

  get nodesInUse(): number {
    return this.#pool.inUse;
  }

  /** Returns a new reader slot. @throws PinTableError beyond MAX_READERS */
  addReader(): number {
    if (this.#readers >= MAX_READERS) throw new PinTableError(`more than ${MAX_READERS} readers`);
    this.log.readers = this.#readers + 1;
    return this.#readers++;
  }

  /**
   * Marks the start or the end of a switch of the address space. The store is sequentially consistent, so a reader
   * that loads the end's mark also sees every entry that was written before it.
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
   * Maps `extents` one after the other from `iova` on, all or none, with the largest leaves that alignment allows.
   * Returns the count of leaves. The range must be page-aligned and unmapped, as the container has checked.
   * @throws PinTableFullError, PinTableError
   */
  mapExtents(iova: Iova, extents: readonly HostExtent[], perm: number): number {
    this.checkRoom(iova, extents);
    this.#leaves = 0;
    let base: number = iova;
    for (const { hpa, size } of extents) {
      for (let at = 0; at < size; ) at += this.#mapPiece(base + at, hpa + at, size - at, perm);
      base += size;
    }
    return this.#leaves;
  }

  /** Checks that {@link mapExtents} finds enough free nodes. @throws PinTableFullError, PinTableError */
  checkRoom(iova: Iova, extents: readonly HostExtent[]): void {
    if (this.nodes - this.nodesInUse < nodesNeeded(this.#table, this.iovaLimit, iova, extents))
      throw new PinTableFullError(this.nodes);
  }

  /**
   * Maps `count` pages from `iova` on, all in one leaf table, to the host PFNs in `frames`. Returns false, with nothing
   * mapped, if the range has a larger leaf or a mapped page, or if fewer than 3 nodes are free.
   */
  mapPages(iova: Iova, frames: Int32Array, count: number, perm: number): boolean {
    const low = iova % PAGE_1G;
    const first = (low >>> PAGE_SHIFT) & (NODE_ENTRIES - 1);
    if (iova + count * PAGE_SIZE > this.iovaLimit || this.nodes - this.nodesInUse < 3) return false;
    const gib = this.#gibEntry(iova);
    if ((rd(this.#table, gib, 'map.link') & PERM_MASK) !== 0) return false;
    const link = this.#child(gib) + (low >>> 21);
    const word = rd(this.#table, link, 'map.link');
    if ((word & PERM_MASK) !== 0) return false;
    if (word === 0) {
      const node = count === NODE_ENTRIES ? this.#pool.takeAny() : this.#pool.take();
      framesFill(this.#table, node + first, frames, count, perm);
      this.#pool.count(link, 1);
      this.#pool.count(node, count);
      linkPublish(this.#table, link, node);
      return true;
    }
    for (let i = 0; i < count; i++) if (!this.#isEmpty(word + first + i)) return false;
    for (let i = 0; i < count; i++)
      leafPublish(this.#table, word + first + i, ((frames[i] as number) << PFN_SHIFT) | perm);
    this.#pool.count(word, count);
    return true;
  }

  /**
   * Step 1: refuses new pins on the range. Returns the count of pins held there. A leaf table that lies wholly in the
   * range is invalidated at its link, in one operation (see pin-counts.ts).
   */
  invalidate(iova: Iova, size: number): number {
    let pins = 0;
    forEachEntry(this.#table, iova, size, (entry) => {
      pins += leafInvalidate(this.#table, entry);
    });
    return pins;
  }

  /** Returns the count of pins held on the range now. */
  pins(iova: Iova, size: number): number {
    let pins = 0;
    forEachEntry(this.#table, iova, size, (entry) => {
      pins += leafPins(this.#table, entry);
    });
    return pins;
  }

  /** Waits until a pin of the invalidated range is dropped; false on time-out. Returns undefined if none is held. */
  waitPins(iova: Iova, size: number, timeoutMs: number): Promise<boolean> | undefined {
    let waiting: Promise<boolean> | undefined;
    forEachEntry(this.#table, iova, size, (entry) => {
      const word = rd(this.#table, pinWord(entry), 'unmap.pincount');
      if (word !== 0) waiting ??= waitEqAsync(this.#table, pinWord(entry), word, timeoutMs, 'unmap.pinwait');
    });
    return waiting;
  }

  /** Drops all pins of the range and returns their count. Only when every device thread of the table has ended. */
  forceUnpin(iova: Iova, size: number): number {
    return forceUnpin(this.#table, iova, size);
  }

  /** Step 2: clears the frames. No pins may be held. */
  clear(iova: Iova, size: number): void {
    forEachEntry(this.#table, iova, size, (entry, isTable) => {
      if (isTable) this.#pool.drop(rd(this.#table, entry, 'unmap.unlink'));
      leafClear(this.#table, entry);
      this.#pool.count(entry, -1);
    });
    this.#unlinkEmpty(iova, size);
  }

  /** Step 3: starts a new generation and returns it. Sections of older generations may still use the old leaves. */
  bump(): number {
    this.#generation = generationBump(this.#table);
    return this.#generation;
  }

  /**
   * Waits for the first reader that is in an older generation. Resolves to true when its epoch changes, and to false
   * after `timeoutMs`. Returns undefined if no reader is in an older generation; call it until then.
   */
  waitDrained(timeoutMs: number): Promise<boolean> | undefined {
    for (let slot = 0; slot < this.#readers; slot++) {
      if (readerBlocking(this.#table, slot, this.#generation) === OUTSIDE) continue;
      this.#raiseWaiting(1);
      // Load again after raising the flag: the reader may have left before it, and then wakes nobody.
      const epoch = readerBlocking(this.#table, slot, this.#generation);
      if (epoch === OUTSIDE) continue;
      const waiting = waitEqAsync(this.#table, readerEpoch(slot), epoch, timeoutMs, 'unmap.epochwait');
      if (waiting) return waiting;
      slot--; // its epoch changed before the wait began: check this reader again
    }
    this.#raiseWaiting(0);
    return undefined;
  }

  /** Returns the host PFN of the page at `iova`, or -1 if nothing is mapped there. */
  frameAt(iova: number): number {
    const leaf = lookup(this.#table, iova);
    return leaf === 0 ? -1 : leaf >>> PFN_SHIFT;
  }

  /** Sets reader `slot` to OUTSIDE and marks the pages it held as dirty. Only for a thread that has ended. */
  forceOutside(slot: number): void {
    if (this.log.exists) this.log.release(slot);
    st(this.#table, readerEpoch(slot), OUTSIDE, 'unmap.force');
    wake(this.#table, readerEpoch(slot), 'unmap.force');
  }

  /** Step 4, once drained: frees the retired nodes. */
  reclaim(): void {
    this.#pool.reclaim();
  }

  #raiseWaiting(flag: number): void {
    if (this.#waiting === flag) return;
    this.#waiting = flag;
    st(this.#table, WORD_WRITER_WAITING, flag, 'unmap.waiting');
  }

  /** Maps one leaf, or as many pages as fit into one leaf table. Returns the count of bytes. */
  #mapPiece(iova: number, hpa: number, room: number, perm: number): number {
    const frame = ((hpa / PAGE_SIZE) << PFN_SHIFT) | perm | 0;
    const gib = this.#gibEntry(iova);
    if (room >= PAGE_1G && isAligned(iova, PAGE_1G) && isAligned(hpa, PAGE_1G))
      if (this.#isEmpty(gib)) return this.#publish(gib, frame, PAGE_1G);
    const low = iova - Math.floor(iova / PAGE_1G) * PAGE_1G;
    const mid = this.#child(gib) + (low >>> 21);
    if (room >= PAGE_2M && isAligned(iova, PAGE_2M) && isAligned(hpa, PAGE_2M))
      if (this.#isEmpty(mid)) return this.#publish(mid, frame, PAGE_2M);
    const first = (low >>> PAGE_SHIFT) & (NODE_ENTRIES - 1);
    const count = Math.min(NODE_ENTRIES - first, room / PAGE_SIZE);
    this.#mapPages(mid, first, count, frame, iova);
    this.#leaves += count;
    return count * PAGE_SIZE;
  }

  /** Maps pages in the leaf table below `link`. A new leaf table is filled before it is linked. */
  #mapPages(link: number, first: number, count: number, frame: number, iova: number): void {
    const word = rd(this.#table, link, 'map.link');
    if ((word & PERM_MASK) !== 0) throw new PinTableError('a larger leaf is already mapped here');
    if (word === 0) {
      const node = count === NODE_ENTRIES ? this.#pool.takeAny() : this.#pool.take();
      const kernels = this.#kernels;
      if (kernels) kernels.fillLeaves((node + first) * Int32Array.BYTES_PER_ELEMENT, count, frame);
      else leavesFill(this.#table, node + first, count, frame);
      this.#pool.count(link, 1);
      this.#pool.count(node, count);
      linkPublish(this.#table, link, node);
      return;
    }
    const start = word + first;
    for (let i = 0; i < count; i++)
      if (!this.#isEmpty(start + i))
        throw new PinTableError(`IOVA ${hex(iova + i * PAGE_SIZE)} is already mapped`);
    for (let i = 0; i < count; i++) leafPublish(this.#table, start + i, (frame + (i << PFN_SHIFT)) | 0);
    this.#pool.count(start, count);
  }

  #isEmpty(entry: number): boolean {
    return rd(this.#table, entry, 'map.link') === 0;
  }

  #publish(entry: number, frame: number, size: number): number {
    this.#pool.count(entry, 1);
    leafPublish(this.#table, entry, frame);
    this.#leaves++;
    return size;
  }

  /** Returns the 1 GiB entry for `iova`. Beyond 48 bits, links its node if absent. @throws PinTableFullError */
  #gibEntry(iova: number): number {
    if (iova < TABLE_IOVA_LIMIT) return gibEntry(this.#table, iova);
    const node = this.#child(this.#highEntry(iova));
    return node + (Math.floor(iova / PAGE_1G) % NODE_ENTRIES);
  }

  #highEntry(iova: number): number {
    return highEntry(this.#highRoot, Math.floor(iova / HIGH_SPAN));
  }

  /** Returns the child node below `entry`. Links a new one if absent. @throws PinTableFullError, PinTableError */
  #child(entry: number): number {
    const word = rd(this.#table, entry, 'map.link');
    if ((word & PERM_MASK) !== 0) throw new PinTableError('a larger leaf is already mapped here');
    if (word !== 0) return word;
    const node = this.#pool.take();
    this.#pool.count(entry, 1);
    // The node is all zeros, so a reader that follows the link at once finds nothing.
    st(this.#table, entry, node, 'map.link');
    return node;
  }

  /**
   * Unlinks the nodes of a cleared range that are now empty; their words are already zero. Leaf tables wholly in the
   * range have been dropped, so only those at its ends can be left.
   */
  #unlinkEmpty(iova: number, size: number): void {
    const last = iova + size - PAGE_SIZE;
    for (const at of [iova, last]) {
      const link = linkOf(this.#table, at);
      if (link !== 0) this.#unlinkIfEmpty(link);
    }
    for (let at = Math.floor(iova / PAGE_1G) * PAGE_1G; at <= last; at += PAGE_1G) {
      const entry = gibEntry(this.#table, at);
      if (entry !== 0) this.#unlinkIfEmpty(entry);
    }
    if (last < TABLE_IOVA_LIMIT) return;
    const first = Math.max(iova, TABLE_IOVA_LIMIT);
    for (let at = Math.floor(first / HIGH_SPAN) * HIGH_SPAN; at <= last; at += HIGH_SPAN)
      this.#unlinkIfEmpty(this.#highEntry(at));
  }

  #unlinkIfEmpty(entry: number): void {
    const node = rd(this.#table, entry, 'unmap.unlink');
    if (node === 0 || (node & PERM_MASK) !== 0 || !this.#pool.isEmpty(node)) return;
    // The link of a leaf table is still valid here. Invalidate it: no pin may use it to reach the next mapping.
    leafInvalidate(this.#table, entry);
    wr(this.#table, entry, 0, 'unmap.unlink');
    this.#pool.count(entry, -1);
    this.#pool.retire(node);
  }
}
