/**
 * The call page: hypercalls through registers, for guests whose CPU does not trap. See abi/spapr-call-page.ts.
 */

import * as callPage from '../../abi/spapr-call-page.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Completion } from '../../platform/completion.ts';
import type { HypercallResult } from './hypercalls.ts';

/** Performs a call: see SpaprIommu.hypercall. */
export type MakeCall = (
  opcode: number,
  args: readonly bigint[],
) => HypercallResult | Promise<HypercallResult>;

/** Offsets of a slot's registers that a guest may write. */
const WRITABLE: ReadonlySet<number> = new Set([
  callPage.CALL_OPCODE,
  ...Array.from({ length: callPage.CALL_ARGS }, (_, i) => callPage.CALL_ARG0 + 8 * i),
  callPage.CALL_RECORD,
]);

export class CallPage {
  /** Doorbells ignored because the slot's previous call had not returned. */
  ignored = 0;
  readonly #ram: GuestRam;
  readonly #call: MakeCall;
  readonly #registers = new DataView(new ArrayBuffer(callPage.CALL_PAGE_BYTES));
  readonly #busy = new Set<number>();

  constructor(ram: GuestRam, call: MakeCall) {
    this.#ram = ram;
    this.#call = call;
    this.#registers.setBigUint64(callPage.CALL_PAGE_ID_REG, callPage.CALL_PAGE_ID, true);
    this.#registers.setBigUint64(callPage.CALL_SLOTS_REG, BigInt(callPage.CALL_SLOTS), true);
  }

  /** True while a call has not returned. */
  get busy(): boolean {
    return this.#busy.size > 0;
  }

  /** Copy of all registers as bytes. */
  get registers(): Uint8Array {
    return new Uint8Array(this.#registers.buffer.slice(0));
  }

  /**
   * Restores the registers of another page of the same size.
   * @returns the offset of an invalid byte; undefined if all are valid
   */
  restore(registers: Uint8Array): number | undefined {
    const here = new Uint8Array(this.#registers.buffer);
    const odd = registers.findIndex((byte, offset) => byte !== here[offset] && !isHeld(offset));
    if (odd >= 0) return odd;
    here.set(registers);
    return undefined;
  }

  /** Returns a register's value, or 0 if there is no such register. `size` is 4 or 8. */
  read(offset: number, size: number): bigint {
    if (!isAccess(offset, size)) return 0n;
    return size === 8
      ? this.#registers.getBigUint64(offset, true)
      : BigInt(this.#registers.getUint32(offset, true));
  }

  /** Writes a register. Writes to other offsets and to read-only registers are ignored. */
  write(offset: number, size: number, value: bigint): Completion {
    const slot = Math.floor((offset - callPage.CALL_SLOT_BASE) / callPage.CALL_SLOT_BYTES);
    if (!isAccess(offset, size) || slot < 0 || slot >= callPage.CALL_SLOTS) return undefined;
    const base = slotBase(slot);
    if (offset - base === callPage.CALL_DOORBELL) return this.#ring(slot, BigInt.asUintN(64, value));
    if (!WRITABLE.has(offset - base - (offset % 8))) return undefined;
    if (size === 8) this.#registers.setBigUint64(offset, value, true);
    else this.#registers.setUint32(offset, Number(BigInt.asUintN(32, value)), true);
    return undefined;
  }

  #ring(slot: number, sequence: bigint): Completion {
    if (this.#busy.has(slot)) {
      this.ignored++;
      return undefined;
    }
    const base = slotBase(slot);
    const register = (at: number) => this.#registers.getBigUint64(base + at, true);
    const args = Array.from({ length: callPage.CALL_ARGS }, (_, i) => register(callPage.CALL_ARG0 + 8 * i));
    // Read now: a write to the slot while the call runs counts for the next call.
    const record = register(callPage.CALL_RECORD);
    const result = this.#call(Number(register(callPage.CALL_OPCODE)), args);
    if (!(result instanceof Promise)) {
      this.#finish(base, record, sequence, result);
      return undefined;
    }
    this.#busy.add(slot);
    return result
      .then((returned) => this.#finish(base, record, sequence, returned))
      .finally(() => this.#busy.delete(slot));
  }

  #finish(base: number, record: bigint, sequence: bigint, { ret, out }: HypercallResult): void {
    this.#registers.setBigUint64(base + callPage.CALL_RET, BigInt.asUintN(64, ret), true);
    this.#registers.setBigUint64(base + callPage.CALL_OUT, out[0] ?? 0n, true);
    this.#registers.setBigUint64(base + callPage.CALL_DONE, sequence, true);
    const gpa = Number(record);
    if (record === 0n || gpa % 8 !== 0 || !this.#ram.contains(gpa, callPage.CALL_RECORD_BYTES)) return;
    const bytes = new DataView(new ArrayBuffer(callPage.CALL_RECORD_SEQUENCE));
    bytes.setBigUint64(callPage.CALL_RECORD_RET, BigInt.asUintN(64, ret), true);
    bytes.setBigUint64(callPage.CALL_RECORD_OUT, out[0] ?? 0n, true);
    this.#ram.write(gpa, new Uint8Array(bytes.buffer));
    this.#ram.publish32(gpa + callPage.CALL_RECORD_SEQUENCE, Number(BigInt.asUintN(32, sequence)));
  }
}

/** Offsets of a slot's registers. All other bytes keep their initial value. */
const HELD: readonly number[] = [...WRITABLE, callPage.CALL_RET, callPage.CALL_OUT, callPage.CALL_DONE];

function isHeld(offset: number): boolean {
  const slot = Math.floor((offset - callPage.CALL_SLOT_BASE) / callPage.CALL_SLOT_BYTES);
  const at = offset - slotBase(slot);
  return slot >= 0 && slot < callPage.CALL_SLOTS && HELD.includes(at - (at % 8));
}

const slotBase = (slot: number): number => callPage.CALL_SLOT_BASE + slot * callPage.CALL_SLOT_BYTES;

const isAccess = (offset: number, size: number): boolean =>
  (size === 4 || size === 8) &&
  offset >= 0 &&
  offset % size === 0 &&
  offset + size <= callPage.CALL_PAGE_BYTES;
