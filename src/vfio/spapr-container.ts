/**
 * The container for sPAPR's DMA windows: the rules of VFIO_SPAPR_TCE_v2_IOMMU on the same pin table. A mapping lies in
 * a window that has been created, and its addresses are multiples of the window's page size. The removal of a window
 * removes its mappings.
 *
 * Errnos are those of Linux's vfio_iommu_spapr_tce driver. In Linux, the platform chooses the start of a new window;
 * here the vIOMMU has already chosen it.
 */
import { hex, type Iova } from '../memory/address.ts';
import type { DmaWindow } from '../memory/dma-window.ts';
import { all, type Completion } from '../platform/completion.ts';
import { Container } from './container.ts';
import { VfioError } from './errors.ts';
import { spanText } from './mapping-rules.ts';

/** Maximum count of windows in one container: the kernel's IOMMU_TABLE_GROUP_MAX_TABLES. */
export const WINDOW_LIMIT = 2;
/** IOMMU page sizes of a window: 4 KiB, 64 KiB, 2 MiB, 16 MiB. */
const WINDOW_PAGE_SHIFTS: readonly number[] = [12, 16, 21, 24];

const isSame = (a: DmaWindow, b: DmaWindow): boolean =>
  a.start === b.start && a.size === b.size && a.pageShift === b.pageShift;

const textOf = ({ start, size }: DmaWindow): string => spanText({ iova: start, size });

export class SpaprContainer extends Container {
  #windows: DmaWindow[] = [];

  /** Windows in the order of their creation. */
  get windows(): readonly DmaWindow[] {
    return this.#windows;
  }

  /**
   * VFIO_IOMMU_SPAPR_TCE_CREATE.
   * @throws VfioError EINVAL (page shift, or a start or size that is not a multiple of the page size), ENOSPC
   *   (WINDOW_LIMIT windows), EBUSY (overlaps another window)
   */
  createWindow(window: DmaWindow): void {
    const { start, size, pageShift } = window;
    if (!WINDOW_PAGE_SHIFTS.includes(pageShift))
      throw new VfioError('EINVAL', `page shift ${pageShift}; accepted: ${WINDOW_PAGE_SHIFTS.join(', ')}`);
    if (!(start >= 0 && size > 0) || start % 2 ** pageShift !== 0 || size % 2 ** pageShift !== 0)
      throw new VfioError('EINVAL', `window ${textOf(window)}; accepted: multiples of ${2 ** pageShift}`);
    if (this.#windows.length >= WINDOW_LIMIT)
      throw new VfioError('ENOSPC', `limit of ${WINDOW_LIMIT} windows reached`);
    const other = this.#windows.find((held) => start < held.start + held.size && start + size > held.start);
    if (other) throw new VfioError('EBUSY', `window ${textOf(window)} overlaps ${textOf(other)}`);
    this.#windows = [...this.#windows, window];
  }

  /**
   * VFIO_IOMMU_SPAPR_TCE_REMOVE. Removes all mappings of the window too. Complete when no device can use any of them.
   * @throws VfioError EINVAL: no window begins there
   */
  removeWindow(start: number): Completion {
    const window = this.#windows.find((held) => held.start === start);
    if (!window) throw new VfioError('EINVAL', `no window begins at ${hex(start)}`);
    this.#windows = this.#windows.filter((held) => held !== window);
    const inside: { iova: Iova; size: number }[] = [];
    this.forEach(window.start, window.start + window.size, (iova, size) => {
      inside.push({ iova: iova as Iova, size });
    });
    return this.unmapMappings(inside);
  }

  /** Removes the windows that are not among `windows`, and creates the new ones. Complete when the removals are. */
  setWindows(windows: readonly DmaWindow[]): Completion {
    const gone = this.#windows.filter((held) => !windows.some((window) => isSame(window, held)));
    const works = gone.map(({ start }) => this.removeWindow(start));
    for (const window of windows)
      if (!this.#windows.some((held) => isSame(held, window))) this.createWindow(window);
    return all(works);
  }

  /**
   * Maps as {@link Container.map} does, within one window.
   * @throws VfioError also ENXIO (outside the windows), EINVAL (not a multiple of the window's page size)
   */
  override map(iova: Iova, vaddr: number, size: number, perm: number): void {
    const refused = this.#outsideWindows(iova, vaddr, size);
    if (refused) throw refused;
    super.map(iova, vaddr, size, perm);
  }

  override refusal(iova: Iova, vaddr: number, size: number, perm: number): VfioError | undefined {
    return this.#outsideWindows(iova, vaddr, size) ?? super.refusal(iova, vaddr, size, perm);
  }

  #outsideWindows(iova: Iova, vaddr: number, size: number): VfioError | undefined {
    const window = this.#windowOf(iova, size);
    if (!window)
      return new VfioError(
        'ENXIO',
        `map of ${spanText({ iova, size })}: outside the windows (${this.#windows.map(textOf).join(', ') || 'none'})`,
      );
    const page = 2 ** window.pageShift;
    if ([iova, vaddr, size].some((value) => value % page !== 0))
      return new VfioError(
        'EINVAL',
        `map of ${spanText({ iova, size })} to ${hex(vaddr)}; accepted: multiples of ${page}`,
      );
    return undefined;
  }

  override mapPages(iova: Iova, vaddrs: Float64Array, count: number, perm: number): boolean {
    const window = this.#windowOf(iova, count * 2 ** 12);
    return window?.pageShift === 12 && super.mapPages(iova, vaddrs, count, perm);
  }

  #windowOf(iova: number, size: number): DmaWindow | undefined {
    return this.#windows.find(({ start, size: room }) => iova >= start && iova + size <= start + room);
  }
}
