/**
 * Pins of a device by host page. They are checked before every access to a pinned page, so this is an array and not a
 * map: a copy of 4 KiB checks twice and takes 180 ns, and two lookups in a map of 8192 pages took about 100 ns.
 */
import { PAGE_SIZE } from '../memory/address.ts';
import type { HostMemory } from '../memory/host-memory.ts';

export class HeldPages {
  /** Count of pins, over all pages. */
  pins = 0;
  /** Count of pages with a pin. */
  pages = 0;
  readonly #first: number;
  readonly #total: number;
  /** By page. Allocated by the first pin, since most models hold none. Only parts with held pages are touched. */
  #counts = new Int32Array(0);
  /** Pages that a table maps but this memory does not contain. */
  readonly #elsewhere = new Map<number, number>();

  constructor(memory: HostMemory) {
    this.#first = memory.base / PAGE_SIZE;
    this.#total = memory.size / PAGE_SIZE;
  }

  /** Returns the count of pins of the page. */
  count(pfn: number): number {
    return this.#counts[pfn - this.#first] ?? this.#elsewhere.get(pfn) ?? 0;
  }

  add(pfn: number): void {
    if (this.#counts.length === 0) this.#counts = new Int32Array(this.#total);
    const count = this.count(pfn);
    if (count === 0) this.pages++;
    this.#set(pfn, count + 1);
    this.pins++;
  }

  /** Drops one pin of a page that has at least one. */
  remove(pfn: number): void {
    const count = this.count(pfn);
    if (count === 1) this.pages--;
    this.#set(pfn, count - 1);
    this.pins--;
  }

  #set(pfn: number, count: number): void {
    const page = pfn - this.#first;
    if (page >= 0 && page < this.#total) this.#counts[page] = count;
    else if (count > 0) this.#elsewhere.set(pfn, count);
    else this.#elsewhere.delete(pfn);
  }
}
