/**
 * The entries of one shadow page table by GPU virtual page number, in regions of 512 pages.
 */
import type { Iova } from '../../../memory/address.ts';

const REGION_PAGES = 512;

/** A GPU page in guest memory. Its page is pinned while the entry exists. */
export interface RamEntry {
  readonly memory: 'ram';
  /** GPU virtual page number. */
  readonly va: number;
  readonly perm: number;
  readonly iova: Iova;
  /** Host PFN. */
  readonly pfn: number;
}

/** A GPU page in VRAM. */
export interface VramEntry {
  readonly memory: 'vram';
  /** GPU virtual page number. */
  readonly va: number;
  readonly perm: number;
  /** Offset in VRAM. */
  readonly offset: number;
}

/** A GPU page in a BAR of another device. Nothing is pinned: every access is a short DMA. */
export interface PeerEntry {
  readonly memory: 'peer';
  /** GPU virtual page number. */
  readonly va: number;
  readonly perm: number;
  readonly iova: Iova;
}

export type ShadowEntry = RamEntry | VramEntry | PeerEntry;

interface Region {
  readonly entries: (ShadowEntry | undefined)[];
  used: number;
}

export class ShadowEntries {
  size = 0;
  readonly #regions = new Map<number, Region>();

  get(page: number): ShadowEntry | undefined {
    return this.#regions.get(Math.floor(page / REGION_PAGES))?.entries[page % REGION_PAGES];
  }

  set(page: number, entry: ShadowEntry): void {
    const number = Math.floor(page / REGION_PAGES);
    let region = this.#regions.get(number);
    if (!region) {
      region = { entries: new Array<ShadowEntry | undefined>(REGION_PAGES).fill(undefined), used: 0 };
      this.#regions.set(number, region);
    }
    const at = page % REGION_PAGES;
    if (!region.entries[at]) {
      region.used++;
      this.size++;
    }
    region.entries[at] = entry;
  }

  delete(page: number): void {
    const number = Math.floor(page / REGION_PAGES);
    const region = this.#regions.get(number);
    if (!region?.entries[page % REGION_PAGES]) return;
    region.entries[page % REGION_PAGES] = undefined;
    region.used--;
    this.size--;
    if (region.used === 0) this.#regions.delete(number);
  }

  /** Returns a copy of the list of all entries; the caller may delete entries while it iterates. */
  values(): ShadowEntry[] {
    return [...this.#regions.values()].flatMap(({ entries }) =>
      entries.filter((entry) => entry !== undefined),
    );
  }
}
