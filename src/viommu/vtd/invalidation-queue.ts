/**
 * The invalidation queue: descriptors of 128 or 256 bits in guest RAM between IQH and IQT. Specification section 6.5.2.
 *
 * IQH moves past a descriptor only when the requested work is complete (R6). The status write of a wait descriptor
 * therefore follows the completion of all descriptors before it.
 */

import * as vtd from '../../abi/vtd.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Completion } from '../../platform/completion.ts';
import type { Quirks } from '../quirks.ts';
import { decodeDescriptor, type Invalidation } from './invalidation.ts';
import type { VtdRegisterFile } from './registers.ts';

export interface InvalidationQueueEvents {
  /** Performs a descriptor's invalidation. */
  readonly apply: (request: Invalidation) => Completion;
  /** Called before each descriptor: pends if the queue is to yield to others first. */
  readonly pause: () => Completion;
  /** Called when a wait descriptor with IF is complete. */
  readonly waitInterrupt: () => void;
  /** Called when the descriptor at IQH is invalid: sets FSTS.IQE. */
  readonly error: () => void;
}

/** Result of a descriptor that is invalid. */
const STOPPED = 'stopped';

export class InvalidationQueue {
  readonly #ram: GuestRam;
  readonly #registers: VtdRegisterFile;
  readonly #events: InvalidationQueueEvents;
  #enabled = false;
  #iqa = 0n;
  #base = 0;
  #bytes = 0;
  #descriptorBytes = vtd.QI_DESCRIPTOR_BYTES;
  readonly #asQemu: boolean;
  /** True if the last fetched descriptor was a wait. */
  #lastWasWait = false;

  constructor(ram: GuestRam, registers: VtdRegisterFile, quirks: Quirks, events: InvalidationQueueEvents) {
    this.#ram = ram;
    this.#registers = registers;
    this.#asQemu = quirks === 'qemu';
    this.#events = events;
    // Software must not move the queue while it is enabled (11.4.9.3). Such a write is undone.
    registers.onWrite('IQA', () => {
      if (this.#enabled) registers.set('IQA', this.#iqa);
    });
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** True if there is a descriptor to fetch or the tail is invalid. */
  get ready(): boolean {
    if (!this.#enabled || (this.#registers.get32('FSTS') & vtd.FSTS_IQE) !== 0) return false;
    return this.#registers.get32('IQH') !== this.#registers.get32('IQT');
  }

  /** IQA's value when the queue was last enabled, initially 0. */
  get latched(): bigint {
    return this.#iqa;
  }

  /** Size of the queue in bytes. */
  get bytes(): number {
    return this.#bytes;
  }

  get descriptorBytes(): number {
    return this.#descriptorBytes;
  }

  get lastWasWait(): boolean {
    return this.#lastWasWait;
  }

  /** Queue address in use, initially 0. In QEMU, a read of IQA returns it. */
  get latchedAddress(): bigint {
    return this.#iqa & vtd.IQA_ADDRESS_MASK;
  }

  /** QEMU disables the queue only if it is empty and its last descriptor was a wait. */
  get disableRefused(): boolean {
    if (!this.#asQemu) return false;
    return !this.#lastWasWait || this.#registers.get32('IQH') !== this.#registers.get32('IQT');
  }

  /** Checks a new tail. One that is not a multiple of the descriptor size is an error even if the queue is disabled. */
  tailWritten(): void {
    if (this.#registers.get32('IQT') % widthOf(this.#registers.get('IQA')) !== 0) this.#events.error();
  }

  /** Latches IQA and sets IQH to 0. */
  enable(): void {
    this.#latch(this.#registers.get('IQA'));
    this.#registers.set('IQH', 0n);
    this.#enabled = true;
  }

  /** Restores the queue of another unit between two descriptors. IQH and IQT are in the register file. */
  restore(latched: bigint, enabled: boolean, lastWasWait: boolean): void {
    this.#latch(latched);
    this.#enabled = enabled;
    this.#lastWasWait = lastWasWait;
  }

  disable(): void {
    this.#enabled = false;
    this.#registers.set('IQH', 0n);
  }

  #latch(iqa: bigint): void {
    this.#iqa = iqa;
    this.#base = Number(iqa & vtd.IQA_ADDRESS_MASK);
    this.#bytes = vtd.QI_MIN_BYTES * 2 ** Number(iqa & vtd.IQA_QS_MASK);
    this.#descriptorBytes = widthOf(iqa);
  }

  /** Processes descriptors up to the tail, at most as many as the queue holds. Runs must not overlap. */
  run(): Completion {
    for (let left = this.#entries(); left > 0 && this.ready; left--) {
      const pause = this.#events.pause();
      if (pause) return this.#runPending(pause, left);
      const work = this.#next();
      if (work === STOPPED) return undefined;
      if (work)
        return this.#runPending(
          work.then(() => this.#advance()),
          left - 1,
        );
      this.#advance();
    }
    return undefined;
  }

  async #runPending(first: Promise<void>, left: number): Promise<void> {
    await first;
    for (; left > 0 && this.ready; left--) {
      const pause = this.#events.pause();
      if (pause) await pause;
      const work = this.#next();
      if (work === STOPPED) return;
      if (work) await work;
      this.#advance();
    }
  }

  #entries(): number {
    return this.#bytes / this.#descriptorBytes;
  }

  #next(): Completion | typeof STOPPED {
    const done = this.#execute(this.#registers.get32('IQH'));
    if (done === STOPPED) this.#events.error();
    return done;
  }

  #execute(head: number): Completion | typeof STOPPED {
    const at = this.#base + head;
    const tail = this.#registers.get32('IQT');
    const bytes = this.#descriptorBytes;
    if (tail >= this.#bytes || tail % bytes !== 0 || !this.#ram.contains(at, bytes)) return STOPPED;
    const words: number[] = [];
    for (let offset = 0; offset < bytes; offset += 4) words.push(this.#ram.read32(at + offset));
    this.#lastWasWait = ((words[0] as number) & 0xf) === vtd.QI_WAIT;
    const request = decodeDescriptor(words);
    if (!request) return STOPPED;
    if (request.kind !== 'wait') return this.#events.apply(request);
    const { status } = request;
    if (status) {
      if (status.gpa % 4 !== 0 || !this.#ram.contains(status.gpa, 4)) return STOPPED;
      this.#ram.publish32(status.gpa, status.data);
    }
    if (request.interrupt) this.#events.waitInterrupt();
    return undefined;
  }

  #advance(): void {
    const next = (this.#registers.get32('IQH') + this.#descriptorBytes) % this.#bytes;
    this.#registers.set('IQH', BigInt(next));
  }
}

/** Returns the bytes of a descriptor, by IQA.DW. */
const widthOf = (iqa: bigint): number =>
  (iqa & vtd.IQA_DW) === 0n ? vtd.QI_DESCRIPTOR_BYTES : vtd.QI_WIDE_DESCRIPTOR_BYTES;
