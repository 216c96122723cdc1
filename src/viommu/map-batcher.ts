/**
 * A replay's pages, collected while they lie one behind the other and handed to the notifier together.
 */
import { type Gpa, type Iova, PAGE_2M, PAGE_SIZE } from '../memory/address.ts';
import type { MapNotifier } from './notifier.ts';

/** Maps one translation; false when no further one can be had. */
export type MapPage = (iova: Iova, gpa: Gpa, size: number, perm: number) => boolean;

/** At most the pages of one 2 MiB, as {@link MapNotifier.mapPages} takes them. */
export class MapBatcher {
  /** Pages that went to the notifier together. */
  mapped = 0;
  readonly #notifier: MapNotifier;
  readonly #mapOne: MapPage;
  readonly #gpas = new Float64Array(PAGE_2M / PAGE_SIZE);
  #first = 0;
  #next = -1;
  #count = 0;
  #perm = 0;

  constructor(notifier: MapNotifier, mapOne: MapPage) {
    this.#notifier = notifier;
    this.#mapOne = mapOne;
  }

  /** False when no further mapping can be had. */
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

  /** Maps what was collected. False when no further mapping can be had. */
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
      if (!this.#mapOne(iova, this.#gpas[i] as Gpa, PAGE_SIZE, this.#perm)) return false;
    }
    return true;
  }
}
