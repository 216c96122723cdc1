/**
 * The guest's driver for sPAPR DMA windows: the default window, dynamic windows (DDW), and a window that maps all of
 * RAM.
 */

import * as spapr from '../../../abi/spapr.ts';
import * as callPage from '../../../abi/spapr-call-page.ts';
import {
  BUID_HI,
  BUID_LO,
  DEFAULT_PAGE_SHIFT,
  DEFAULT_WINDOW_SIZE,
  DEFAULT_WINDOW_START,
  liobnOf,
} from '../../../abi/spapr-host-bridges.ts';
import { hex, PERM_RW } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import {
  type DmaWindowProperties,
  HypercallError,
  SpaprDmaWindow,
  type SpaprDmaWindowState,
} from './dma-window.ts';
import { SpaprCalls, type SpaprCallsState } from './hypercalls.ts';

export { type DmaWindowProperties, HypercallError, SpaprDmaWindow, WindowRangeError } from './dma-window.ts';
export { HypercallTimeout } from './hypercalls.ts';

/** Default time limit for a hypercall. */
const DEFAULT_TIMEOUT_MS = 60_000;

/** Thrown if there is no sPAPR hypervisor, or if an RTAS call fails. */
export class SpaprDriverError extends Error {
  override name = 'SpaprDriverError';
}

/** Options of a driver. */
export interface SpaprDriverOptions {
  /** Time limit for a hypercall. Default: 60000. */
  readonly timeoutMs?: number;
  /** Index of the PCI host bridge, the low part of its BUID. Default: 0. */
  readonly bridge?: number;
  /** The bridge's `ibm,dma-window`. Default: QEMU's, 1 GiB at 0. */
  readonly defaultWindow?: DmaWindowProperties;
}

/** Result of ibm,query-pe-dma-window. */
export interface WindowCapabilities {
  /** Count of windows that can still be created. */
  readonly available: number;
  /** Count of TCEs of the largest possible window. */
  readonly largest: number;
  /** Page sizes as shifts, ascending. */
  readonly pageShifts: readonly number[];
}

/** State of drivers that share a call page, beside guest RAM and the hypervisor's tables. */
export interface SpaprState {
  readonly calls: SpaprCallsState;
  readonly bridges: readonly {
    readonly bridge: number;
    readonly defaultWindow: SpaprDmaWindowState;
    /** Dynamic windows. */
    readonly windows: readonly SpaprDmaWindowState[];
  }[];
}

/** Driver for the DMA windows of one PCI host bridge. */
export class SpaprDriver {
  readonly #ram: GuestRam;
  readonly #calls: SpaprCalls;
  readonly #bridge: number;
  /** The default window, which exists at boot. */
  readonly defaultDomain: SpaprDmaWindow;
  /** Dynamic windows by LIOBN. */
  readonly #windows = new Map<number, SpaprDmaWindow>();

  private constructor(
    calls: SpaprCalls,
    ram: GuestRam,
    options: SpaprDriverOptions,
    saved?: SpaprState['bridges'][number],
  ) {
    this.#calls = calls;
    this.#ram = ram;
    this.#bridge = options.bridge ?? 0;
    for (const state of saved?.windows ?? [])
      this.#windows.set(state.window.liobn, SpaprDmaWindow.restore(state, calls));
    if (saved) {
      this.defaultDomain = SpaprDmaWindow.restore(saved.defaultWindow, calls);
      return;
    }
    const window = options.defaultWindow ?? {
      liobn: liobnOf(this.#bridge, 0),
      start: DEFAULT_WINDOW_START,
      size: DEFAULT_WINDOW_SIZE,
      pageShift: DEFAULT_PAGE_SHIFT,
    };
    this.defaultDomain = new SpaprDmaWindow(window, calls);
  }

  /**
   * Creates a driver and resets its bridge to the state at boot: an empty default window alone.
   * @throws SpaprDriverError, HypercallTimeout, PageAllocatorExhausted
   */
  static async create(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    options: SpaprDriverOptions = {},
  ): Promise<SpaprDriver> {
    const [driver] = await SpaprDriver.createAll(port, ram, pages, [options], options.timeoutMs);
    return driver as SpaprDriver;
  }

  /**
   * Creates drivers for several bridges; they share the call page, which allows only one user.
   * @throws as {@link create}
   */
  static async createAll(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    bridges: readonly Omit<SpaprDriverOptions, 'timeoutMs'>[],
    timeoutMs: number = DEFAULT_TIMEOUT_MS,
  ): Promise<SpaprDriver[]> {
    if ((await port.read(callPage.CALL_PAGE_ID_REG, 8)) !== callPage.CALL_PAGE_ID)
      throw new SpaprDriverError('there is no sPAPR hypervisor behind these registers');
    const calls = new SpaprCalls(port, ram, pages, timeoutMs);
    const drivers = bridges.map((options) => new SpaprDriver(calls, ram, options));
    for (const driver of drivers) await driver.reset();
    return drivers;
  }

  /** Restores a driver from its {@link save}. RAM and the hypervisor's tables are restored already. */
  static restore(port: RegisterPort, ram: GuestRam, pages: PageAllocator, saved: SpaprState): SpaprDriver {
    return SpaprDriver.restoreAll(port, ram, pages, saved)[0] as SpaprDriver;
  }

  /** Restores drivers that share the call page, from {@link saveAll}. */
  static restoreAll(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    saved: SpaprState,
  ): SpaprDriver[] {
    const calls = new SpaprCalls(port, ram, pages, saved.calls.timeoutMs, saved.calls);
    return saved.bridges.map((state) => new SpaprDriver(calls, ram, { bridge: state.bridge }, state));
  }

  /** Returns the state of this driver alone. @throws InFlightError, RangeError as {@link saveAll} */
  save(): SpaprState {
    return SpaprDriver.saveAll([this]);
  }

  /**
   * Returns the state of drivers that share a call page.
   * @throws InFlightError, RangeError if they do not share it
   */
  static saveAll(drivers: readonly SpaprDriver[]): SpaprState {
    const [first] = drivers;
    if (!first || drivers.some((driver) => driver.#calls !== first.#calls))
      throw new RangeError('sPAPR drivers that are saved together share one call page');
    first.#calls.inFlight.expectNone('the sPAPR driver');
    return {
      calls: first.#calls.save(),
      bridges: drivers.map((driver) => ({
        bridge: driver.#bridge,
        defaultWindow: driver.defaultDomain.save(),
        windows: [...driver.#windows.values()].map((window) => window.save()),
      })),
    };
  }

  /** Returns a window of this driver by LIOBN. */
  domain(liobn: number): SpaprDmaWindow | undefined {
    return liobn === this.defaultDomain.id ? this.defaultDomain : this.#windows.get(liobn);
  }

  /** Removes the dynamic windows and empties the default window. Removed windows must not be used any more. */
  reset(): Promise<void> {
    return this.#calls.inFlight.run('reset', async () => {
      await this.#rtas(spapr.RESET_PE_DMA_WINDOW, this.#unit, 1);
      this.#windows.clear();
    });
  }

  /** Queries the platform's windows. @throws SpaprDriverError, HypercallError, HypercallTimeout */
  query(): Promise<WindowCapabilities> {
    return this.#calls.inFlight.run('query', () => this.#query());
  }

  async #query(): Promise<WindowCapabilities> {
    const [available, largest, mask] = await this.#rtas(spapr.QUERY_PE_DMA_WINDOW, this.#unit, 5);
    const pageShifts = [...spapr.PAGE_SHIFT_MASKS]
      .filter(([, bit]) => ((mask as number) & bit) !== 0)
      .map(([shift]) => shift);
    return {
      available: available as number,
      largest: largest as number,
      pageShifts: pageShifts.sort((a, b) => a - b),
    };
  }

  /**
   * Creates an empty window of 2^windowShift bytes with pages of 2^pageShift bytes. The platform selects its address.
   * @throws SpaprDriverError if the platform refuses, HypercallTimeout
   */
  createWindow(pageShift: number, windowShift: number): Promise<SpaprDmaWindow> {
    return this.#calls.inFlight.run('createWindow', () => this.#createWindow(pageShift, windowShift));
  }

  async #createWindow(pageShift: number, windowShift: number): Promise<SpaprDmaWindow> {
    const args = [...this.#unit, pageShift, windowShift];
    const [liobn, high, low] = await this.#rtas(spapr.CREATE_PE_DMA_WINDOW, args, 4);
    const start = (high as number) * 2 ** 32 + (low as number);
    const window = { liobn: liobn as number, start, size: 2 ** windowShift, pageShift };
    const domain = new SpaprDmaWindow(window, this.#calls);
    this.#windows.set(domain.id, domain);
    return domain;
  }

  /** Removes a window with its mappings; resolves when no device can use it any more. */
  removeWindow({ window }: SpaprDmaWindow): Promise<void> {
    return this.#calls.inFlight.run('removeWindow', async () => {
      await this.#rtas(spapr.REMOVE_PE_DMA_WINDOW, [window.liobn], 1);
      this.#windows.delete(window.liobn);
    });
  }

  /**
   * Creates a window that maps all of RAM, as Linux does for "direct DMA": the bus address of a GPA is the window's
   * start plus the GPA. The page size is the largest to which all of RAM is aligned.
   * @throws SpaprDriverError, HypercallError, HypercallTimeout
   */
  async createDirectWindow(): Promise<SpaprDmaWindow> {
    const { regions } = this.#ram;
    const top = Math.max(...regions.map(({ gpa, size }) => gpa + size));
    const windowShift = Math.ceil(Math.log2(top));
    const { pageShifts } = await this.query();
    const fits = (shift: number) =>
      regions.every(({ gpa, size }) => gpa % 2 ** shift === 0 && size % 2 ** shift === 0);
    const pageShift = pageShifts.findLast((shift) => shift <= windowShift && fits(shift));
    if (pageShift === undefined) throw new SpaprDriverError('no page size fits guest RAM');
    const domain = await this.createWindow(pageShift, windowShift);
    const { start } = domain.window;
    await domain.mapAll(regions.map(({ gpa, size }) => ({ iova: start + gpa, gpa, size, perm: PERM_RW })));
    return domain;
  }

  /** Makes any hypercall, for scripts that break the rules on purpose. @throws HypercallTimeout, NoCallSlot */
  async hypercall(opcode: number, args: readonly bigint[]): Promise<{ ret: bigint; out: bigint }> {
    return this.#calls.call(opcode, args);
  }

  /** Configuration address, which is ignored, and BUID. */
  get #unit(): number[] {
    return [0, BUID_HI, BUID_LO + this.#bridge];
  }

  /** Makes an RTAS call; resolves to its results without the status. @throws SpaprDriverError, HypercallError */
  async #rtas(name: string, args: readonly number[], results: number): Promise<number[]> {
    const words = [spapr.RTAS_TOKENS.get(name) as number, args.length, results, ...args];
    const block = new DataView(new ArrayBuffer(4 * (words.length + results)));
    words.forEach((word, i) => {
      block.setUint32(4 * i, word);
    });
    const { ret, page } = await this.#calls.callWithPage(
      spapr.H_RTAS,
      new Uint8Array(block.buffer),
      (gpa) => [BigInt(gpa)],
    );
    if (ret !== spapr.H_SUCCESS) throw new HypercallError(name, ret);
    const answer = new DataView(page.buffer, page.byteOffset + 4 * words.length, 4 * results);
    const status = answer.getInt32(0);
    if (status !== spapr.RTAS_SUCCESS)
      throw new SpaprDriverError(`${name}(${args.map(hex).join(', ')}) failed with status ${status}`);
    return Array.from({ length: results - 1 }, (_, i) => answer.getUint32(4 * (i + 1)));
  }
}
