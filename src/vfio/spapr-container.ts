/**
 * The container of PowerPC's fixed windows: VFIO_SPAPR_TCE_v2_IOMMU's rules on the same pin table. Mappings lie in
 * windows that have been created, in multiples of the window's page size; a window goes with everything in it.
 *
 * Errnos are those of Linux's vfio_iommu_spapr_tce driver. There the platform chooses a new window's place; here the
 * vIOMMU in front has already chosen it.
 */
import { hex, type Iova } from '../memory/address.ts';
import { Container } from './container.ts';
import { VfioError } from './errors.ts';
import { spanText } from './mapping-rules.ts';

/** Windows of one container: the kernel's IOMMU_TABLE_GROUP_MAX_TABLES. */
export const WINDOW_LIMIT = 2;
/** IOMMU page sizes of a window: 4 KiB, 64 KiB, 2 MiB, 16 MiB. */
export const WINDOW_PAGE_SHIFTS: readonly number[] = [12, 16, 21, 24];

/** A range of IOVAs through which a device reaches memory. */
export interface DmaWindow {
  readonly start: number;
  /** Bytes: a multiple of the page size. */
  readonly size: number;
  readonly pageShift: number;
}

const isSame = (a: DmaWindow, b: DmaWindow): boolean =>
  a.start === b.start && a.size === b.size && a.pageShift === b.pageShift;

const textOf = ({ start, size }: DmaWindow): string => spanText({ iova: start, size });

export class SpaprContainer extends Container {
  #windows: DmaWindow[] = [];

  /** In the order of their creation. */
  get windows(): readonly DmaWindow[] {
    return this.#windows;
  }

  /**
   * VFIO_IOMMU_SPAPR_TCE_CREATE.
   * @throws VfioError EINVAL (page shift, a start or size that is no multiple of it), ENOSPC (WINDOW_LIMIT windows),
   *   EBUSY (another window is there)
   */
  createWindow(window: DmaWindow): void {
    const { start, size, pageShift } = window;
    if (!WINDOW_PAGE_SHIFTS.includes(pageShift))
      throw new VfioError('EINVAL', `page shift ${pageShift}; accepted: ${WINDOW_PAGE_SHIFTS.join(', ')}`);
    if (!(start >= 0 && size > 0) || start % 2 ** pageShift !== 0 || size % 2 ** pageShift !== 0)
      throw new VfioError('EINVAL', `a window ${textOf(window)} of pages of ${2 ** pageShift} bytes`);
    if (this.#windows.length >= WINDOW_LIMIT)
      throw new VfioError('ENOSPC', `there are ${WINDOW_LIMIT} windows, the limit`);
    const other = this.#windows.find((held) => start < held.start + held.size && start + size > held.start);
    if (other) throw new VfioError('EBUSY', `a window ${textOf(window)} overlaps ${textOf(other)}`);
    this.#windows = [...this.#windows, window];
  }

  /**
   * VFIO_IOMMU_SPAPR_TCE_REMOVE, with everything that is mapped in it. Complete when no device can use any of it.
   * @throws VfioError EINVAL: no window begins there
   */
  removeWindow(start: number): Promise<void> | undefined {
    const window = this.#windows.find((held) => held.start === start);
    if (!window) throw new VfioError('EINVAL', `no window begins at ${hex(start)}`);
    this.#windows = this.#windows.filter((held) => held !== window);
    const inside: { iova: Iova; size: number }[] = [];
    this.forEach(window.start, window.start + window.size, (iova, size) => {
      inside.push({ iova: iova as Iova, size });
    });
    return this.unmapMappings(inside);
  }

  /** Makes the windows exactly these: what is not among them is removed, what is new is created. */
  setWindows(windows: readonly DmaWindow[]): Promise<void> | undefined {
    const gone = this.#windows.filter((held) => !windows.some((window) => isSame(window, held)));
    const works = gone.map(({ start }) => this.removeWindow(start)).filter((work) => work !== undefined);
    for (const window of windows)
      if (!this.#windows.some((held) => isSame(held, window))) this.createWindow(window);
    return works.length > 0 ? Promise.all(works).then(() => {}) : undefined;
  }

  /**
   * As a container's map, in one window.
   * @throws VfioError also ENXIO (outside the windows), EINVAL (no multiple of the window's page size)
   */
  override map(iova: Iova, vaddr: number, size: number, perm: number): void {
    const window = this.#windowOf(iova, size);
    if (!window)
      throw new VfioError(
        'ENXIO',
        `map of ${spanText({ iova, size })}: outside the windows (${this.#windows.map(textOf).join(', ') || 'none'})`,
      );
    const page = 2 ** window.pageShift;
    if ([iova, vaddr, size].some((value) => value % page !== 0))
      throw new VfioError(
        'EINVAL',
        `map of ${spanText({ iova, size })} to ${hex(vaddr)}: pages have ${page} bytes`,
      );
    super.map(iova, vaddr, size, perm);
  }

  override mapPages(iova: Iova, vaddrs: Float64Array, count: number, perm: number): boolean {
    const window = this.#windowOf(iova, count * 2 ** 12);
    return window?.pageShift === 12 && super.mapPages(iova, vaddrs, count, perm);
  }

  #windowOf(iova: number, size: number): DmaWindow | undefined {
    return this.#windows.find(({ start, size: room }) => iova >= start && iova + size <= start + room);
  }
}
