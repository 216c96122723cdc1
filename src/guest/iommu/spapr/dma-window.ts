/**
 * A DMA window of a guest: a domain whose mappings are TCEs, set by hypercalls.
 */

import * as spapr from '../../../abi/spapr.ts';
import { hex } from '../../../memory/address.ts';
import type { DmaWindow } from '../../../memory/dma-window.ts';
import { decodeNumbers, encodeNumbers, type NumberRun } from '../../run-length.ts';
import type { GuestDomain, MapRange, UnmapRange } from '../guest-iommu.ts';
import { HypercallTimeout, type SpaprCalls } from './hypercalls.ts';

/** Properties of a window, from the device tree or ibm,create-pe-dma-window. */
export interface DmaWindowProperties extends DmaWindow {
  readonly liobn: number;
}

/** Thrown for a range that the window cannot map; nothing was changed. */
export class WindowRangeError extends RangeError {
  override name = 'WindowRangeError';
}

/** Thrown when a hypercall fails; `ret` is its return code. */
export class HypercallError extends Error {
  readonly ret: bigint;
  constructor(what: string, ret: bigint) {
    super(`${what}: ${spapr.returnName(ret)}`);
    this.name = 'HypercallError';
    this.ret = ret;
  }
}

/** The TCEs of a range. */
interface Span {
  readonly first: number;
  readonly count: number;
}

/** A window, and which of its TCEs are set. */
export interface SpaprDmaWindowState {
  readonly window: DmaWindowProperties;
  /** Indices of the set TCEs, as runs. */
  readonly live: readonly NumberRun[];
}

/** Consecutive TCEs for one hypercall. */
interface TceRun {
  readonly index: number;
  readonly tces: bigint[];
}

/** A DMA window, as a domain of the devices behind its bridge. */
export class SpaprDmaWindow implements GuestDomain {
  readonly window: DmaWindowProperties;
  readonly #calls: SpaprCalls;
  readonly #pageSize: number;
  readonly #entries: number;
  /** Indices of the set TCEs. */
  readonly #live = new Set<number>();
  /** Indices of the TCEs that a hypercall changes now. */
  readonly #busy = new Set<number>();

  constructor(window: DmaWindowProperties, calls: SpaprCalls) {
    this.window = window;
    this.#calls = calls;
    this.#pageSize = 2 ** window.pageShift;
    this.#entries = window.size / this.#pageSize;
  }

  /** Restores a window whose TCEs the hypervisor has already. */
  static restore({ window, live }: SpaprDmaWindowState, calls: SpaprCalls): SpaprDmaWindow {
    const domain = new SpaprDmaWindow(window, calls);
    for (const index of decodeNumbers(live, 1)) domain.#live.add(index);
    return domain;
  }

  save(): SpaprDmaWindowState {
    return { window: this.window, live: encodeNumbers(this.#live, 1) };
  }

  /** LIOBN of the window. */
  get id(): number {
    return this.window.liobn;
  }

  /**
   * Maps a range; resolves when devices see it.
   * @param iova,gpa,size multiples of the window's page size
   * @throws WindowRangeError, HypercallError, HypercallTimeout
   */
  map(iova: number, gpa: number, size: number, perm: number): Promise<void> {
    return this.mapAll([{ iova, gpa, size, perm }]);
  }

  /**
   * Maps several ranges in as few hypercalls as possible; else as {@link map}. If one throws, earlier ones stay
   * mapped.
   */
  mapAll(ranges: readonly MapRange[]): Promise<void> {
    return this.#putAll(ranges, (index) => this.#live.has(index));
  }

  /**
   * Does as {@link mapAll}, but replaces mappings: a device sees the old or the new mapping of a page, never none.
   */
  replaceAll(ranges: readonly MapRange[]): Promise<void> {
    return this.#putAll(ranges, () => false);
  }

  #putAll(ranges: readonly MapRange[], taken: (index: number) => boolean): Promise<void> {
    return this.#calls.inFlight.run('map', () => this.#putRanges(ranges, taken));
  }

  async #putRanges(ranges: readonly MapRange[], taken: (index: number) => boolean): Promise<void> {
    const tces = new Map<number, bigint>();
    for (const { iova, gpa, size, perm } of ranges) {
      if (gpa % this.#pageSize !== 0)
        throw this.#rangeError('map', iova, size, `GPA ${hex(gpa)} is not aligned`);
      const { first, count } = this.#span('map', iova, size);
      for (let i = 0; i < count; i++) {
        const index = first + i;
        if (taken(index) || this.#busy.has(index) || tces.has(index))
          throw this.#rangeError('map', iova, size, 'part of it is in use');
        tces.set(index, BigInt(gpa + i * this.#pageSize) | BigInt(perm));
      }
    }
    await this.#eachRun(tces, async (run) => {
      await this.#put(run);
      for (let i = 0; i < run.tces.length; i++) this.#live.add(run.index + i);
    });
  }

  /**
   * Unmaps all mappings in a range. Resolves to the count of bytes that were mapped when no device can use the
   * mappings any more.
   * @throws WindowRangeError, HypercallError, HypercallTimeout
   */
  unmap(iova: number, size: number): Promise<number> {
    return this.unmapAll([{ iova, size }]);
  }

  /** Unmaps several ranges; else as {@link unmap}. If one throws, earlier ones are unmapped. */
  unmapAll(ranges: readonly UnmapRange[]): Promise<number> {
    return this.#calls.inFlight.run('unmap', () => this.#clearRanges(ranges));
  }

  async #clearRanges(ranges: readonly UnmapRange[]): Promise<number> {
    const zeros = new Map<number, bigint>();
    for (const { iova, size } of ranges)
      for (const index of this.#liveIn(this.#span('unmap', iova, size)))
        if (!this.#busy.has(index)) zeros.set(index, 0n);
    await this.#eachRun(zeros, async ({ index, tces }) => {
      await this.#call(spapr.H_STUFF_TCE, [this.#ioba(index), 0n, BigInt(tces.length)]);
      for (let i = 0; i < tces.length; i++) this.#live.delete(index + i);
    });
    return zeros.size * this.#pageSize;
  }

  /** Yields the set TCEs of a range; costs as much as the smaller of the range and the set. */
  *#liveIn({ first, count }: Span): Iterable<number> {
    if (count > this.#live.size) {
      for (const index of this.#live) if (index >= first && index < first + count) yield index;
    } else for (let index = first; index < first + count; index++) if (this.#live.has(index)) yield index;
  }

  /**
   * Changes TCEs, run by run. They are marked busy meanwhile, so that a concurrent call on one of them is refused
   * instead of interleaved. After a time-out the TCEs of the hypercall stay busy, because their contents are unknown.
   */
  async #eachRun(tces: ReadonlyMap<number, bigint>, change: (run: TceRun) => Promise<void>): Promise<void> {
    const marked = new Set(tces.keys());
    for (const index of marked) this.#busy.add(index);
    try {
      for (const run of callsOf(tces)) {
        try {
          await change(run);
        } catch (error) {
          const lost = error instanceof HypercallTimeout ? run.tces.length : 0;
          for (let i = 0; i < lost; i++) marked.delete(run.index + i);
          throw error;
        }
      }
    } finally {
      for (const index of marked) this.#busy.delete(index);
    }
  }

  async #put({ index, tces }: TceRun): Promise<void> {
    if (tces.length === 1) {
      await this.#call(spapr.H_PUT_TCE, [this.#ioba(index), tces[0] as bigint]);
      return;
    }
    const list = new DataView(new ArrayBuffer(8 * tces.length));
    tces.forEach((tce, i) => {
      list.setBigUint64(8 * i, tce);
    });
    const { liobn } = this.window;
    const { ret } = await this.#calls.callWithPage(
      spapr.H_PUT_TCE_INDIRECT,
      new Uint8Array(list.buffer),
      (gpa) => [BigInt(liobn), this.#ioba(index), BigInt(gpa), BigInt(tces.length)],
    );
    if (ret !== spapr.H_SUCCESS) throw new HypercallError(`H_PUT_TCE_INDIRECT of ${tces.length} TCEs`, ret);
  }

  async #call(opcode: number, args: readonly bigint[]): Promise<void> {
    const { ret } = await this.#calls.call(opcode, [BigInt(this.window.liobn), ...args]);
    if (ret !== spapr.H_SUCCESS) throw new HypercallError(`hypercall ${hex(opcode)}`, ret);
  }

  #ioba(index: number): bigint {
    return BigInt(this.window.start) + BigInt(index) * BigInt(this.#pageSize);
  }

  #span(what: string, iova: number, size: number): Span {
    const first = (iova - this.window.start) / this.#pageSize;
    const count = size / this.#pageSize;
    if (!Number.isInteger(first) || !Number.isInteger(count) || count <= 0)
      throw this.#rangeError(what, iova, size, `accepted: multiples of ${hex(this.#pageSize)}`);
    if (first < 0 || first + count > this.#entries)
      throw this.#rangeError(what, iova, size, 'outside the window');
    return { first, count };
  }

  #rangeError(what: string, iova: number, size: number, why: string): WindowRangeError {
    const { start, size: bytes } = this.window;
    return new WindowRangeError(
      `${what} of ${hex(iova)} +${hex(size)} in window ${hex(start)} +${hex(bytes)}: ${why}`,
    );
  }
}

/** Divides TCEs into runs for one hypercall each. */
function callsOf(tces: ReadonlyMap<number, bigint>): TceRun[] {
  const runs: TceRun[] = [];
  for (const index of [...tces.keys()].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    const tce = tces.get(index) as bigint;
    if (last && last.index + last.tces.length === index && last.tces.length < spapr.TCE_CALL_LIMIT)
      last.tces.push(tce);
    else runs.push({ index, tces: [tce] });
  }
  return runs;
}
