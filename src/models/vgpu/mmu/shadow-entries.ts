import type { Iova } from '../../../memory/address.ts';

const REGION_PAGES = 512;

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

  /** Every entry; those that are deleted meanwhile may be among them. */
  values(): ShadowEntry[] {
    return [...this.#regions.values()].flatMap(({ entries }) =>
      entries.filter((entry) => entry !== undefined),
    );
  }
}

export interface ShadowEntry {
  /** GPU virtual page number. */
  readonly va: number;
  /** From VRAM_ADDRESS on: an offset in VRAM. */
  readonly iova: Iova;
  /** From VRAM_PFN on: a page of VRAM. */
  readonly pfn: number;
  readonly perm: number;
}
