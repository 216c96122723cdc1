/**
 * One DMA window as a guest uses it: mappings in, TCEs out. The same shape as a VT-d domain.
 */
import { hex } from '../address/address.ts';
import * as spapr from '../pci/spapr-format.ts';
import type { SpaprCalls } from './spapr-calls.ts';
import type { MapRange, UnmapRange } from './vtd-domain.ts';

/** A window as the device tree or ibm,create-pe-dma-window tells it. */
export interface DmaWindow {
  readonly liobn: number;
  /** First bus address, a float64 exact to the page also beyond 2^53. */
  readonly start: number;
  /** Bytes. */
  readonly size: number;
  readonly pageShift: number;
}

/** Thrown for a range that the window cannot map, before anything is changed. */
export class WindowRangeError extends RangeError {
  override name = 'WindowRangeError';
}

/** Thrown when the hypervisor refuses. */
export class HypercallError extends Error {
  readonly ret: bigint;
  constructor(what: string, ret: bigint) {
    super(`${what}: ${spapr.returnName(ret)}`);
    this.name = 'HypercallError';
    this.ret = ret;
  }
}

/** A run of TCEs for one call. */
interface Run {
  readonly index: number;
  readonly tces: bigint[];
}

export class SpaprDomain {
  readonly window: DmaWindow;
  readonly #calls: SpaprCalls;
  readonly #pageSize: number;
  readonly #entries: number;
  /** TCEs that are put. */
  readonly #live = new Set<number>();
  /** TCEs that a call is changing now. */
  readonly #busy = new Set<number>();

  constructor(window: DmaWindow, calls: SpaprCalls) {
    this.window = window;
    this.#calls = calls;
    this.#pageSize = 2 ** window.pageShift;
    this.#entries = window.size / this.#pageSize;
  }

  /**
   * Maps a range; resolves when devices see it.
   * @param iova,gpa,size multiples of the window's page size
   * @throws WindowRangeError, HypercallError, HypercallTimeout
   */
  map(iova: number, gpa: number, size: number, perm: number): Promise<void> {
    return this.mapAll([{ iova, gpa, size, perm }]);
  }

  /** As {@link map} for several ranges, in as few calls as they allow. When one throws, those before it stay mapped. */
  async mapAll(ranges: readonly MapRange[]): Promise<void> {
    const tces = new Map<number, bigint>();
    for (const { iova, gpa, size, perm } of ranges) {
      if (gpa % this.#pageSize !== 0)
        throw this.#rangeError('map', iova, size, `GPA ${hex(gpa)} is not aligned`);
      for (const [i, index] of this.#indexes('map', iova, size).entries()) {
        if (this.#live.has(index) || this.#busy.has(index) || tces.has(index))
          throw this.#rangeError('map', iova, size, 'part of it is in use');
        tces.set(index, BigInt(gpa + i * this.#pageSize) | BigInt(perm));
      }
    }
    await this.#change([...tces.keys()], async () => {
      for (const run of runsOf(tces)) {
        await this.#put(run);
        run.tces.forEach((_, i) => {
          this.#live.add(run.index + i);
        });
      }
    });
  }

  /**
   * Unmaps what is mapped in the range. Resolves, with the number of bytes that were mapped, when no device can use
   * them any more.
   * @throws WindowRangeError, HypercallError, HypercallTimeout
   */
  unmap(iova: number, size: number): Promise<number> {
    return this.unmapAll([{ iova, size }]);
  }

  /** As {@link unmap} for several ranges. When one throws, those before it are unmapped. */
  async unmapAll(ranges: readonly UnmapRange[]): Promise<number> {
    const zeros = new Map<number, bigint>();
    for (const { iova, size } of ranges)
      for (const index of this.#indexes('unmap', iova, size))
        if (this.#live.has(index) && !this.#busy.has(index)) zeros.set(index, 0n);
    await this.#change([...zeros.keys()], async () => {
      for (const { index, tces } of runsOf(zeros)) {
        await this.#call(spapr.H_STUFF_TCE, [this.#ioba(index), 0n, BigInt(tces.length)]);
        for (let i = 0; i < tces.length; i++) this.#live.delete(index + i);
      }
    });
    return zeros.size * this.#pageSize;
  }

  /** Marks TCEs as being changed while `work` runs: another flow that names one is refused, not interleaved. */
  async #change(indexes: readonly number[], work: () => Promise<void>): Promise<void> {
    for (const index of indexes) this.#busy.add(index);
    try {
      await work();
    } finally {
      for (const index of indexes) this.#busy.delete(index);
    }
  }

  async #put({ index, tces }: Run): Promise<void> {
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
    if (ret !== spapr.H_SUCCESS) throw new HypercallError(`putting ${tces.length} TCEs`, ret);
  }

  async #call(opcode: number, args: readonly bigint[]): Promise<void> {
    const { ret } = await this.#calls.call(opcode, [BigInt(this.window.liobn), ...args]);
    if (ret !== spapr.H_SUCCESS) throw new HypercallError(`hypercall 0x${opcode.toString(16)}`, ret);
  }

  #ioba(index: number): bigint {
    return BigInt(this.window.start) + BigInt(index) * BigInt(this.#pageSize);
  }

  #indexes(what: string, iova: number, size: number): number[] {
    const first = (iova - this.window.start) / this.#pageSize;
    const count = size / this.#pageSize;
    if (!Number.isInteger(first) || !Number.isInteger(count) || count <= 0)
      throw this.#rangeError(what, iova, size, `accepted: multiples of ${hex(this.#pageSize)}`);
    if (first < 0 || first + count > this.#entries)
      throw this.#rangeError(what, iova, size, 'outside the window');
    return Array.from({ length: count }, (_, i) => first + i);
  }

  #rangeError(what: string, iova: number, size: number, why: string): WindowRangeError {
    const { start, size: bytes } = this.window;
    return new WindowRangeError(
      `${what} of ${hex(iova)} +${hex(size)} in window ${hex(start)} +${hex(bytes)}: ${why}`,
    );
  }
}

/** Divides TCEs into runs of neighbours that one call takes. */
function runsOf(tces: ReadonlyMap<number, bigint>): Run[] {
  const runs: Run[] = [];
  for (const index of [...tces.keys()].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    const tce = tces.get(index) as bigint;
    if (last && last.index + last.tces.length === index && last.tces.length < spapr.TCE_CALL_LIMIT)
      last.tces.push(tce);
    else runs.push({ index, tces: [tce] });
  }
  return runs;
}
