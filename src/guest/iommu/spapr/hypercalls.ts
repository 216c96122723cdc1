/**
 * Hypercalls of a guest, through the call page (see abi/spapr-call-page.ts). A call owns a slot until it returns, and
 * waits on a word in guest RAM.
 */

import { nowUs, yieldTurn } from '#host';
import * as spapr from '../../../abi/spapr.ts';
import * as callPage from '../../../abi/spapr-call-page.ts';
import { hex } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import { InFlight, InFlightError } from '../../in-flight.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';

/** Bytes from one slot's record to the next. */
const RECORD_STEP = 32;

/** Thrown when a call does not return in time. Its slot is lost, because the hypervisor may still write to it. */
export class HypercallTimeout extends Error {
  constructor(opcode: number, timeoutMs: number) {
    super(`hypercall ${hex(opcode)} has not returned within ${timeoutMs} ms`);
    this.name = 'HypercallTimeout';
  }
}

/** Thrown when all slots are lost. */
class NoCallSlot extends Error {
  constructor() {
    super(`none of ${callPage.CALL_SLOTS} hypercall slots has returned from its last call`);
    this.name = 'NoCallSlot';
  }
}

/** Result of a call: r3, and r4 if the call returns one. */
interface CallResult {
  readonly ret: bigint;
  readonly out: bigint;
}

/** State of the call page's user beside RAM and the page's registers, with no call in flight. */
export interface SpaprCallsState {
  readonly timeoutMs: number;
  /** Free slots; the last is used next. */
  readonly slots: readonly Slot[];
}

/**
 * A slot for one call at a time. `record` is the GPA of its result, `list` the GPA of a page for TCEs or RTAS
 * arguments.
 */
interface Slot {
  readonly base: number;
  readonly record: number;
  /** 0 until it is allocated. */
  list: number;
  sequence: number;
  recordSet: boolean;
}

/** The slots of the call page, shared by all drivers of a guest. */
export class SpaprCalls {
  readonly #port: RegisterPort;
  readonly #ram: GuestRam;
  readonly #pages: PageAllocator;
  readonly #timeoutMs: number;
  readonly #free: Slot[];
  /** Calls in flight of every driver and domain that uses this page. */
  readonly inFlight = new InFlight();
  readonly #waiting: { readonly resolve: (slot: Slot) => void; readonly reject: (error: Error) => void }[] =
    [];
  #lostSlots = 0;

  /**
   * Allocates one page now, and later one for each slot that passes a list.
   * @param saved slots that the hypervisor has already; then no page is allocated now
   * @throws PageAllocatorExhausted
   */
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    timeoutMs: number,
    saved?: SpaprCallsState,
  ) {
    this.#port = port;
    this.#ram = ram;
    this.#pages = pages;
    this.#timeoutMs = timeoutMs;
    this.#free = saved ? saved.slots.map((slot) => ({ ...slot })) : slotsOf(pages.allocate());
  }

  /** @throws InFlightError while a call is in flight, or if a slot is lost */
  save(): SpaprCallsState {
    const busy = callPage.CALL_SLOTS - this.#free.length;
    if (busy > 0) throw new InFlightError('the call page', [`${busy} hypercalls`]);
    return { timeoutMs: this.#timeoutMs, slots: this.#free.map((slot) => ({ ...slot })) };
  }

  /** Makes a call and resolves to its result. @throws HypercallTimeout, NoCallSlot */
  call(opcode: number, args: readonly bigint[]): Promise<CallResult> {
    return this.#withSlot((slot) => this.#make(slot, opcode, args));
  }

  /**
   * Writes `bytes` to a page of guest RAM and makes a call with `args` of its GPA. Resolves to the result, with as
   * many bytes of the page after the call.
   * @throws HypercallTimeout, NoCallSlot, PageAllocatorExhausted
   */
  callWithPage(
    opcode: number,
    bytes: Uint8Array,
    args: (gpa: number) => readonly bigint[],
  ): Promise<CallResult & { readonly page: Uint8Array }> {
    return this.#withSlot(async (slot) => {
      if (slot.list === 0) slot.list = this.#pages.allocate();
      this.#ram.write(slot.list, bytes);
      const result = await this.#make(slot, opcode, args(slot.list));
      return { ...result, page: this.#ram.read(slot.list, bytes.length) };
    });
  }

  /** Runs `work` with a slot. Without a free slot it waits, in order of arrival. */
  async #withSlot<Result>(work: (slot: Slot) => Promise<Result>): Promise<Result> {
    if (this.#lostSlots === callPage.CALL_SLOTS) throw new NoCallSlot();
    const slot =
      this.#free.pop() ??
      (await new Promise<Slot>((resolve, reject) => this.#waiting.push({ resolve, reject })));
    let usable = true;
    try {
      return await work(slot);
    } catch (error) {
      usable = !(error instanceof HypercallTimeout);
      throw error;
    } finally {
      if (usable) this.#release(slot);
      else this.#lose();
    }
  }

  #lose(): void {
    this.#lostSlots++;
    if (this.#lostSlots < callPage.CALL_SLOTS) return;
    for (const { reject } of this.#waiting.splice(0)) reject(new NoCallSlot());
  }

  #release(slot: Slot): void {
    const next = this.#waiting.shift();
    if (next) next.resolve(slot);
    else this.#free.push(slot);
  }

  /** Makes a call; repeats it while the hypervisor returns H_BUSY. */
  async #make(slot: Slot, opcode: number, args: readonly bigint[]): Promise<CallResult> {
    const deadline = nowUs() + this.#timeoutMs * 1000;
    for (;;) {
      await this.#post(slot, opcode, args);
      const result = await this.#result(slot, opcode, deadline);
      if (result.ret !== spapr.H_BUSY) return result;
      if (nowUs() > deadline) throw new HypercallTimeout(opcode, this.#timeoutMs);
      await yieldTurn();
    }
  }

  async #post(slot: Slot, opcode: number, args: readonly bigint[]): Promise<void> {
    const write = async (register: number, value: bigint) => {
      const posted = this.#port.write(slot.base + register, 8, value);
      if (posted) await posted;
    };
    if (!slot.recordSet) await write(callPage.CALL_RECORD, BigInt(slot.record));
    slot.recordSet = true;
    await write(callPage.CALL_OPCODE, BigInt(opcode));
    for (const [i, arg] of args.entries()) await write(callPage.CALL_ARG0 + 8 * i, arg);
    // 0 is the initial value of the record's word, so no call has sequence 0.
    slot.sequence = (slot.sequence % 0x7fff_ffff) + 1;
    await write(callPage.CALL_DOORBELL, BigInt(slot.sequence));
  }

  async #result(slot: Slot, opcode: number, deadline: number): Promise<CallResult> {
    const word = slot.record + callPage.CALL_RECORD_SEQUENCE;
    for (let seen = this.#ram.load32(word); seen !== slot.sequence; seen = this.#ram.load32(word)) {
      const left = deadline - nowUs();
      if (left <= 0) throw new HypercallTimeout(opcode, this.#timeoutMs);
      await this.#ram.waitWhile32(word, seen, Math.ceil(left / 1000));
    }
    const bytes = this.#ram.read(slot.record, callPage.CALL_RECORD_SEQUENCE);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    return {
      ret: view.getBigInt64(callPage.CALL_RECORD_RET, true),
      out: view.getBigUint64(callPage.CALL_RECORD_OUT, true),
    };
  }
}

/** Returns the slots with their records in a page. Slots are taken from the end, so the highest is first. */
const slotsOf = (records: number): Slot[] =>
  Array.from({ length: callPage.CALL_SLOTS }, (_, i) => {
    const index = callPage.CALL_SLOTS - 1 - i;
    const base = callPage.CALL_SLOT_BASE + index * callPage.CALL_SLOT_BYTES;
    return { base, record: records + index * RECORD_STEP, list: 0, sequence: 0, recordSet: false };
  });
