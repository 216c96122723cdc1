/**
 * Batches of a replay's pages: pages with consecutive IOVAs go to the notifier in one call.
 */
import { type Gpa, type Iova, PAGE_2M, PAGE_SIZE } from '../memory/address.ts';
import type { MapNotifier, TranslationVisitor } from './notifier.ts';

/** One batch: at most the pages of 2 MiB, as {@link MapNotifier.mapPages} accepts them. */
export class MapBatcher {
  /** Pages mapped in batches. */
  mapped = 0;
  readonly #notifier: MapNotifier;
  /** Maps one page. Returns false when no further mapping is accepted. */
  readonly #mapOne: TranslationVisitor;
  readonly #gpas = new Float64Array(PAGE_2M / PAGE_SIZE);
  #first = 0;
  #next = -1;
  #count = 0;
  #perm = 0;

  constructor(notifier: MapNotifier, mapOne: TranslationVisitor) {
    this.#notifier = notifier;
    this.#mapOne = mapOne;
  }

  /** Adds a page. Returns false when no further mapping is accepted. */
  add(iova: Iova, gpa: Gpa, perm: number): boolean {
    if (iova !== this.#next || perm !== this.#perm || iova % PAGE_2M === 0) {
      if (!this.flush()) return false;
      this.#first = iova;
      this.#perm = perm;
    }
    this.#gpas[this.#count++] = gpa;
    this.#next = iova + PAGE_SIZE;
    return true;
  }

  /** Maps the collected pages. Returns false when no further mapping is accepted. */
  flush(): boolean {
    const count = this.#count;
    this.#count = 0;
    this.#next = -1;
    if (count === 0) return true;
    if (this.#notifier.mapPages?.(this.#first as Iova, this.#gpas, count, this.#perm)) {
      this.mapped += count;
      return true;
    }
    for (let i = 0; i < count; i++) {
      const iova = (this.#first + i * PAGE_SIZE) as Iova;
      if (this.#mapOne(iova, this.#gpas[i] as Gpa, PAGE_SIZE, this.#perm) === false) return false;
    }
    return true;
  }
}
