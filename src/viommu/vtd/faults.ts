/**
 * Fault recording, and the unit's two events: fault (FECTL) and invalidation completion (IECTL).
 *
 * Specification sections 7.2 (recording), 7.3 (fault event) and 6.5.2.8 (completion event).
 */
import * as vtd from '../../abi/vtd.ts';
import type { Quirks } from '../quirks.ts';
import { messageAddress, type VtdRegisterFile } from './registers.ts';

/** Sends a message-signalled interrupt with the address and data that the guest has programmed. */
export type RaiseMsi = (address: number, data: number) => void;

/** Control register of one event: sends the message, or keeps it pending while masked. */
export class EventControl {
  readonly #registers: VtdRegisterFile;
  readonly #control: 'FECTL' | 'IECTL';
  readonly #raiseMsi: RaiseMsi;

  constructor(registers: VtdRegisterFile, control: 'FECTL' | 'IECTL', raiseMsi: RaiseMsi) {
    this.#registers = registers;
    this.#control = control;
    this.#raiseMsi = raiseMsi;
    registers.onWrite(control, () => this.#deliver());
  }

  signal(): void {
    this.#set(this.#get() | vtd.EVENT_IP);
    this.#deliver();
  }

  /** Drops the pending message: software has already serviced its cause. */
  clearPending(): void {
    this.#set(this.#get() & ~vtd.EVENT_IP);
  }

  #deliver(): void {
    const control = this.#get();
    if ((control & vtd.EVENT_IP) === 0 || (control & vtd.EVENT_IM) !== 0) return;
    this.clearPending();
    const fault = this.#control === 'FECTL';
    const address = fault
      ? messageAddress(this.#registers, 'FEADDR', 'FEUADDR')
      : messageAddress(this.#registers, 'IEADDR', 'IEUADDR');
    this.#raiseMsi(address, this.#registers.get32(fault ? 'FEDATA' : 'IEDATA'));
  }

  #get(): number {
    return this.#registers.get32(this.#control);
  }

  #set(value: number): void {
    this.#registers.set(this.#control, BigInt(value >>> 0));
  }
}

/** Fault recording register, FSTS and fault event. */
export class FaultLog {
  readonly #registers: VtdRegisterFile;
  readonly #event: EventControl;
  readonly #quirks: Quirks;

  /** @param onStatusWrite called after software wrote FSTS: with IQE clear the queue may resume */
  constructor(registers: VtdRegisterFile, quirks: Quirks, raiseMsi: RaiseMsi, onStatusWrite: () => void) {
    this.#registers = registers;
    this.#quirks = quirks;
    this.#event = new EventControl(registers, 'FECTL', raiseMsi);
    // QEMU retracts a pending message only when FSTS is written.
    registers.onWrite('FRCD_HI', () => this.#update(this.#quirks === 'spec'));
    registers.onWrite('FSTS', () => {
      this.#update(true);
      onStatusWrite();
    });
  }

  /**
   * Records one DMA fault. The fault is dropped while PFO is set or the fault recording register is occupied. PFO is
   * then set, unless the recorded fault is of the same requester (section 7.2.1 lets hardware compress those).
   */
  record(requesterId: number, iova: number, write: boolean, reason: number): void {
    const type = write ? 0n : vtd.FRCD.T;
    this.#store(requesterId, BigInt(iova - (iova % 4096)), type, reason);
  }

  /** Records one interrupt fault, as {@link record}. Returns false if it is dropped. */
  recordInterrupt(requesterId: number, index: number, reason: number): boolean {
    return this.#store(requesterId, BigInt(index) << vtd.FRCD.INDEX_SHIFT, 0n, reason);
  }

  #store(requesterId: number, information: bigint, type: bigint, reason: number): boolean {
    const before = this.#registers.get32('FSTS');
    if ((before & vtd.FSTS_PFO) !== 0) return false;
    const held = this.#registers.get('FRCD_HI');
    if ((held & vtd.FRCD.F) !== 0n) {
      if (Number(held & vtd.FRCD.SID_MASK) !== requesterId) this.#setStatus(vtd.FSTS_PFO);
      return false;
    }
    this.#registers.set('FRCD_LO', information);
    this.#registers.set(
      'FRCD_HI',
      vtd.FRCD.F | type | (BigInt(reason) << vtd.FRCD.REASON_SHIFT) | BigInt(requesterId),
    );
    this.#setStatus(vtd.FSTS_PPF);
    return true;
  }

  /** Sets FSTS.IQE: the invalidation queue has stopped at an invalid descriptor. */
  invalidationQueueError(): void {
    this.#setStatus(vtd.FSTS_IQE);
  }

  #setStatus(bit: number): void {
    const before = this.#registers.get32('FSTS');
    this.#registers.set('FSTS', BigInt(before | bit));
    // One message for all pending causes: section 7.3.
    if ((before & (vtd.FSTS_PFO | vtd.FSTS_PPF | vtd.FSTS_IQE)) === 0) this.#event.signal();
  }

  /** Makes PPF follow the F bit. `retract`: drops a pending message if no status bit is left. */
  #update(retract: boolean): void {
    const recorded = (this.#registers.get('FRCD_HI') & vtd.FRCD.F) !== 0n;
    const others = this.#registers.get32('FSTS') & ~vtd.FSTS_PPF;
    const status = others | (recorded ? vtd.FSTS_PPF : 0);
    this.#registers.set('FSTS', BigInt(status));
    if (retract && status === 0) this.#event.clearPending();
  }
}

/** ICS and invalidation completion event. */
export class CompletionEvent {
  readonly #registers: VtdRegisterFile;
  readonly #event: EventControl;

  constructor(registers: VtdRegisterFile, raiseMsi: RaiseMsi) {
    this.#registers = registers;
    this.#event = new EventControl(registers, 'IECTL', raiseMsi);
    registers.onWrite('ICS', () => {
      if ((this.#registers.get32('ICS') & vtd.ICS_IWC) === 0) this.#event.clearPending();
    });
  }

  /** Reports a completed wait descriptor with IF. No second message is sent until software has cleared IWC. */
  signal(): void {
    if ((this.#registers.get32('ICS') & vtd.ICS_IWC) !== 0) return;
    this.#registers.set('ICS', BigInt(vtd.ICS_IWC));
    this.#event.signal();
  }
}
