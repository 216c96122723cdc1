/**
 * A PCI host bridge (PHB): its two window slots, the translations through them, and its devices.
 */

import {
  PAGE_SHIFT_MASKS,
  RTAS_HARDWARE_ERROR,
  RTAS_PARAMETER_ERROR,
  RTAS_SUCCESS,
} from '../../abi/spapr.ts';
import {
  DEFAULT_PAGE_SHIFT,
  DEFAULT_PAGE_SHIFTS,
  DEFAULT_WINDOW_SIZE,
  DEFAULT_WINDOW_START,
  DYNAMIC_WINDOW_START,
  liobnOf,
} from '../../abi/spapr-host-bridges.ts';
import { hex } from '../../memory/address.ts';
import type { DmaWindow } from '../../memory/dma-window.ts';
import type { RamRegion } from '../../memory/guest-ram.ts';
import { all, type Completion, whenDone } from '../../platform/completion.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import type { Translation, TranslationSource, TranslationVisitor } from '../notifier.ts';
import type { Quirks } from '../quirks.ts';
import { type TceBudget, TceWindow, type WindowShape } from './tce-window.ts';

/** Maximum windows of one bridge. */
export const WINDOW_SLOTS = 2;
/** TCEs of the largest window, as ibm,query-pe-dma-window reports it. */
export const WINDOW_ENTRY_LIMIT = 2 ** 31;
/** Exclusive upper bound of bus addresses. */
const BUS_ADDRESS_LIMIT = 2 ** 64;

export interface BridgeOptions {
  /** False if the bridge has only its default window. Default true. */
  readonly dynamicWindows?: boolean;
  /** Page shifts of dynamic windows; see PAGE_SHIFT_MASKS. Default 12, 16, 21, 24. */
  readonly pageShifts?: readonly number[];
  /** Bytes, multiples of 4 KiB. Default: 1 GiB at 0. */
  readonly defaultWindow?: { readonly start: number; readonly size: number };
  /** Start of a dynamic window while the default window exists. Default 2^59, as in QEMU. */
  readonly dynamicWindowStart?: number;
  /** Exclusive upper bound of windows, for a container with fewer address bits. Default 2^64. */
  readonly busAddressLimit?: number;
}

/** Result of a window operation: its RTAS status, and the completion of its effects on devices. */
export interface WindowOutcome {
  readonly status: number;
  readonly window?: TceWindow;
  readonly done: Completion;
}

const failed = (status: number): WindowOutcome => ({ status, done: undefined });

export class SpaprBridge implements TranslationSource {
  readonly index: number;
  readonly limit: number;
  readonly dynamicWindows: boolean;
  readonly #pageShifts: ReadonlySet<number>;
  readonly #defaultWindow: { readonly start: number; readonly size: number };
  readonly #dynamicStart: number;
  readonly #quirks: Quirks;
  readonly #ram: readonly RamRegion[];
  readonly #budget: TceBudget;
  readonly #devices = new Map<number, DeviceAddressSpace>();
  readonly #slots: (TceWindow | undefined)[];

  /** @throws RangeError for a page shift without a bit in the query's mask, or a default window that does not fit */
  constructor(
    index: number,
    options: BridgeOptions,
    quirks: Quirks,
    ram: readonly RamRegion[],
    budget: TceBudget,
  ) {
    const shifts = options.pageShifts ?? DEFAULT_PAGE_SHIFTS;
    const odd = shifts.find((shift) => !PAGE_SHIFT_MASKS.has(shift));
    if (odd !== undefined)
      throw new RangeError(`page shift ${odd}; accepted: ${[...PAGE_SHIFT_MASKS.keys()].join(', ')}`);
    this.index = index;
    this.limit = options.busAddressLimit ?? BUS_ADDRESS_LIMIT;
    this.dynamicWindows = options.dynamicWindows ?? true;
    this.#pageShifts = new Set(shifts);
    this.#defaultWindow = options.defaultWindow ?? { start: DEFAULT_WINDOW_START, size: DEFAULT_WINDOW_SIZE };
    this.#dynamicStart = options.dynamicWindowStart ?? DYNAMIC_WINDOW_START;
    this.#quirks = quirks;
    this.#ram = ram;
    this.#budget = budget;
    const { start, size } = this.#defaultWindow;
    if (start + size > this.#dynamicStart || this.#dynamicStart >= this.limit)
      throw new RangeError(
        `default window ${hex(start)} +${hex(size)}; accepted: below the dynamic window's start ` +
          `${hex(this.#dynamicStart)}, which must be below ${hex(this.limit)}`,
      );
    this.#slots = [this.#makeDefault(), undefined];
  }

  /** The existing windows, slot 0 first. */
  get windows(): TceWindow[] {
    return this.#slots.filter((window) => window !== undefined);
  }

  /** The windows by slot; undefined for an empty slot. */
  get slots(): readonly (TceWindow | undefined)[] {
    return this.#slots;
  }

  /** Count of attached devices. */
  get devices(): number {
    return this.#devices.size;
  }

  /** Page size mask of ibm,query-pe-dma-window. */
  get pageSizeMask(): number {
    let mask = 0;
    for (const shift of this.#pageShifts) mask |= PAGE_SHIFT_MASKS.get(shift) as number;
    return mask;
  }

  windowOf(liobn: number): TceWindow | undefined {
    return this.#slots.find((window) => window?.liobn === liobn);
  }

  attach(space: DeviceAddressSpace): Completion {
    this.#devices.set(space.requesterId, space);
    space.setWindows(this.#shapes());
    return space.enterIommu(this);
  }

  detach(requesterId: number): void {
    this.#devices.delete(requesterId);
  }

  /** Updates every device from the TCEs of [start, end). */
  sync(start: number, end: number): Completion {
    return all([...this.#devices.values()].map((space) => space.sync(start, end)));
  }

  /**
   * Creates an empty window of 2^windowShift bytes: LoPAR ibm,create-pe-dma-window.
   * @param windowShift any 32-bit number, unchecked from the guest
   */
  create(pageShift: number, windowShift: number): WindowOutcome {
    if (!this.#pageShifts.has(pageShift) || windowShift < pageShift) return failed(RTAS_PARAMETER_ERROR);
    const refusal = failed(this.#quirks === 'qemu' ? RTAS_HARDWARE_ERROR : RTAS_PARAMETER_ERROR);
    const slot = this.#slots.indexOf(undefined);
    if (slot < 0) return refusal;
    // QEMU shifts a 64-bit 1 on a processor that takes the shift count modulo 64.
    const bits = windowShift - pageShift;
    const entries = 2 ** (this.#quirks === 'qemu' ? bits % 64 : bits);
    if (entries > WINDOW_ENTRY_LIMIT) return refusal;
    const start = this.#placeFor(entries * 2 ** pageShift);
    if (start === undefined) return refusal;
    const shape = { liobn: liobnOf(this.index, slot), start, pageShift, entries, isDefault: false };
    const window = new TceWindow(shape, this.#budget);
    this.#slots[slot] = window;
    this.#showWindows();
    // With QEMU's overlapping windows, the new one may hide the other.
    return { status: RTAS_SUCCESS, window, done: this.sync(window.start, window.end) };
  }

  /** Removes a window with all its TCEs: LoPAR ibm,remove-pe-dma-window. */
  remove(window: TceWindow): WindowOutcome {
    const slot = this.#slots.indexOf(window);
    if (slot < 0) return failed(RTAS_PARAMETER_ERROR);
    this.#slots[slot] = undefined;
    window.clearAll();
    // LoPAR: when no window is left, the default window is created again, unless it is the one removed. QEMU treats
    // any window in slot 0 as the default window.
    const wasDefault = this.#quirks === 'qemu' ? slot === 0 : window.isDefault;
    if (this.windows.length === 0 && !wasDefault) this.#slots[0] = this.#makeDefault();
    return { status: RTAS_SUCCESS, done: this.#emptied(this.sync(window.start, window.end)) };
  }

  /** Restores the boot state, only an empty default window: LoPAR ibm,reset-pe-dma-window. */
  reset(): WindowOutcome {
    for (const window of this.windows) window.clearAll();
    this.#slots[0] = this.#makeDefault();
    this.#slots[1] = undefined;
    return { status: RTAS_SUCCESS, done: this.#emptied(this.sync(0, this.limit)) };
  }

  /**
   * Creates the windows of another bridge in the same slots, without TCEs.
   * @returns the slot of an invalid window, and the reason; undefined if all are valid
   */
  restore(shapes: readonly (WindowShape | undefined)[]): { slot: number; what: string } | undefined {
    const slot = shapes.findIndex((shape, i) => shape && !this.#isPossible(shape, i));
    if (slot >= 0) return { slot, what: 'is a window that the guest cannot have created' };
    if (this.#quirks === 'spec' && overlap(shapes)) return { slot: 1, what: 'overlaps window 0' };
    shapes.forEach((shape, i) => {
      this.#slots[i] = shape && new TceWindow(shape, this.#budget);
    });
    return undefined;
  }

  #isPossible({ liobn, start, pageShift, entries, isDefault }: WindowShape, slot: number): boolean {
    if (liobn !== liobnOf(this.index, slot)) return false;
    const size = entries * 2 ** pageShift;
    if (isDefault) {
      const { start: place, size: bytes } = this.#defaultWindow;
      return slot === 0 && pageShift === DEFAULT_PAGE_SHIFT && start === place && size === bytes;
    }
    const whole = Number.isInteger(Math.log2(entries)) && entries >= 1 && entries <= WINDOW_ENTRY_LIMIT;
    if (!this.dynamicWindows || !this.#pageShifts.has(pageShift) || !whole) return false;
    return this.#places.includes(start) && this.#fits(start, size);
  }

  /** Returns the window that translates a bus address. Where two overlap, it is the one in slot 1. */
  windowAt(iova: number): TceWindow | undefined {
    return this.#slots.findLast((window) => window?.covers(iova));
  }

  walk(start: number, end: number, visit: TranslationVisitor): void {
    const shown = this.windows.sort((a, b) => this.#hiddenUntil(a) - this.#hiddenUntil(b));
    const tell = ({ iova, gpa, size, perm }: Translation) => visit(iova, gpa, size, perm) !== false;
    for (const window of shown) {
      const from = Math.max(start, this.#hiddenUntil(window));
      if (!window.walk(from, end, this.#ram, (translation) => this.#tellShown(window, translation, tell)))
        return;
    }
  }

  leafAt(iova: number): Translation | undefined {
    const window = this.windowAt(iova);
    if (!window) return undefined;
    const index = Math.floor((iova - window.start) / window.pageSize);
    const whole = window.translationOf(index, this.#ram);
    const leaf = whole && cutBelow(whole, this.#hiddenUntil(window));
    return leaf && iova >= leaf.iova && iova < leaf.iova + leaf.size ? leaf : undefined;
  }

  /**
   * Returns the first address of a window that the other one does not hide. Two windows overlap only if both start at
   * the same address (QEMU). The window in slot 1 then hides the beginning of the other.
   */
  #hiddenUntil(window: TceWindow): number {
    const above = this.#slots[1];
    return above && above !== window && above.covers(window.start) ? above.end : window.start;
  }

  #tellShown(window: TceWindow, whole: Translation, tell: (shown: Translation) => boolean): boolean {
    const shown = cutBelow(whole, this.#hiddenUntil(window));
    return !shown || tell(shown);
  }

  /** Removes windows from the containers when `work` has emptied them. */
  #emptied(work: Completion): Completion {
    return whenDone(work, () => this.#showWindows());
  }

  #showWindows(): void {
    for (const space of this.#devices.values()) space.setWindows(this.#shapes());
  }

  #shapes(): DmaWindow[] {
    return this.windows.map(({ start, end, pageShift }) => ({ start, size: end - start, pageShift }));
  }

  /** Returns the start of a new window of `size` bytes, or undefined if there is no space. */
  #placeFor(size: number): number | undefined {
    const fits = (start: number) => this.#fits(start, size);
    if (this.#quirks === 'qemu') return this.#places.slice(Math.min(1, this.windows.length)).find(fits);
    return this.#places.find(
      (start) =>
        fits(start) && this.windows.every((window) => start >= window.end || start + size <= window.start),
    );
  }

  get #places(): readonly number[] {
    return [this.#defaultWindow.start, this.#dynamicStart];
  }

  /** True if a window ends before the next place. Two windows then overlap only if they start at the same address. */
  #fits(start: number, size: number): boolean {
    return start + size <= (start < this.#dynamicStart ? this.#dynamicStart : this.limit);
  }

  #makeDefault(): TceWindow {
    const { start, size } = this.#defaultWindow;
    const entries = size / 2 ** DEFAULT_PAGE_SHIFT;
    const shape = {
      liobn: liobnOf(this.index, 0),
      start,
      pageShift: DEFAULT_PAGE_SHIFT,
      entries,
      isDefault: true,
    };
    return new TceWindow(shape, this.#budget);
  }
}

/** True if any two share an address. */
function overlap(shapes: readonly (WindowShape | undefined)[]): boolean {
  const [low, high] = shapes.filter((shape) => shape !== undefined).sort((a, b) => a.start - b.start);
  return low !== undefined && high !== undefined && low.start + low.entries * 2 ** low.pageShift > high.start;
}

/** Returns the part of a translation at or above `start`. */
function cutBelow(whole: Translation, start: number): Translation | undefined {
  const cut = start - whole.iova;
  if (cut <= 0) return whole;
  if (cut >= whole.size) return undefined;
  const iova = start as Translation['iova'];
  return { iova, gpa: (whole.gpa + cut) as Translation['gpa'], size: whole.size - cut, perm: whole.perm };
}
