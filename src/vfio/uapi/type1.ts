/**
 * The IOMMU behind a container of mediated devices: type1 and type1 v2, call by call as Linux answers them.
 *
 * This is the synchronous state machine of the system calls, for any 64-bit range and for memory that may be missing;
 * `container.ts` is its shared-memory counterpart for devices that run in threads. Errors are looked for in the
 * kernel's order, because a call that is wrong in two ways has one errno.
 */
import { hex, PERM_READ, PERM_WRITE } from '../../memory/address.ts';
import { VfioError } from '../errors.ts';
import { DMA_ENTRY_LIMIT } from '../mapping-rules.ts';
import { checkBitmap, checkLoggable, DirtyLog, type UserBitmap } from './dirty-log.ts';
import { Mappings } from './mapping-tree.ts';
import { PinList } from './pin-list.ts';
import type { UserMemory } from './user-memory.ts';
import * as wire from './vfio-uapi.ts';
import { addressOf, checkArgs, offsetOf, pageOf, wraps } from './vfio-uapi.ts';

/** How often an unmap asks again for the same mapping: the first request and ten more. */
export const UNMAP_REQUESTS = 11;

/** What an unmap's structure has without its own `argsz`: room for everything. */
const ROOMY_ARGSZ = wire.UNMAP_ARGSZ + wire.BITMAP_BYTES;

/** A device, as the IOMMU sees it. */
export interface Type1Device {
  readonly name: string;
  /** Asks it to unpin everything in the range; absent if the driver cannot. Must unpin before it returns. */
  readonly dmaUnmap: ((iova: bigint, size: bigint) => void) | undefined;
  /** It keeps its pins however often it is asked: it may not use the IOMMU any more. */
  quarantine(detail: string): void;
}

/** One mapping; `iova`, `size` and `vaddr` count pages. */
export interface Type1Mapping {
  readonly iova: number;
  readonly size: number;
  readonly vaddr: number;
  readonly perm: number;
  readonly memory: UserMemory;
  /** Whether the process might lock without limit when it mapped. */
  readonly locksFreely: boolean;
  readonly pins: PinList<Type1Device>;
  dirty: DirtyLog | undefined;
}

/** VFIO_IOMMU_MAP_DMA. */
export interface MapDma {
  readonly argsz?: number;
  readonly flags: number;
  readonly iova: bigint;
  readonly vaddr: bigint;
  readonly size: bigint;
}

/** VFIO_IOMMU_UNMAP_DMA. */
export interface UnmapDma {
  readonly argsz?: number;
  readonly flags: number;
  readonly iova: bigint;
  readonly size: bigint;
  readonly bitmap?: UserBitmap;
}

/** VFIO_IOMMU_DIRTY_PAGES. */
export interface DirtyPages {
  readonly argsz?: number;
  readonly flags: number;
  readonly range?: { readonly iova: bigint; readonly size: bigint; readonly bitmap: UserBitmap };
}

/** What is answered to VFIO_IOMMU_GET_INFO. */
export interface IommuInfo {
  readonly argsz: number;
  readonly flags: number;
  readonly pgsizes: bigint;
  /** 0 and no capabilities if `argsz` leaves no room for them. */
  readonly capOffset: number;
  readonly caps: {
    readonly migration: { pgsizes: bigint; maxBitmap: bigint };
    readonly available: number;
  } | null;
}

/** A contract that a device driver broke. The kernel warns in its log, or stops at a BUG. */
export interface Type1Violation {
  readonly kind: 'unpin-refused' | 'unpin-unmapped' | 'pins-left' | 'never-unpins';
  readonly detail: string;
}

export interface Type1Options {
  readonly v2: boolean;
  readonly entryLimit?: number;
  onViolation?(violation: Type1Violation): void;
}

/** One container's IOMMU, from SET_IOMMU until the last group leaves. */
export class Type1 {
  readonly v2: boolean;
  readonly mappings: Mappings<Type1Mapping>;
  /** Open devices whose drivers answer dma_unmap. */
  readonly #devices = new Set<Type1Device>();
  readonly #report: (violation: Type1Violation) => void;
  #tracking = false;

  constructor({ v2, entryLimit = DMA_ENTRY_LIMIT, onViolation = () => {} }: Type1Options) {
    this.v2 = v2;
    this.mappings = new Mappings(entryLimit);
    this.#report = onViolation;
  }

  get tracking(): boolean {
    return this.#tracking;
  }

  /** Whether any open device can be asked to unpin: without one nothing may be pinned. */
  get canAsk(): boolean {
    return this.#devices.size > 0;
  }

  register(device: Type1Device): void {
    if (device.dmaUnmap) this.#devices.add(device);
  }

  unregister(device: Type1Device): void {
    this.#devices.delete(device);
  }

  violation(kind: Type1Violation['kind'], detail: string): void {
    this.#report({ kind, detail });
  }

  /**
   * Maps. What is behind `vaddr` is not looked at: nothing is pinned before a device asks.
   * @throws VfioError EINVAL (argsz, flags, size 0, unaligned; too large for dirty tracking), EOVERFLOW (wraps),
   *   EEXIST, ENOSPC; with the VADDR flag ENOENT (nothing mapped) or EINVAL (mapped, and its vaddr is valid)
   */
  map({ argsz = wire.MAP_ARGSZ, flags, iova, vaddr, size }: MapDma, memory: UserMemory): void {
    const { MAP_READ, MAP_WRITE, MAP_VADDR } = wire;
    checkArgs('MAP_DMA', argsz, wire.MAP_ARGSZ, flags, MAP_READ | MAP_WRITE | MAP_VADDR);
    const perm = flags & (MAP_READ | MAP_WRITE);
    const update = (flags & MAP_VADDR) !== 0;
    if ((perm !== 0) === update)
      throw new VfioError('EINVAL', 'MAP_DMA: either a permission or the VADDR flag');
    if (size === 0n || offsetOf(size | iova | vaddr) !== 0)
      throw new VfioError('EINVAL', `MAP_DMA: ${hex(iova)} +${hex(size)} to ${hex(vaddr)} not in pages`);
    if (wraps(iova, size) || wraps(vaddr, size))
      throw new VfioError('EOVERFLOW', `MAP_DMA: ${hex(iova)} +${hex(size)} to ${hex(vaddr)} wraps`);
    const span = { iova: pageOf(iova), size: pageOf(size) };
    // With a mediated device no vaddr is ever invalid, so that there is none to update.
    if (update)
      throw this.mappings.overlapping(span)
        ? new VfioError('EINVAL', `MAP_DMA: the vaddr of ${hex(iova)} is valid`)
        : new VfioError('ENOENT', `MAP_DMA: nothing is mapped at ${hex(iova)}`);
    this.mappings.checkFree(span);
    const pins = new PinList<Type1Device>();
    const dirty = this.#tracking ? new DirtyLog(span.size, []) : undefined;
    const locksFreely = memory.locksFreely;
    this.mappings.add({ ...span, vaddr: pageOf(vaddr), perm, memory, locksFreely, pins, dirty });
  }

  /**
   * Unmaps, after every device has unpinned; gives the bytes removed. A mapping that stays pinned after
   * {@link UNMAP_REQUESTS} requests is a violation: its holders are quarantined and their pins dropped.
   * @throws VfioError EINVAL (argsz, flags, size 0, unaligned; v2: a mapping would be split; UNMAP_ALL with a range;
   *   dirty bitmap without tracking, too short or of other pages), EOVERFLOW, EBUSY (VADDR flag)
   */
  unmap({ argsz = ROOMY_ARGSZ, flags, iova, size, bitmap }: UnmapDma): bigint {
    const { UNMAP_ALL, UNMAP_VADDR, UNMAP_DIRTY_BITMAP } = wire;
    checkArgs('UNMAP_DMA', argsz, wire.UNMAP_ARGSZ, flags, UNMAP_ALL | UNMAP_VADDR | UNMAP_DIRTY_BITMAP);
    const all = (flags & UNMAP_ALL) !== 0;
    const log = this.#unmapBitmap(flags, size, argsz < ROOMY_ARGSZ ? undefined : bitmap);
    if ((flags & UNMAP_VADDR) !== 0)
      throw new VfioError('EBUSY', 'UNMAP_DMA: the vaddr of a mediated device cannot be taken away');
    if (offsetOf(iova) !== 0) throw new VfioError('EINVAL', `UNMAP_DMA: ${hex(iova)} is not a page`);
    if (all && (iova !== 0n || size !== 0n))
      throw new VfioError('EINVAL', `UNMAP_DMA: all, and ${hex(iova)} +${hex(size)}`);
    if (!all) checkPages('UNMAP_DMA', size);
    if (!all && wraps(iova, size))
      throw new VfioError('EOVERFLOW', `UNMAP_DMA: ${hex(iova)} +${hex(size)} wraps`);
    if (log && (!this.#tracking || log.pgsize !== addressOf(1)))
      throw new VfioError(
        'EINVAL',
        `UNMAP_DMA: dirty pages of ${log.pgsize} bytes, tracked: ${this.#tracking}`,
      );
    const span = all ? { iova: 0, size: wire.PAGES_64 } : { iova: pageOf(iova), size: pageOf(size) };
    let removed = 0;
    for (const mapping of this.mappings.taken(span, this.v2 ? 'refuse' : 'whole')) {
      this.#askToUnpin(mapping);
      if (log) mapping.dirty?.store(log.data, span.iova, mapping);
      this.#remove(mapping);
      removed += mapping.size;
    }
    return BigInt.asUintN(64, addressOf(removed));
  }

  /**
   * Starts, stops or reads dirty tracking; reading starts over, with what is pinned.
   * @throws VfioError EACCES (type1 v1), EINVAL (argsz, flags; reading without tracking, a range that splits a
   *   mapping, other pages than 4 KiB, a short bitmap), EOVERFLOW (the range wraps)
   */
  dirtyPages({ argsz, flags, range }: DirtyPages): void {
    if (!this.v2) throw new VfioError('EACCES', 'DIRTY_PAGES: only type1 v2 tracks dirty pages');
    const size = argsz ?? wire.DIRTY_ARGSZ + (range ? wire.DIRTY_RANGE_BYTES : 0);
    const { DIRTY_START, DIRTY_STOP, DIRTY_GET_BITMAP } = wire;
    checkArgs('DIRTY_PAGES', size, wire.DIRTY_ARGSZ, flags, DIRTY_START | DIRTY_STOP | DIRTY_GET_BITMAP);
    const action = DIRTY_ACTIONS.get(flags);
    if (!action) throw new VfioError('EINVAL', `DIRTY_PAGES: flags ${flags}, exactly one at a time`);
    action(this, size < wire.DIRTY_ARGSZ + wire.DIRTY_RANGE_BYTES ? undefined : range);
  }

  startTracking(): void {
    if (this.#tracking) return;
    for (const { size } of this.mappings.values()) checkLoggable(size);
    for (const mapping of this.mappings.values())
      mapping.dirty = new DirtyLog(mapping.size, mapping.pins.pages());
    this.#tracking = true;
  }

  stopTracking(): void {
    this.#tracking = false;
    for (const mapping of this.mappings.values()) mapping.dirty = undefined;
  }

  /** @throws VfioError as {@link dirtyPages} does */
  dirtyBitmap(range: DirtyPages['range']): void {
    if (!range) throw new VfioError('EINVAL', 'DIRTY_PAGES: argsz has no room for the range');
    const { iova, size, bitmap } = range;
    if (size > 0n && wraps(iova, size))
      throw new VfioError('EOVERFLOW', `dirty bitmap of ${hex(iova)} +${hex(size)} wraps`);
    checkBitmap(bitmap, size);
    if (bitmap.pgsize !== addressOf(1) || offsetOf(iova) !== 0)
      throw new VfioError('EINVAL', `dirty bitmap of ${hex(iova)} in pages of ${bitmap.pgsize} bytes`);
    checkPages('dirty bitmap', size);
    if (!this.#tracking) throw new VfioError('EINVAL', 'dirty pages are not tracked');
    const span = { iova: pageOf(iova), size: pageOf(size) };
    for (const mapping of this.mappings.taken(span, 'refuse')) {
      mapping.dirty?.store(bitmap.data, span.iova, mapping);
      mapping.dirty?.restart(mapping.pins.pages());
    }
  }

  /** @throws VfioError EINVAL (argsz) */
  getInfo(argsz: number): IommuInfo {
    checkArgs('GET_INFO', argsz, wire.INFO_ARGSZ, 0, 0);
    const needed = wire.INFO_BYTES + wire.MIGRATION_CAP_BYTES + wire.AVAIL_CAP_BYTES;
    const fits = argsz >= needed;
    const migration = { pgsizes: addressOf(1), maxBitmap: BigInt(wire.DIRTY_BITMAP_MAX) };
    return {
      argsz: fits ? argsz : needed,
      flags: wire.INFO_PGSIZES | wire.INFO_CAPS,
      pgsizes: wire.IOVA_PGSIZES,
      capOffset: fits ? wire.INFO_BYTES : 0,
      caps: fits ? { migration, available: this.mappings.available } : null,
    };
  }

  /** The last group leaves: all mappings go, unasked. Pins still held are reported, and stay locked. */
  release(): void {
    for (const mapping of [...this.mappings.values()]) {
      if (mapping.pins.size > 0)
        this.violation('pins-left', `${mapping.pins.size} pages of ${textOf(mapping)} are still pinned`);
      this.#remove(mapping);
    }
  }

  /** The bitmap an unmap is to fill, if it is. @throws VfioError EINVAL */
  #unmapBitmap(flags: number, size: bigint, bitmap: UserBitmap | undefined): UserBitmap | undefined {
    if ((flags & wire.UNMAP_DIRTY_BITMAP) === 0) return undefined;
    if ((flags & (wire.UNMAP_ALL | wire.UNMAP_VADDR)) !== 0 || !bitmap)
      throw new VfioError('EINVAL', 'UNMAP_DMA: a dirty bitmap needs a range, and room in argsz');
    checkBitmap(bitmap, size);
    return bitmap;
  }

  #askToUnpin(mapping: Type1Mapping): void {
    for (let requests = 0; mapping.pins.size > 0 && requests < UNMAP_REQUESTS; requests++)
      for (const device of [...this.#devices])
        device.dmaUnmap?.(addressOf(mapping.iova), addressOf(mapping.size));
    if (mapping.pins.size > 0) this.#insist(mapping);
  }

  /** Here the kernel stops at a BUG. */
  #insist(mapping: Type1Mapping): void {
    for (const [device, refs] of mapping.pins.holders()) {
      const detail = `${device.name} keeps ${refs} pins on ${textOf(mapping)} after ${UNMAP_REQUESTS} requests to unpin`;
      this.violation('never-unpins', detail);
      device.quarantine(detail);
    }
    unlock(mapping, mapping.pins.clear());
  }

  #remove(mapping: Type1Mapping): void {
    this.mappings.remove(mapping);
  }
}

/** Counts `pages` of a mapping as no longer locked, if its process still lives. */
export function unlock({ memory, locksFreely }: Type1Mapping, pages: number): void {
  if (pages > 0 && memory.alive) memory.lock(-pages, locksFreely);
}

export const mayRead = ({ perm }: Type1Mapping): boolean => (perm & PERM_READ) !== 0;
export const mayWrite = ({ perm }: Type1Mapping): boolean => (perm & PERM_WRITE) !== 0;

type DirtyAction = (iommu: Type1, range: DirtyPages['range']) => void;
const DIRTY_ACTIONS: ReadonlyMap<number, DirtyAction> = new Map<number, DirtyAction>([
  [wire.DIRTY_START, (iommu) => iommu.startTracking()],
  [wire.DIRTY_STOP, (iommu) => iommu.stopTracking()],
  [wire.DIRTY_GET_BITMAP, (iommu, range) => iommu.dirtyBitmap(range)],
]);

function checkPages(what: string, size: bigint): void {
  if (size === 0n || offsetOf(size) !== 0)
    throw new VfioError('EINVAL', `${what}: size ${hex(size)} is not a number of pages`);
}

const textOf = ({ iova, size }: Type1Mapping): string => `${hex(addressOf(iova))} +${hex(addressOf(size))}`;
