/**
 * Domain for sPAPR, whose hardware has none: a map of pages that is copied into the default window of every attached
 * device.
 */
import { hex, isAligned, PAGE_SIZE } from '../../../memory/address.ts';
import type { InFlight } from '../../in-flight.ts';
import { Mutex } from '../../mutex.ts';
import { runsOf } from '../../run-length.ts';
import type { GuestDomain, MapRange, UnmapRange } from '../guest-iommu.ts';
import { type SpaprDmaWindow, WindowRangeError } from './driver.ts';

/** Pages by bus address: GPA plus permissions. */
export type PageMap = ReadonlyMap<number, number>;

/** Runs of pages that are neighbours in both address spaces and have the same permissions. */
export type SavedPages = readonly (readonly [iova: number, gpa: number, pages: number, perm: number])[];

/** Encodes pages as runs, ascending by bus address. */
function savePages(pages: PageMap): SavedPages {
  const runs = runsOf(
    [...pages].sort(([a], [b]) => a - b),
    ([iova, page], count, [nextIova, nextPage]) =>
      iova + count * PAGE_SIZE === nextIova && page + count * PAGE_SIZE === nextPage,
  );
  return runs.map(([[iova, page], count]) => [iova, page - (page % PAGE_SIZE), count, page % PAGE_SIZE]);
}

const restorePages = (saved: SavedPages): Map<number, number> =>
  pagesOf(saved.map(([iova, gpa, pages, perm]) => ({ iova, gpa, size: pages * PAGE_SIZE, perm })));

/** The window of one device, with the contents of its TCEs. */
export class DeviceWindow {
  readonly #window: SpaprDmaWindow;
  readonly #held: Map<number, number>;
  readonly #changes = new Mutex();
  #shown: PageMap = new Map();

  /**
   * @param window must have 4 KiB pages
   * @param held contents of its TCEs; empty by default
   */
  constructor(window: SpaprDmaWindow, held: SavedPages = []) {
    this.#window = window;
    this.#held = restorePages(held);
  }

  /** Returns the contents of the TCEs. */
  save(): SavedPages {
    return savePages(this.#held);
  }

  /** Does as {@link show} for a window whose TCEs are these pages already. */
  resume(pages: PageMap): void {
    this.#shown = pages;
  }

  /**
   * Makes the device see exactly these pages. Equal pages are not rewritten. {@link follow} applies later changes.
   */
  show(pages: PageMap): Promise<void> {
    return this.#changes.run(async () => {
      this.#shown = pages;
      await this.#sync(new Set([...this.#held.keys(), ...pages.keys()]));
    });
  }

  /** Rewrites the TCEs of these bus addresses after a change of the pages. */
  follow(iovas: readonly number[]): Promise<void> {
    return this.#changes.run(() => this.#sync(iovas));
  }

  async #sync(iovas: Iterable<number>): Promise<void> {
    const changed: MapRange[] = [];
    const stale: UnmapRange[] = [];
    for (const iova of iovas) {
      const page = this.#shown.get(iova);
      if (page === this.#held.get(iova)) continue;
      if (page === undefined) stale.push({ iova, size: PAGE_SIZE });
      else changed.push({ iova, gpa: page - (page % PAGE_SIZE), size: PAGE_SIZE, perm: page % PAGE_SIZE });
    }
    if (changed.length > 0) await this.#window.replaceAll(changed);
    for (const { iova, gpa, perm } of changed) this.#held.set(iova, gpa + perm);
    if (stale.length > 0) await this.#window.unmapAll(stale);
    for (const { iova } of stale) this.#held.delete(iova);
  }
}

/** Returns the 4 KiB pages of ranges. @throws WindowRangeError for a range of no whole pages, or an overlap */
export function pagesOf(ranges: readonly MapRange[]): Map<number, number> {
  const pages = new Map<number, number>();
  for (const { iova, gpa, size, perm } of ranges) {
    const aligned = [iova, gpa, size].every(
      (value) => Number.isSafeInteger(value) && value >= 0 && isAligned(value, PAGE_SIZE),
    );
    if (!aligned || size <= 0)
      throw new WindowRangeError(`${hex(iova)} +${hex(size)} to ${hex(gpa)} is not a range of 4 KiB pages`);
    for (let at = 0; at < size; at += PAGE_SIZE) {
      if (pages.has(iova + at)) throw new WindowRangeError(`${hex(iova + at)} is mapped twice`);
      pages.set(iova + at, gpa + at + perm);
    }
  }
  return pages;
}

/** State of a domain: its ID and its pages. */
export interface SpaprDomainState {
  readonly id: number;
  readonly pages: SavedPages;
}

/** A domain that updates the windows of its devices. */
export class SpaprDomain implements GuestDomain {
  readonly id: number;
  readonly #pages: Map<number, number>;
  readonly #windows = new Set<DeviceWindow>();
  readonly #limit: number;
  readonly #inFlight: InFlight;

  /**
   * @param limit end of every device's window; mappings must be below
   * @param pages its pages; empty by default
   */
  constructor(id: number, limit: number, inFlight: InFlight, pages: SavedPages = []) {
    this.id = id;
    this.#limit = limit;
    this.#inFlight = inFlight;
    this.#pages = restorePages(pages);
  }

  save(): SpaprDomainState {
    return { id: this.id, pages: savePages(this.#pages) };
  }

  /** @throws WindowRangeError, HypercallError, HypercallTimeout */
  map(iova: number, gpa: number, size: number, perm: number): Promise<void> {
    return this.mapAll([{ iova, gpa, size, perm }]);
  }

  /** Maps several ranges; else as {@link map}. If one is invalid, none is mapped. */
  mapAll(ranges: readonly MapRange[]): Promise<void> {
    return this.#inFlight.run('map', () => this.#mapAll(ranges));
  }

  async #mapAll(ranges: readonly MapRange[]): Promise<void> {
    const added = pagesOf(ranges);
    for (const iova of added.keys()) {
      if (this.#pages.has(iova)) throw new WindowRangeError(`${hex(iova)} is mapped`);
      if (iova < 0 || iova >= this.#limit)
        throw new WindowRangeError(`${hex(iova)} is outside the window, which ends at ${hex(this.#limit)}`);
    }
    for (const [iova, page] of added) this.#pages.set(iova, page);
    await this.#follow([...added.keys()]);
  }

  /** @throws HypercallError, HypercallTimeout */
  unmap(iova: number, size: number): Promise<number> {
    return this.unmapAll([{ iova, size }]);
  }

  /** Unmaps several ranges; else as {@link unmap}. */
  unmapAll(ranges: readonly UnmapRange[]): Promise<number> {
    return this.#inFlight.run('unmap', () => this.#unmapAll(ranges));
  }

  async #unmapAll(ranges: readonly UnmapRange[]): Promise<number> {
    const gone: number[] = [];
    for (const { iova, size } of ranges)
      for (let at = iova; at < iova + size; at += PAGE_SIZE) if (this.#pages.delete(at)) gone.push(at);
    await this.#follow(gone);
    return gone.length * PAGE_SIZE;
  }

  /** Makes a device's window show this domain, with all later changes. */
  async enter(window: DeviceWindow): Promise<void> {
    this.#windows.add(window);
    await window.show(this.#pages);
  }

  /** Does as {@link enter} for a window that shows this domain already. */
  resume(window: DeviceWindow): void {
    this.#windows.add(window);
    window.resume(this.#pages);
  }

  /** Stops updating a window, which shows another view now. */
  leave(window: DeviceWindow): void {
    this.#windows.delete(window);
  }

  async #follow(iovas: readonly number[]): Promise<void> {
    if (iovas.length > 0) await Promise.all([...this.#windows].map((window) => window.follow(iovas)));
  }
}
