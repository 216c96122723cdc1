/**
 * sPAPR (PowerPC): fixed DMA windows behind PCI host bridges, changed by hypercalls and RTAS calls.
 *
 * A device is never identity-mapped: it is behind its bridge's windows from the start. There is no IOTLB. A changed TCE
 * applies to the next DMA, so a call returns only after every device's container is updated (R6).
 */

import * as spapr from '../../abi/spapr.ts';
import * as callPage from '../../abi/spapr-call-page.ts';
import { DEFAULT_PAGE_SHIFT } from '../../abi/spapr-host-bridges.ts';
import { type Iova, offsetBy } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Completion } from '../../platform/completion.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import { CommandSerial, PENDING_COMMAND_LIMIT } from '../command-serial.ts';
import type { Quirks } from '../quirks.ts';
import type { DmaFaultRecord, TranslateResult, VIommu } from '../viommu.ts';
import { type BridgeOptions, SpaprBridge } from './bridge.ts';
import { CallPage } from './call-page.ts';
import { HYPERCALLS, type HypercallArgs, type HypercallContext, type HypercallResult } from './hypercalls.ts';
import { RTAS_CALLS, type RtasResult, runRtas } from './rtas.ts';
import { restoreUnit, type SpaprParts, saveUnit } from './state.ts';
import { decodeTce, TceBudget, TceWindow } from './tce-window.ts';

/** Maximum bridges of one machine. */
export const BRIDGES_LIMIT = 31;
/** Maximum VIO devices of one machine, each with a window. */
export const VIO_LIMIT = 32;
/** TCEs of a VIO device's window: 4 KiB pages from bus address 0. */
const VIO_WINDOW_ENTRIES = 0x10000;

/** Reasons for a refused access. They are the emulator's: LoPAR defines none. */
export const SPAPR_FAULT = { OUTSIDE_WINDOW: 1, PERMISSION: 2, TARGET_NOT_RAM: 3 } as const;

const FAULT_TEXTS: Readonly<Record<number, string>> = {
  [SPAPR_FAULT.OUTSIDE_WINDOW]: 'outside the DMA windows',
  [SPAPR_FAULT.PERMISSION]: 'the TCE does not permit it',
  [SPAPR_FAULT.TARGET_NOT_RAM]: 'the TCE refers to no memory',
};

export interface SpaprIommuOptions {
  readonly ram: GuestRam;
  /** Options of each PCI host bridge, in the order of their BUIDs. Default: one bridge with QEMU's windows. */
  readonly bridges?: readonly BridgeOptions[];
  /** Returns the index of a device's bridge by requester ID. Default: 0. */
  readonly bridgeOf?: (requesterId: number) => number;
  /** LIOBNs of VIO devices' windows. DMA of VIO devices is not modelled. */
  readonly vioLiobns?: readonly number[];
  /** Default `spec`: LoPAR's answers. */
  readonly quirks?: Quirks;
  /** Maximum TCEs other than 0 in the unit. Default LIVE_TCE_LIMIT. */
  readonly liveTceLimit?: number;
  /** Called for every refused access. */
  readonly onFault?: (record: DmaFaultRecord) => void;
}

export interface SpaprCounters {
  faults: number;
  hypercalls: number;
  /** Calls answered with H_BUSY because PENDING_COMMAND_LIMIT calls were waiting. */
  busy: number;
}

/** Result of an RTAS call made through H_RTAS: the hypercall's return code, and the RTAS answer if there is one. */
export interface RtasReturn extends RtasResult {
  readonly ret: bigint;
}

export class SpaprIommu implements VIommu {
  readonly name = 'spapr';
  readonly windowed = true;
  readonly registerBytes = callPage.CALL_PAGE_BYTES;
  readonly counters: SpaprCounters = { faults: 0, hypercalls: 0, busy: 0 };
  readonly bridges: readonly SpaprBridge[];
  readonly #ram: GuestRam;
  readonly #budget: TceBudget;
  readonly #vio: ReadonlyMap<number, TceWindow>;
  readonly #bridgeOf: (requesterId: number) => number;
  readonly #onFault: (record: DmaFaultRecord) => void;
  readonly #context: HypercallContext;
  readonly #page: CallPage;
  readonly #serial = new CommandSerial();

  /** @throws RangeError for too many bridges or VIO windows, or invalid options of a bridge */
  constructor(options: SpaprIommuOptions) {
    const { ram, quirks = 'spec', bridges = [{}], vioLiobns = [] } = options;
    if (bridges.length < 1 || bridges.length > BRIDGES_LIMIT)
      throw new RangeError(`${bridges.length} PCI host bridges; accepted: 1 to ${BRIDGES_LIMIT}`);
    if (vioLiobns.length > VIO_LIMIT)
      throw new RangeError(`${vioLiobns.length} VIO windows; accepted: up to ${VIO_LIMIT}`);
    this.#ram = ram;
    const budget = new TceBudget(options.liveTceLimit);
    this.#budget = budget;
    this.bridges = bridges.map((bridge, i) => new SpaprBridge(i, bridge, quirks, ram.regions, budget));
    this.#vio = new Map(vioLiobns.map((liobn) => [liobn, vioWindow(liobn, budget)]));
    this.#bridgeOf = options.bridgeOf ?? (() => 0);
    this.#onFault = options.onFault ?? (() => {});
    this.#context = {
      ram,
      quirks,
      windowOf: (liobn) => this.windowOf(liobn),
      changed: (window, first, count) => this.#changed(window, first, count),
    };
    this.#page = new CallPage(ram, (opcode, args) => this.hypercall(opcode, args));
  }

  /** Count of TCEs other than 0 in all windows. */
  get liveTces(): number {
    return this.#budget.live;
  }

  /** @throws RangeError if there is no such bridge */
  attach(space: DeviceAddressSpace): Completion {
    const bridge = this.#bridge(space.requesterId);
    return this.#serial.run(() => bridge.attach(space));
  }

  detach(requesterId: number): void {
    this.#bridge(requesterId).detach(requesterId);
  }

  readRegister(offset: number, size: number): bigint {
    return this.#page.read(offset, size);
  }

  writeRegister(offset: number, size: number, value: bigint): Completion {
    return this.#page.write(offset, size, value);
  }

  quiesce(work: () => void): Completion {
    return this.#serial.run(() => {
      work();
      return undefined;
    });
  }

  /** @throws Error while a hypercall is in progress */
  save(): Uint8Array {
    if (this.#serial.busy || this.#page.busy) throw new Error('spapr: a hypercall is under way');
    return saveUnit(this.#parts);
  }

  /** @throws StateError; Error if a device is attached already */
  restore(state: Uint8Array): void {
    const devices = this.bridges.reduce((sum, bridge) => sum + bridge.devices, 0);
    if (devices > 0) throw new Error(`spapr: ${devices} devices are attached before restore`);
    restoreUnit(state, this.#parts);
  }

  get #parts(): SpaprParts {
    const { bridges } = this;
    return { bridges, vio: this.#vio, page: this.#page, budget: this.#budget, context: this.#context };
  }

  /**
   * Performs a hypercall. It returns when no device can use the replaced TCEs (R6): at once if no device uses them.
   * @param args r4 on, unsigned 64-bit; missing ones are 0
   */
  hypercall(opcode: number, args: readonly bigint[]): HypercallResult | Promise<HypercallResult> {
    this.counters.hypercalls++;
    const [a = 0n, b = 0n, c = 0n, d = 0n, e = 0n, f = 0n] = args;
    if (opcode === spapr.H_RTAS) return this.#rtasBlock(a);
    const handler = HYPERCALLS.get(opcode);
    if (!handler) return { ret: spapr.H_FUNCTION, out: [] };
    const values: HypercallArgs = [a, b, c, d, e, f];
    const busy = { ret: spapr.H_BUSY, out: [], done: undefined };
    return this.#run(
      busy,
      () => handler(this.#context, values),
      ({ ret, out }) => ({ ret, out }),
    );
  }

  /**
   * Performs an RTAS call by name, as H_RTAS does. An unknown name is H_PARAMETER, without a status or results.
   * @param args 32-bit numbers
   * @param results count of results, including the status
   */
  rtas(name: string, args: readonly number[], results: number): RtasReturn | Promise<RtasReturn> {
    const call = RTAS_CALLS.get(name);
    if (!call) return { ret: spapr.H_PARAMETER, status: 0, rets: [] };
    const busy = { ret: spapr.H_BUSY, status: 0, rets: [], done: undefined };
    return this.#run(
      busy,
      () => ({ ret: spapr.H_SUCCESS, ...runRtas(call, this.bridges, args, results) }),
      ({ ret, status, rets }) => ({ ret, status, rets }),
    );
  }

  /** Returns the window of a guest's 64-bit LIOBN. */
  windowOf(liobn: bigint): TceWindow | undefined {
    if (liobn >= 2n ** 32n) return undefined;
    const number = Number(liobn);
    for (const bridge of this.bridges) {
      const window = bridge.windowOf(number);
      if (window) return window;
    }
    return this.#vio.get(number);
  }

  translate(requesterId: number, iova: Iova, write: boolean): TranslateResult {
    const bridge = this.#bridge(requesterId);
    const window = bridge.windowAt(iova);
    if (!window) return this.#fault(requesterId, iova, write, SPAPR_FAULT.OUTSIDE_WINDOW);
    const raw = window.get(Math.floor((iova - window.start) / window.pageSize));
    const { perm } = decodeTce(raw, window.pageShift);
    if ((perm & (write ? spapr.TCE_WRITE : spapr.TCE_READ)) === 0)
      return this.#fault(requesterId, iova, write, SPAPR_FAULT.PERMISSION);
    const leaf = bridge.leafAt(iova);
    if (!leaf) return this.#fault(requesterId, iova, write, SPAPR_FAULT.TARGET_NOT_RAM);
    return { ok: true, gpa: offsetBy(leaf.gpa, iova - leaf.iova), perm };
  }

  #fault(requesterId: number, iova: Iova, write: boolean, reason: number): TranslateResult {
    const text = FAULT_TEXTS[reason] as string;
    this.counters.faults++;
    this.#onFault({ requesterId, iova, write, reason, text });
    return { ok: false, reason, text };
  }

  /** Runs a call in its turn and returns its result when its effects are complete. */
  #run<Outcome extends { readonly done: Completion }, Result>(
    busy: Outcome,
    call: () => Outcome,
    resultOf: (outcome: Outcome) => Result,
  ): Result | Promise<Result> {
    if (this.#serial.waiting >= PENDING_COMMAND_LIMIT) {
      this.counters.busy++;
      return resultOf(busy);
    }
    let outcome = busy;
    const work = this.#serial.run(() => {
      outcome = call();
      return outcome.done;
    });
    return work ? work.then(() => resultOf(outcome)) : resultOf(outcome);
  }

  #changed(window: TceWindow, first: number, count: number): Completion {
    if (count === 0) return undefined;
    const bridge = this.bridges.find(({ windows }) => windows.includes(window));
    return bridge?.sync(window.addressOf(first), window.addressOf(first + count));
  }

  /** H_RTAS. The argument block in guest RAM has 32-bit big-endian words: token, nargs, nret, arguments, results. */
  #rtasBlock(block: bigint): HypercallResult | Promise<HypercallResult> {
    const gpa = Number(block);
    const head = this.#words(gpa, 3);
    if (!head) return { ret: spapr.H_PARAMETER, out: [] };
    const [token, nargs, nret] = head as [number, number, number];
    const name = RTAS_NAMES.get(token);
    const words = 3 + nargs + nret;
    const all = words <= spapr.RTAS_WORD_LIMIT && nret > 0 ? this.#words(gpa, words) : undefined;
    if (name === undefined || !all) return { ret: spapr.H_PARAMETER, out: [] };
    const answer = (returned: RtasReturn): HypercallResult => {
      if (returned.ret === spapr.H_SUCCESS)
        this.#writeWords(gpa + 4 * (3 + nargs), [returned.status, ...returned.rets]);
      return { ret: returned.ret, out: [] };
    };
    const result = this.rtas(name, all.slice(3, 3 + nargs), nret);
    return result instanceof Promise ? result.then(answer) : answer(result);
  }

  #words(gpa: number, count: number): number[] | undefined {
    if (!this.#ram.contains(gpa, 4 * count)) return undefined;
    const bytes = this.#ram.read(gpa, 4 * count);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    return Array.from({ length: count }, (_, i) => view.getUint32(4 * i));
  }

  #writeWords(gpa: number, words: readonly number[]): void {
    const view = new DataView(new ArrayBuffer(4 * words.length));
    words.forEach((word, i) => {
      view.setUint32(4 * i, word);
    });
    this.#ram.write(gpa, new Uint8Array(view.buffer));
  }

  #bridge(requesterId: number): SpaprBridge {
    const index = this.#bridgeOf(requesterId);
    const bridge = this.bridges[index];
    if (!bridge)
      throw new RangeError(`device ${requesterId} is on bridge ${index}; there are ${this.bridges.length}`);
    return bridge;
  }
}

const RTAS_NAMES: ReadonlyMap<number, string> = new Map(
  [...spapr.RTAS_TOKENS].map(([name, token]) => [token, name]),
);

const vioWindow = (liobn: number, budget: TceBudget): TceWindow =>
  new TceWindow(
    {
      liobn,
      start: 0,
      pageShift: DEFAULT_PAGE_SHIFT,
      entries: VIO_WINDOW_ENTRIES,
      isDefault: true,
    },
    budget,
  );
