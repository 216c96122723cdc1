/**
 * The VFIO container: maps the IOVAs of one device address space to host memory, in a pin table that its devices read.
 *
 * It follows the kernel's type1 v2 container for mediated devices: mappings never overlap and are removed whole.
 *
 * Order of an unmap; the steps of the pin table are those of writer.ts:
 * 1. Invalidate: no new pin succeeds on the range.
 * 2. If pages are pinned, ask the devices to unpin, and wait (R6). Devices that keep their pins are quarantined, and
 *    their pins are dropped (R7).
 * 3. Clear the frames and remove the mappings. No pin is held now.
 * 4. Bump the generation, and wait until every reader has left the older ones (drain). No device uses the range now.
 * 5. Reclaim the nodes. The unmap is complete.
 */
import { nowUs, yieldTurn } from '#host';
import { hex, type Iova, PAGE_2M, PAGE_SIZE } from '../memory/address.ts';
import type { HostExtent } from '../memory/guest-ram.ts';
import type { PinTableWriter } from '../pin-table/writer.ts';
import type { Completion } from '../platform/completion.ts';
import { DirtyTracker } from './dirty-tracker.ts';
import { asVfioError, VfioError } from './errors.ts';
import type { Backing, DmaMapping } from './mapping.ts';
import { checkRoom, DMA_ENTRY_LIMIT, type Straddling, spanText, takenBy } from './mapping-rules.ts';
import { MappingStore, type MappingVisitor } from './mapping-store.ts';

/** Maximum count of requests to a device that keeps its pins, and the wait after each. */
export const DMA_UNMAP_ATTEMPTS = 10;
const DMA_UNMAP_WAIT_MS = 1000;
/**
 * Maximum count of ranges in one attempt. If more mappings are pinned, the attempt names the one range that spans them,
 * because the device's control ring must hold the whole request.
 */
export const DMA_UNMAP_RANGES = 64;
/** Wait for a device to leave a short-DMA section. After it, the device counts as stuck. */
const DRAIN_LIMIT_MS = 10_000;

/** A device that uses the container. */
export interface DmaUser {
  readonly name: string;
  /** Its reader slot in the pin table. */
  readonly slot: number;
  /** Asks the device to unpin everything in the range. Does not wait. */
  dmaUnmap(iova: Iova, size: number): void;
  /** Makes the device retry stalled accesses: a switch of the address space has ended. */
  wake(): void;
  /**
   * Ends the device for a breach of the contract. Resolves when its thread can no longer access memory.
   * @param kind short fixed word for the report
   */
  quarantine(kind: string, detail: string): Promise<void>;
}

interface ContainerCounters {
  maps: number;
  unmaps: number;
  /** Leaves written to the pin table. */
  leaves: number;
  /** Mappings that were pinned when they were unmapped, so the devices were asked to unpin. */
  pinnedUnmaps: number;
  /** Pins dropped by force from devices that had ended. */
  forcedPins: number;
}

export interface ContainerOptions {
  readonly entryLimit?: number;
  /** Wait of one attempt; tests may shorten it. */
  readonly unmapWaitMs?: number;
  readonly drainLimitMs?: number;
}

/** One container. Only the pin table's writing thread calls its methods (R5), one mutation at a time. */
export class Container {
  readonly counters: ContainerCounters = { maps: 0, unmaps: 0, leaves: 0, pinnedUnmaps: 0, forcedPins: 0 };
  /** Tracker of the pages that devices write. */
  readonly dirty: DirtyTracker;
  readonly #table: PinTableWriter;
  readonly #backing: Backing;
  readonly #mappings = new MappingStore();
  readonly #entryLimit: number;
  /** Host PFNs of the current {@link mapPages} call. */
  readonly #frames = new Int32Array(PAGE_2M / PAGE_SIZE);
  readonly #users = new Set<DmaUser>();
  readonly #unmapWaitMs: number;
  readonly #drainLimitMs: number;

  constructor(table: PinTableWriter, backing: Backing, options: ContainerOptions = {}) {
    this.#table = table;
    this.#backing = backing;
    this.dirty = new DirtyTracker(table, backing, {
      within: (start, end) => this.#within(start, end),
      drain: () => this.#drain(),
    });
    this.#entryLimit = options.entryLimit ?? DMA_ENTRY_LIMIT;
    this.#unmapWaitMs = options.unmapWaitMs ?? DMA_UNMAP_WAIT_MS;
    this.#drainLimitMs = options.drainLimitMs ?? DRAIN_LIMIT_MS;
  }

  get liveMappings(): number {
    return this.#mappings.size;
  }

  /** Mapped bytes, summed when asked. */
  get mappedBytes(): number {
    return this.#mappings.bytes;
  }

  addUser(user: DmaUser): void {
    this.#users.add(user);
  }

  /** Removes a user whose thread has ended. Its epoch and its pins no longer block an unmap. */
  releaseUser(user: DmaUser): void {
    if (!this.#users.delete(user)) return;
    this.#table.forceOutside(user.slot);
    if (this.#users.size === 0)
      this.#forEachMapping((iova, size) => {
        this.counters.forcedPins += this.#table.forceUnpin(iova as Iova, size);
      });
  }

  /** Returns the count of pins held in the whole container now. */
  pins(): number {
    let pins = 0;
    for (const { iova, size } of this.#runs()) pins += this.#table.pins(iova, size);
    return pins;
  }

  /**
   * Maps [iova, iova + size) to the memory at `vaddr`, all or nothing.
   * @throws VfioError EINVAL (size 0, unaligned, no permission, beyond the pin table's 48 or 57 bits), EOVERFLOW (wraps
   *   2^64), EEXIST (any overlap), ENOSPC (entry limit, pin table full), EFAULT (no memory at vaddr)
   */
  map(iova: Iova, vaddr: number, size: number, perm: number): void {
    this.#mapExtents(iova, this.#admitted(iova, vaddr, size, perm), perm);
    this.#mappings.add(iova, size, vaddr, perm);
    this.counters.maps++;
  }

  /** Returns the error with which {@link map} would refuse a mapping now; undefined if it would not. */
  refusal(iova: Iova, vaddr: number, size: number, perm: number): VfioError | undefined {
    try {
      this.#table.checkRoom(iova, this.#admitted(iova, vaddr, size, perm));
      return undefined;
    } catch (error) {
      return asVfioError(error);
    }
  }

  /** Checks everything but the room in the pin table. Returns the host memory behind the range. @throws VfioError */
  #admitted(iova: Iova, vaddr: number, size: number, perm: number): readonly HostExtent[] {
    this.#checkRange('map', iova, size);
    if (iova + size > this.#table.iovaLimit) {
      const bits = Math.log2(this.#table.iovaLimit);
      throw new VfioError('EINVAL', `map of ${rangeText(iova, size)} beyond ${bits} bits`);
    }
    if (perm < 1 || perm > 3) throw new VfioError('EINVAL', `permission ${perm}; accepted: 1 to 3`);
    if (vaddr % PAGE_SIZE !== 0) throw new VfioError('EINVAL', `vaddr ${hex(vaddr)} is not page-aligned`);
    const overlaps = this.#mappings.overlapping(iova, iova + size) >= 0;
    checkRoom(
      { iova, size },
      overlaps ? this.#mappings.found : undefined,
      this.liveMappings,
      this.#entryLimit,
    );
    return this.#extents(vaddr, size);
  }

  /**
   * Maps `count` pages from `iova` on, page i to the memory at vaddrs[i]. Each page is a mapping of its own, and all
   * are in the same 2 MiB. Returns false, with nothing mapped, if {@link map} must map them one by one or refuse them.
   */
  mapPages(iova: Iova, vaddrs: Float64Array, count: number, perm: number): boolean {
    const backing = this.#backing;
    const end = iova + count * PAGE_SIZE;
    if (!backing.frameOf || end > this.#table.iovaLimit || this.liveMappings + count > this.#entryLimit)
      return false;
    if (perm < 1 || perm > 3 || this.#mappings.overlapping(iova, end) >= 0) return false;
    for (let i = 0; i < count; i++) {
      const frame = backing.frameOf(vaddrs[i] as number);
      if (frame < 0) return false;
      this.#frames[i] = frame;
    }
    if (!this.#table.mapPages(iova, this.#frames, count, perm)) return false;
    this.#mappings.addRun(iova, PAGE_SIZE, vaddrs, count, perm);
    this.counters.leaves += count;
    this.counters.maps += count;
    return true;
  }

  /**
   * Removes the mappings that lie wholly in [iova, iova + size). Resolves to their count.
   * @param straddling rule for a mapping that straddles an end
   * @throws VfioError EINVAL
   */
  async unmapRange(
    iova: Iova,
    size: number,
    straddling: Exclude<Straddling, 'whole'> = 'refuse',
  ): Promise<number> {
    this.#checkRange('unmap', iova, size);
    const inside = takenBy(straddling, { iova, size }, this.#within(iova, iova + size));
    await this.unmapMappings(inside);
    return inside.length;
  }

  /** Removes every mapping. */
  unmapAll(): Completion {
    const runs = this.#runs();
    let pins = 0;
    for (const { iova, size } of runs) pins += this.#table.invalidate(iova, size);
    if (pins > 0) return this.unmapMappings(this.#within(0, Number.POSITIVE_INFINITY));
    if (runs.length === 0) return undefined;
    this.counters.unmaps += this.liveMappings;
    for (const { iova, size } of runs) this.#table.clear(iova, size);
    this.#mappings.clear();
    return this.#drain();
  }

  /**
   * Removes whole mappings, all in one generation. Complete when no device can use them: their pins are dropped, and
   * the sections that may use them have ended.
   */
  unmapMappings(mappings: readonly { readonly iova: Iova; readonly size: number }[]): Completion {
    if (mappings.length === 0) return undefined;
    const pinned = mappings.filter(({ iova, size }) => this.#table.invalidate(iova, size) > 0);
    this.counters.unmaps += mappings.length;
    this.counters.pinnedUnmaps += pinned.length;
    if (pinned.length > 0)
      return this.#awaitUnpinned(pinned).then(() => this.#remove(mappings) ?? Promise.resolve());
    return this.#remove(mappings);
  }

  /** Returns the live mapping that covers `iova`. */
  mappingAt(iova: number): DmaMapping | undefined {
    if (this.#mappings.covering(iova) < 0) return undefined;
    return this.#mappings.found as DmaMapping;
  }

  /** Returns whether exactly this mapping is live. */
  has(iova: Iova, vaddr: number, size: number, perm: number): boolean {
    return this.#mappings.has(iova, size, vaddr, perm);
  }

  /** Visits the mappings that intersect [start, end) in ascending order. The visitor must not change the container. */
  forEach(start: number, end: number, visit: MappingVisitor): void {
    this.#mappings.forEach(start, end, visit);
  }

  /** Starts or ends a switch. During a switch, a device that finds no mapping waits for the end and does not fault. */
  setSwitching(on: boolean): void {
    this.#table.setSwitching(on);
    if (!on) for (const user of this.#users) user.wake();
  }

  #forEachMapping(visit: MappingVisitor): void {
    this.#mappings.forEach(0, Number.POSITIVE_INFINITY, visit);
  }

  #within(start: number, end: number): DmaMapping[] {
    const found: DmaMapping[] = [];
    this.#mappings.forEach(start, end, (iova, size, vaddr, perm) => {
      found.push({ iova: iova as Iova, size, vaddr, perm });
    });
    return found;
  }

  /** Returns the mapped ranges; adjacent mappings are merged. */
  #runs(): { iova: Iova; size: number }[] {
    const runs: { iova: Iova; size: number }[] = [];
    let last: { iova: Iova; size: number } | undefined;
    this.#forEachMapping((iova, size) => {
      if (last && last.iova + last.size === iova) last.size += size;
      else {
        last = { iova: iova as Iova, size };
        runs.push(last);
      }
    });
    return runs;
  }

  #extents(vaddr: number, size: number): readonly HostExtent[] {
    try {
      return this.#backing.extents(vaddr, size);
    } catch (error) {
      throw new VfioError('EFAULT', error instanceof Error ? error.message : String(error));
    }
  }

  #mapExtents(iova: Iova, extents: readonly HostExtent[], perm: number): void {
    try {
      this.counters.leaves += this.#table.mapExtents(iova, extents, perm);
    } catch (error) {
      throw asVfioError(error);
    }
  }

  /** Steps 3 to 5 of an unmap. */
  #remove(mappings: readonly { readonly iova: Iova; readonly size: number }[]): Completion {
    for (const mapping of mappings) {
      this.#table.clear(mapping.iova, mapping.size);
      this.#mappings.remove(mapping.iova);
    }
    return this.#drain();
  }

  /** Steps 4 and 5 of an unmap. */
  #drain(): Completion {
    this.#table.bump();
    const waiting = this.#table.waitDrained(this.#drainLimitMs);
    if (waiting === undefined) {
      this.#table.reclaim();
      return undefined;
    }
    return this.#awaitDrained(waiting);
  }

  async #awaitDrained(first: Promise<boolean>): Promise<void> {
    for (let waiting: Promise<boolean> | undefined = first; waiting; ) {
      if (!(await waiting)) {
        // A section lasts microseconds. A thread that is still in one is stuck or dead.
        for (const user of [...this.#users])
          await this.#expel(
            user,
            'stuck-in-dma',
            `did not leave a DMA section within ${this.#drainLimitMs} ms`,
          );
      }
      waiting = this.#table.waitDrained(this.#drainLimitMs);
    }
    this.#table.reclaim();
  }

  /**
   * Step 2 of an unmap (R7): asks every device to unpin the pinned mappings, at most DMA_UNMAP_ATTEMPTS times. Then
   * quarantines all devices and drops their pins.
   */
  async #awaitUnpinned(pinned: readonly { readonly iova: Iova; readonly size: number }[]): Promise<void> {
    for (let attempt = 0; attempt < DMA_UNMAP_ATTEMPTS; attempt++) {
      const ranges = pinned.filter(({ iova, size }) => this.#table.pins(iova, size) > 0);
      for (const { iova, size } of ranges.length > DMA_UNMAP_RANGES ? [spanOf(ranges)] : ranges)
        for (const user of this.#users) user.dmaUnmap(iova, size);
      if (await this.#unpinnedInTime(pinned)) return;
    }
    const { iova, size } = pinned.find((range) => this.#table.pins(range.iova, range.size) > 0) ?? pinned[0]!;
    const left = this.#table.pins(iova, size);
    for (const user of [...this.#users])
      await this.#expel(
        user,
        'never-unpins',
        `keeps ${left} pins on ${rangeText(iova, size)} after ${DMA_UNMAP_ATTEMPTS} requests to unpin`,
      );
    for (const range of pinned) this.counters.forcedPins += this.#table.forceUnpin(range.iova, range.size);
  }

  /**
   * Resolves to true once no pin is held on any of the ranges, and to false if a range's count reaches no new minimum
   * within one attempt's wait. A wake-up alone is not progress: a device that retries a failing pin forever would
   * otherwise keep the unmap from ending.
   */
  async #unpinnedInTime(pinned: readonly { readonly iova: Iova; readonly size: number }[]): Promise<boolean> {
    for (const { iova, size } of pinned) {
      let lowest = Number.POSITIVE_INFINITY;
      let deadline = 0;
      for (let pins = this.#table.pins(iova, size); pins > 0; pins = this.#table.pins(iova, size)) {
        const now = nowUs();
        if (pins < lowest) [lowest, deadline] = [pins, now + this.#unmapWaitMs * 1000];
        else if (now >= deadline) return false;
        const leftMs = Math.max(1, (deadline - now) / 1000);
        await (this.#table.waitPins(iova, size, leftMs) ?? yieldTurn());
      }
    }
    return true;
  }

  async #expel(user: DmaUser, kind: string, detail: string): Promise<void> {
    await user.quarantine(kind, detail);
    this.releaseUser(user);
  }

  #checkRange(what: string, iova: number, size: number): void {
    if (iova < 0 || size <= 0 || size % PAGE_SIZE !== 0 || iova % PAGE_SIZE !== 0)
      throw new VfioError(
        'EINVAL',
        `${what} of ${rangeText(iova, size)}; accepted: multiples of 4096, size > 0`,
      );
    if (iova + size > 2 ** 64) throw new VfioError('EOVERFLOW', `${what} of ${rangeText(iova, size)} wraps`);
  }
}

const rangeText = (iova: number, size: number): string => spanText({ iova, size });

/** Returns the smallest range that covers all of `ranges`. */
function spanOf(ranges: readonly { readonly iova: Iova; readonly size: number }[]) {
  let [start, end] = [Number.POSITIVE_INFINITY, 0];
  for (const { iova, size } of ranges) {
    start = Math.min(start, iova);
    end = Math.max(end, iova + size);
  }
  return { iova: start as Iova, size: end - start };
}
