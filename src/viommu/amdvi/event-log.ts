/**
 * The event log in guest RAM (specification section 2.5), its status bits and its interrupt.
 *
 * With `spec` an overflow stops the log until software disables and enables it. QEMU continues when the overflow bit is
 * cleared, and sets the status bits only if the interrupt is enabled.
 */

import * as amdvi from '../../abi/amdvi.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Quirks } from '../quirks.ts';
import { type AmdViRegisterFile, placeOf, setStatus } from './registers.ts';

const { CONTROL, STATUS } = amdvi;

/** An event: code, device, domain, flags of word 1 and address. */
export interface AmdViEvent {
  readonly code: number;
  readonly deviceId?: number;
  readonly domainId?: number;
  readonly flags: number;
  readonly address: number;
}

export class EventLog {
  readonly #ram: GuestRam;
  readonly #registers: AmdViRegisterFile;
  readonly #asQemu: boolean;
  readonly #interrupt: () => void;
  #base = 0;
  #bytes = 16;
  /** Offsets in use. QEMU's registers may hold other bits. */
  #head = 0;
  #tail = 0;
  /** Stopped by an overflow until software disables the log. */
  #stopped = false;

  /** @param interrupt sends the unit's interrupt */
  constructor(ram: GuestRam, registers: AmdViRegisterFile, quirks: Quirks, interrupt: () => void) {
    this.#ram = ram;
    this.#registers = registers;
    this.#asQemu = quirks === 'qemu';
    this.#interrupt = interrupt;
    registers.onWrite('EventHead', (value) => {
      this.#head = this.#offset(value);
    });
    registers.onWrite('EventTail', (value) => {
      this.#tail = this.#offset(value);
    });
  }

  /** True while the log has stopped at an overflow. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** Takes the log's place from its base register and empties it. */
  setPlace(register: bigint): void {
    // QEMU refuses a new place while an interrupt is pending.
    if (this.#asQemu && (this.#registers.get('Status') & STATUS.EVENT_LOG_INT) !== 0n) return;
    this.#takePlace(register);
    this.#registers.set('EventHead', 0n);
    this.#registers.set('EventTail', 0n);
    this.#head = 0;
    this.#tail = 0;
  }

  /** The base register's value in use. */
  latched = 0n;

  #takePlace(register: bigint): void {
    this.latched = register;
    const { base, bytes } = placeOf(register);
    this.#base = base;
    this.#bytes = bytes;
  }

  /** Updates EventLogRun after a write of the control register. */
  controlWritten(running: boolean): void {
    if ((this.#registers.get('Control') & CONTROL.EVENT_LOG_EN) === 0n) this.#stopped = false;
    setStatus(this.#registers, STATUS.EVENT_LOG_RUN, running && !this.#stopped);
  }

  /** Appends an event. It is lost while the log is disabled, full or stopped. */
  append(event: AmdViEvent): void {
    const status = this.#registers.get('Status');
    if ((status & STATUS.EVENT_LOG_RUN) === 0n) return;
    if (this.#asQemu && (status & STATUS.EVENT_OVERFLOW) !== 0n) return;
    const next = (this.#tail + amdvi.EVENT_BYTES) % this.#bytes;
    if (next === this.#head) {
      this.#overflow();
      return;
    }
    this.#store(this.#base + this.#tail, event);
    this.#tail = next;
    this.#registers.set('EventTail', BigInt(next));
    if (this.#asQemu && !this.#interrupts) return;
    setStatus(this.#registers, STATUS.EVENT_LOG_INT, true);
    // One interrupt for each event, also while the status bit is set.
    if (this.#interrupts) this.#interrupt();
  }

  /** Restores the place and the offsets, which the head and tail registers hold, of another unit. */
  restore(latched: bigint, stopped: boolean): void {
    this.#takePlace(latched);
    this.#head = this.#offset(this.#registers.get('EventHead'));
    this.#tail = this.#offset(this.#registers.get('EventTail'));
    this.#stopped = stopped;
  }

  get #interrupts(): boolean {
    return (this.#registers.get('Control') & CONTROL.EVENT_INT_EN) !== 0n;
  }

  #offset(value: bigint): number {
    const offset = Number(value & 0xffff_ffffn) & amdvi.POINTER_MASK;
    // QEMU writes the next event even beyond the log.
    return this.#asQemu ? offset : offset % this.#bytes;
  }

  #overflow(): void {
    if (this.#asQemu && !this.#interrupts) return;
    setStatus(this.#registers, STATUS.EVENT_OVERFLOW, true);
    if (!this.#asQemu) {
      this.#stopped = true;
      setStatus(this.#registers, STATUS.EVENT_LOG_RUN, false);
    }
    if (this.#interrupts) this.#interrupt();
  }

  /** Writes an event. A log outside memory loses it. QEMU's build writes no address. */
  #store(at: number, { code, deviceId = 0, domainId = 0, flags, address }: AmdViEvent): void {
    if (!this.#ram.contains(at, amdvi.EVENT_BYTES)) return;
    const shown = this.#asQemu ? 0 : address;
    this.#ram.write32(at, deviceId);
    this.#ram.write32(at + 4, ((code << amdvi.OPCODE_SHIFT) | flags | domainId) >>> 0);
    this.#ram.write32(at + 8, shown % 2 ** 32);
    this.#ram.write32(at + 12, Math.floor(shown / 2 ** 32));
  }
}
