/**
 * Which host pages a device holds, and how often: asked before every access to a pinned page, so an array instead of a
 * map (a copy of 4 KiB asks twice, and takes 180 ns itself; two lookups in a map of 8192 pages took about 100).
 */
import { PAGE_SIZE } from '../memory/address.ts';
import type { HostMemory } from '../memory/host-memory.ts';

export class HeldPages {
  /** Pins held, over all pages. */
  pins = 0;
  readonly #first: number;
  readonly #pages: number;
  /** By page; made by the first pin, since most models hold none. Its memory is touched where pages are held. */
  #counts = new Int32Array(0);
  /** Pages that a table maps and this memory does not have. */
  readonly #elsewhere = new Map<number, number>();

  constructor(memory: HostMemory) {
    this.#first = memory.base / PAGE_SIZE;
    this.#pages = memory.size / PAGE_SIZE;
  }

  /** Pins of the page. */
  count(pfn: number): number {
    return this.#counts[pfn - this.#first] ?? this.#elsewhere.get(pfn) ?? 0;
  }

  add(pfn: number): void {
    if (this.#counts.length === 0) this.#counts = new Int32Array(this.#pages);
    this.#set(pfn, this.count(pfn) + 1);
    this.pins++;
  }

  /** Drops one pin of a page that has some. */
  remove(pfn: number): void {
    this.#set(pfn, this.count(pfn) - 1);
    this.pins--;
  }

  #set(pfn: number, count: number): void {
    const page = pfn - this.#first;
    if (page >= 0 && page < this.#pages) this.#counts[page] = count;
    else if (count > 0) this.#elsewhere.set(pfn, count);
    else this.#elsewhere.delete(pfn);
  }
}
