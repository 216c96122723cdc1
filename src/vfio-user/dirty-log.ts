/**
 * Log of the pages that the device writes, by IOVA (DMA logging). Writes to mapped memory are marked by host page in the
 * pin table's log; a report, and an unmap, take those marks. Writes by messages are marked here at once.
 */
import { PAGE_SIZE } from '../memory/address.ts';
import { HPA_BASE } from '../memory/host-memory.ts';
import type { PinTableWriter } from '../pin-table/writer.ts';
import type { Completion } from '../platform/completion.ts';
import type { Container } from '../vfio/container.ts';
import { VfioError } from '../vfio/errors.ts';
import type { DmaMapping } from '../vfio/mapping.ts';

/** Most ranges of one START request. */
export const LOGGED_RANGES_LIMIT = 1024;
/** Most pages that are kept between two reports. Beyond them, each page of a report counts as dirty. */
const KEPT_PAGES_LIMIT: number = 2 ** 20;

/** A range of IOVAs. */
export interface IovaRange {
  readonly iova: number;
  readonly length: number;
}

/** Takes and keeps dirty pages while logging is on. */
export class DirtyLog {
  readonly #container: Container;
  readonly #table: PinTableWriter;
  /** Ranges that are logged; empty for everything. */
  #ranges: readonly IovaRange[] | undefined;
  /** Page numbers. */
  readonly #kept = new Set<number>();
  #overflowed = false;

  constructor(container: Container, table: PinTableWriter) {
    this.#container = container;
    this.#table = table;
  }

  get logging(): boolean {
    return this.#ranges !== undefined;
  }

  /** Starts to log. Complete when every write from now on is logged. @throws VfioError EINVAL if it has started */
  start(ranges: readonly IovaRange[]): Completion {
    if (this.#ranges) throw new VfioError('EINVAL', 'DMA logging has already started');
    this.#ranges = ranges;
    return this.#container.dirty.start();
  }

  stop(): void {
    if (!this.#ranges) return;
    this.#ranges = undefined;
    this.#container.dirty.stop();
    this.#kept.clear();
    this.#overflowed = false;
  }

  /** Marks a range that was written by messages. */
  mark(iova: number, length: number): void {
    if (!this.#ranges) return;
    const last = Math.floor((iova + length - 1) / PAGE_SIZE);
    for (let page = Math.floor(iova / PAGE_SIZE); page <= last; page++) this.#keep(page);
  }

  /** Takes the marks of mappings that are about to be removed. */
  takeMappings(mappings: readonly DmaMapping[]): void {
    if (!this.#ranges) return;
    for (const { iova, size } of mappings)
      this.#takeMarks(iova, iova + size, new Map(), (page) => this.#keep(page));
  }

  /**
   * Returns the bitmap of a range, one bit for each `pageSize` bytes, and clears its marks. The bitmap has whole words of
   * 64 bits.
   */
  report(iova: number, length: number, pageSize: number): Uint8Array {
    if (!this.#ranges) throw new VfioError('EINVAL', 'DMA logging has not started');
    const bits = Math.ceil(length / pageSize);
    const bitmap = new Uint8Array(Math.ceil(bits / 64) * 8);
    const set = (page: number): void => {
      const offset = page * PAGE_SIZE - iova;
      if (!this.#isLogged(page * PAGE_SIZE)) return;
      const first = Math.max(0, Math.floor(offset / pageSize));
      const last = Math.min(bits - 1, Math.floor((offset + PAGE_SIZE - 1) / pageSize));
      for (let bit = first; bit <= last; bit++)
        bitmap[bit >>> 3] = (bitmap[bit >>> 3] as number) | (1 << (bit & 7));
    };
    this.#takeMarks(iova, iova + length, new Map(), set);
    const [from, to] = [Math.floor(iova / PAGE_SIZE), Math.ceil((iova + length) / PAGE_SIZE)];
    if (this.#overflowed) for (let page = from; page < to; page++) set(page);
    for (const page of this.#kept)
      if (page >= from && page < to) {
        set(page);
        this.#kept.delete(page);
      }
    return bitmap;
  }

  #isLogged(address: number): boolean {
    const ranges = this.#ranges!;
    return (
      ranges.length === 0 ||
      ranges.some(({ iova, length }) => address + PAGE_SIZE > iova && address < iova + length)
    );
  }

  #keep(page: number): void {
    if (this.#kept.size < KEPT_PAGES_LIMIT) this.#kept.add(page);
    else this.#overflowed = true;
  }

  /** Visits the dirty pages of the mapped part of [start, end). `taken` has the host pages that were asked for. */
  #takeMarks(start: number, end: number, taken: Map<number, boolean>, visit: (page: number) => void): void {
    const { log } = this.#table;
    this.#container.forEach(start, end, (iova, size, vaddr) => {
      if (vaddr < HPA_BASE) return;
      const last = Math.min(end, iova + size);
      for (let at = Math.max(start, iova); at < last; at += PAGE_SIZE) {
        const pfn = this.#table.frameAt(at);
        if (pfn < 0) continue;
        const dirty = taken.get(pfn) ?? log.take(pfn);
        if (!dirty) continue;
        taken.set(pfn, true);
        visit(Math.floor(at / PAGE_SIZE));
      }
    });
  }
}
