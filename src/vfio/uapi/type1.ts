/**
 * The IOMMU of a container of mediated devices: type1 and type1 v2, with Linux's result for each call.
 *
 * This is the synchronous state machine of the system calls, for any 64-bit range and for memory that may be missing.
 * `container.ts` is its shared-memory counterpart for devices that run in threads.
 *
 * Errors are checked in the kernel's order, because a call with two errors has one errno.
 */
import { hex, PERM_READ, PERM_WRITE } from '../../memory/address.ts';
import { VfioError } from '../errors.ts';
import { DMA_ENTRY_LIMIT } from '../mapping-rules.ts';
import { checkBitmap, checkLoggable, DirtyLog, type UserBitmap } from './dirty-log.ts';
import { MappingTree } from './mapping-tree.ts';
import { PinList } from './pin-list.ts';
import type { UserMemory } from './user-memory.ts';
import * as uapi from './vfio-uapi.ts';
import { addressOf, checkArgs, offsetOf, pageOf, wraps } from './vfio-uapi.ts';

/** Maximum count of unpin requests for one mapping: the first and ten more. */
export const UNMAP_REQUESTS = 11;

/** `argsz` of an unmap by default: it has room for the bitmap. */
const ROOMY_ARGSZ = uapi.UNMAP_ARGSZ + uapi.BITMAP_BYTES;

/** A device that uses the IOMMU. */
export interface Type1Device {
  readonly name: string;
  /** Asks the driver to unpin everything in the range before it returns; absent if the driver cannot. */
  readonly dmaUnmap: ((iova: bigint, size: bigint) => void) | undefined;
  /** Bars the device from the IOMMU, because it keeps its pins after every request. */
  quarantine(detail: string): void;
}

/** One mapping; `iova`, `size` and `vaddr` count pages. */
export interface Type1Mapping {
  readonly iova: number;
  readonly size: number;
  readonly vaddr: number;
  readonly perm: number;
  readonly memory: UserMemory;
  /** True if the process had the right to lock without limit when it made the mapping. */
  readonly locksFreely: boolean;
  readonly pins: PinList<Type1Device>;
  dirty: DirtyLog | undefined;
}

/** VFIO_IOMMU_MAP_DMA. */
interface MapDma {
  readonly argsz?: number;
  readonly flags: number;
  readonly iova: bigint;
  readonly vaddr: bigint;
  readonly size: bigint;
}

/** VFIO_IOMMU_UNMAP_DMA. */
interface UnmapDma {
  readonly argsz?: number;
  readonly flags: number;
  readonly iova: bigint;
  readonly size: bigint;
  readonly bitmap?: UserBitmap;
}

/** VFIO_IOMMU_DIRTY_PAGES. */
interface DirtyPages {
  readonly argsz?: number;
  readonly flags: number;
  readonly range?: { readonly iova: bigint; readonly size: bigint; readonly bitmap: UserBitmap };
}

/** Result of VFIO_IOMMU_GET_INFO. */
interface IommuInfo {
  readonly argsz: number;
  readonly flags: number;
  readonly pgsizes: bigint;
  /** Offset of the capabilities. It is 0, without capabilities, if `argsz` has no room for them. */
  readonly capOffset: number;
  readonly caps: {
    readonly migration: { pgsizes: bigint; maxBitmap: bigint };
    readonly available: number;
  } | null;
}

/** Breach of the contract by a device driver, or of a limit by its pins. The kernel warns in its log, or stops at a BUG. */
export interface Type1Violation {
  readonly kind: 'unpin-refused' | 'unpin-unmapped' | 'pins-left' | 'never-unpins' | 'memlock-exceeded';
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
  readonly mappings: MappingTree<Type1Mapping>;
  /** Open devices whose drivers have dma_unmap. */
  readonly #devices = new Set<Type1Device>();
  readonly #report: (violation: Type1Violation) => void;
  #tracking = false;

  constructor({ v2, entryLimit = DMA_ENTRY_LIMIT, onViolation = () => {} }: Type1Options) {
    this.v2 = v2;
    this.mappings = new MappingTree(entryLimit);
    this.#report = onViolation;
  }

  get tracking(): boolean {
    return this.#tracking;
  }

  /** True if an open device can be asked to unpin. Without one, nothing may be pinned. */
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
   * VFIO_IOMMU_MAP_DMA. The memory at `vaddr` is not checked: nothing is pinned until a device asks.
   * @throws VfioError EINVAL (argsz, flags, size 0, unaligned; too large for dirty tracking), EOVERFLOW (wraps),
   *   EEXIST, ENOSPC; with the VADDR flag ENOENT (nothing mapped) or EINVAL (mapped, and its vaddr is valid)
   */
  map({ argsz = uapi.MAP_ARGSZ, flags, iova, vaddr, size }: MapDma, memory: UserMemory): void {
    const { MAP_READ, MAP_WRITE, MAP_VADDR } = uapi;
    checkArgs('MAP_DMA', argsz, uapi.MAP_ARGSZ, flags, MAP_READ | MAP_WRITE | MAP_VADDR);
    const perm = flags & (MAP_READ | MAP_WRITE);
    const update = (flags & MAP_VADDR) !== 0;
    if ((perm !== 0) === update)
      throw new VfioError('EINVAL', 'MAP_DMA: flags; accepted: either permissions or VADDR');
    if (size === 0n || offsetOf(size | iova | vaddr) !== 0)
      throw new VfioError('EINVAL', `MAP_DMA: ${hex(iova)} +${hex(size)} to ${hex(vaddr)}; accepted: pages`);
    if (wraps(iova, size) || wraps(vaddr, size))
      throw new VfioError('EOVERFLOW', `MAP_DMA: ${hex(iova)} +${hex(size)} to ${hex(vaddr)} wraps`);
    const span = { iova: pageOf(iova), size: pageOf(size) };
    // With mediated devices, no vaddr is ever invalid, so no vaddr needs an update.
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
   * VFIO_IOMMU_UNMAP_DMA: asks the devices to unpin, then unmaps. Returns the count of bytes removed. A mapping that is
   * still pinned after {@link UNMAP_REQUESTS} requests is a violation: its holders are quarantined and their pins are
   * dropped.
   * @throws VfioError EINVAL (argsz, flags, size 0, unaligned; v2: a mapping would be split; UNMAP_ALL with a range;
   *   dirty bitmap without tracking, too short or with other pages), EOVERFLOW, EBUSY (VADDR flag)
   */
  unmap({ argsz = ROOMY_ARGSZ, flags, iova, size, bitmap }: UnmapDma): bigint {
    const { UNMAP_ALL, UNMAP_VADDR, UNMAP_DIRTY_BITMAP } = uapi;
    checkArgs('UNMAP_DMA', argsz, uapi.UNMAP_ARGSZ, flags, UNMAP_ALL | UNMAP_VADDR | UNMAP_DIRTY_BITMAP);
    const all = (flags & UNMAP_ALL) !== 0;
    const log = this.#unmapBitmap(flags, size, argsz < ROOMY_ARGSZ ? undefined : bitmap);
    if ((flags & UNMAP_VADDR) !== 0)
      throw new VfioError('EBUSY', 'UNMAP_DMA: the vaddr of a mediated device cannot be invalidated');
    if (offsetOf(iova) !== 0) throw new VfioError('EINVAL', `UNMAP_DMA: ${hex(iova)} is not page-aligned`);
    if (all && (iova !== 0n || size !== 0n))
      throw new VfioError('EINVAL', `UNMAP_DMA: ALL with the range ${hex(iova)} +${hex(size)}`);
    if (!all) checkPages('UNMAP_DMA', size);
    if (!all && wraps(iova, size))
      throw new VfioError('EOVERFLOW', `UNMAP_DMA: ${hex(iova)} +${hex(size)} wraps`);
    if (log && (!this.#tracking || log.pgsize !== addressOf(1)))
      throw new VfioError(
        'EINVAL',
        `UNMAP_DMA: dirty pages of ${log.pgsize} bytes, tracking: ${this.#tracking}`,
      );
    const span = all ? { iova: 0, size: uapi.PAGES_64 } : { iova: pageOf(iova), size: pageOf(size) };
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
   * VFIO_IOMMU_DIRTY_PAGES: starts, stops or reads dirty tracking. After a read, only the pinned pages are dirty.
   * @throws VfioError EACCES (type1 v1), EINVAL (argsz, flags; a read without tracking, with a range that splits a
   *   mapping, with other pages than 4 KiB or with a short bitmap), EOVERFLOW (the range wraps)
   */
  dirtyPages({ argsz, flags, range }: DirtyPages): void {
    if (!this.v2) throw new VfioError('EACCES', 'DIRTY_PAGES: only type1 v2 tracks dirty pages');
    const size = argsz ?? uapi.DIRTY_ARGSZ + (range ? uapi.DIRTY_RANGE_BYTES : 0);
    const { DIRTY_START, DIRTY_STOP, DIRTY_GET_BITMAP } = uapi;
    checkArgs('DIRTY_PAGES', size, uapi.DIRTY_ARGSZ, flags, DIRTY_START | DIRTY_STOP | DIRTY_GET_BITMAP);
    const action = DIRTY_ACTIONS.get(flags);
    if (!action) throw new VfioError('EINVAL', `DIRTY_PAGES: flags ${flags}; accepted: exactly one`);
    action(this, size < uapi.DIRTY_ARGSZ + uapi.DIRTY_RANGE_BYTES ? undefined : range);
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

  /** @throws VfioError as {@link dirtyPages} */
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
    checkArgs('GET_INFO', argsz, uapi.INFO_ARGSZ, 0, 0);
    const needed = uapi.INFO_BYTES + uapi.MIGRATION_CAP_BYTES + uapi.AVAIL_CAP_BYTES;
    const fits = argsz >= needed;
    const migration = { pgsizes: addressOf(1), maxBitmap: BigInt(uapi.DIRTY_BITMAP_MAX) };
    return {
      argsz: fits ? argsz : needed,
      flags: uapi.INFO_PGSIZES | uapi.INFO_CAPS,
      pgsizes: uapi.IOVA_PGSIZES,
      capOffset: fits ? uapi.INFO_BYTES : 0,
      caps: fits ? { migration, available: this.mappings.available } : null,
    };
  }

  /** Removes all mappings without a request to unpin, as the last group leaves. Reports held pins; they stay locked. */
  release(): void {
    for (const mapping of [...this.mappings.values()]) {
      if (mapping.pins.size > 0)
        this.violation('pins-left', `${mapping.pins.size} pages of ${textOf(mapping)} are still pinned`);
      this.#remove(mapping);
    }
  }

  /** Returns the bitmap that an unmap must fill, if any. @throws VfioError EINVAL */
  #unmapBitmap(flags: number, size: bigint, bitmap: UserBitmap | undefined): UserBitmap | undefined {
    if ((flags & uapi.UNMAP_DIRTY_BITMAP) === 0) return undefined;
    if ((flags & (uapi.UNMAP_ALL | uapi.UNMAP_VADDR)) !== 0 || !bitmap)
      throw new VfioError('EINVAL', 'UNMAP_DMA: a dirty bitmap needs a range and an argsz that includes it');
    checkBitmap(bitmap, size);
    return bitmap;
  }

  #askToUnpin(mapping: Type1Mapping): void {
    for (let requests = 0; mapping.pins.size > 0 && requests < UNMAP_REQUESTS; requests++)
      for (const device of [...this.#devices])
        device.dmaUnmap?.(addressOf(mapping.iova), addressOf(mapping.size));
    if (mapping.pins.size > 0) this.#insist(mapping);
  }

  /** Quarantines the holders and drops their pins. The kernel stops at a BUG here. */
  #insist(mapping: Type1Mapping): void {
    for (const [device, refs] of mapping.pins.holders()) {
      const held = `${device.name} keeps ${refs} pins on ${textOf(mapping)}`;
      const detail = `${held} after ${UNMAP_REQUESTS} requests to unpin`;
      this.violation('never-unpins', detail);
      device.quarantine(detail);
    }
    unlock(mapping, mapping.pins.clear());
  }

  #remove(mapping: Type1Mapping): void {
    this.mappings.remove(mapping);
  }
}

/** Subtracts `pages` of a mapping from its process's locked pages, if the process has not ended. */
export function unlock({ memory, locksFreely }: Type1Mapping, pages: number): void {
  if (pages > 0 && memory.alive) memory.lock(-pages, locksFreely);
}

export const mayRead = ({ perm }: Type1Mapping): boolean => (perm & PERM_READ) !== 0;
export const mayWrite = ({ perm }: Type1Mapping): boolean => (perm & PERM_WRITE) !== 0;

type DirtyAction = (iommu: Type1, range: DirtyPages['range']) => void;
const DIRTY_ACTIONS: ReadonlyMap<number, DirtyAction> = new Map<number, DirtyAction>([
  [uapi.DIRTY_START, (iommu) => iommu.startTracking()],
  [uapi.DIRTY_STOP, (iommu) => iommu.stopTracking()],
  [uapi.DIRTY_GET_BITMAP, (iommu, range) => iommu.dirtyBitmap(range)],
]);

function checkPages(what: string, size: bigint): void {
  if (size === 0n || offsetOf(size) !== 0)
    throw new VfioError('EINVAL', `${what}: size ${hex(size)}; accepted: multiples of 4096`);
}

const textOf = ({ iova, size }: Type1Mapping): string => `${hex(addressOf(iova))} +${hex(addressOf(size))}`;
