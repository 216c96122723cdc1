/**
 * Shadow entries by GPU virtual page: arrays of 512, one for each 2 MiB of addresses in use. A copy looks at each of its
 * pages twice; neighbours are neighbours here, which in one large map they are not.
 */
import type { ShadowEntry } from './shadow-page-table.ts';

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
