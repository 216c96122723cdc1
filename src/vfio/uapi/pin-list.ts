/**
 * Pinned pages of one mapping: one record per IOVA, with a count that all devices of the container share.
 *
 * As in the kernel, a record belongs to the exact IOVA. A pin at an offset in a page has a record of its own, apart
 * from that of the page's start, and holds the page until its own last unpin.
 */
import type { PageFrame } from './user-memory.ts';

interface Pin<D> {
  readonly offset: number;
  readonly frame: PageFrame;
  refs: number;
  /** Count of references by holder. An unpin by a device without a reference drops another holder's. */
  readonly holders: Map<D, number>;
}

/** Pins by page number of the IOVA. `D` is the type of a holder. */
export class PinList<D> {
  /** Records by page. A page nearly always has only the one of offset 0. */
  readonly #pages = new Map<number, Pin<D>[]>();
  #records = 0;

  /** Count of records; as many pages are locked. */
  get size(): number {
    return this.#records;
  }

  /** Returns the numbers of the pages with a pin. */
  pages(): IterableIterator<number> {
    return this.#pages.keys();
  }

  find(page: number, offset: number): Pin<D> | undefined {
    return this.#pages.get(page)?.find((pin) => pin.offset === offset);
  }

  /** Adds a reference for `holder`. Returns the page of the record. */
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

  /** Drops one reference. Returns true if it was the last, so the record is removed; false also if there was no pin. */
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

  /** Returns the count of references by holder. */
  holders(): Map<D, number> {
    const held = new Map<D, number>();
    for (const pins of this.#pages.values())
      for (const { holders } of pins)
        for (const [holder, refs] of holders) held.set(holder, (held.get(holder) ?? 0) + refs);
    return held;
  }

  /** Removes all records and returns their count. */
  clear(): number {
    const records = this.#records;
    this.#pages.clear();
    this.#records = 0;
    return records;
  }
}
