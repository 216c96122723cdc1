/**
 * The pinned pages of one mapping: one record per IOVA, with a count that all devices of the container share.
 *
 * As in the kernel the record belongs to the exact IOVA: a pin at an address inside a page is another one than the
 * pin of the page's start, and keeps its page until its own last unpin.
 */
import type { PageFrame } from './user-memory.ts';

export interface Pin<D> {
  readonly offset: number;
  readonly frame: PageFrame;
  refs: number;
  /** Who pinned how often; an unpin for another's pin takes from any. */
  readonly holders: Map<D, number>;
}

/** Pins by page number of the IOVA. `D` is who pins. */
export class PinList<D> {
  /** Nearly always one record per page: the one of offset 0. */
  readonly #pages = new Map<number, Pin<D>[]>();
  #records = 0;

  /** Records, which is also the number of pages locked for them. */
  get size(): number {
    return this.#records;
  }

  /** Page numbers with a pin. */
  pages(): IterableIterator<number> {
    return this.#pages.keys();
  }

  find(page: number, offset: number): Pin<D> | undefined {
    return this.#pages.get(page)?.find((pin) => pin.offset === offset);
  }

  /** One more reference for `holder`; the page that the record keeps. */
  reference(pin: Pin<D>, holder: D): PageFrame {
    pin.refs++;
    pin.holders.set(holder, (pin.holders.get(holder) ?? 0) + 1);
    return pin.frame;
  }

  add(page: number, offset: number, frame: PageFrame, holder: D): void {
    const pin: Pin<D> = { offset, frame, refs: 1, holders: new Map([[holder, 1]]) };
    const pins = this.#pages.get(page);
    if (pins) pins.push(pin);
    else this.#pages.set(page, [pin]);
    this.#records++;
  }

  /** One reference less. True if it was the last and the record is gone; false also if nothing is pinned there. */
  release(page: number, offset: number, holder: D): boolean {
    const pins = this.#pages.get(page);
    const pin = pins?.find((candidate) => candidate.offset === offset);
    if (!pins || !pin) return false;
    const from = pin.holders.has(holder) ? holder : (pin.holders.keys().next().value as D);
    const held = (pin.holders.get(from) ?? 0) - 1;
    if (held > 0) pin.holders.set(from, held);
    else pin.holders.delete(from);
    if (--pin.refs > 0) return false;
    pins.splice(pins.indexOf(pin), 1);
    if (pins.length === 0) this.#pages.delete(page);
    this.#records--;
    return true;
  }

  /** References by holder. */
  holders(): Map<D, number> {
    const held = new Map<D, number>();
    for (const pins of this.#pages.values())
      for (const { holders } of pins)
        for (const [holder, refs] of holders) held.set(holder, (held.get(holder) ?? 0) + refs);
    return held;
  }

  /** Forgets all records; gives their number. */
  clear(): number {
    const records = this.#records;
    this.#pages.clear();
    this.#records = 0;
    return records;
  }
}
