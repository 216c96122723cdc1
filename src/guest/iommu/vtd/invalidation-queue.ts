/**
 * The guest's end of VT-d's invalidation queue (specification section 6.5.2): descriptors in, completion out.
 *
 * Several flows of one guest may submit at once: each submission owns a contiguous run of descriptor slots and a
 * status word that its own wait descriptor writes.
 */

import { nowUs } from '#host';
import * as vtd from '../../../abi/vtd.ts';
import { hex } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import { InFlightError } from '../../in-flight.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';

/** 128-bit descriptors of a queue of one page (IQA.QS = 0); of 256-bit ones there are half as many. */
export const QUEUE_ENTRIES = 256;
/** This many slots stay empty: a full ring must not look empty, and a wait may be seen before IQH passes it. */
const SPARE_SLOTS = 2;
/** Descriptors of one submission, its wait descriptor not counted. */
const SUBMISSION_LIMIT = 64;

/** A descriptor as 32-bit words, lowest first; the upper half of a 256-bit one is 0. */
export type Descriptor = readonly [number, number, number, number];

/** Thrown when the hardware does not complete a submission in time; its tables must not be reused. */
export class InvalidationTimeout extends Error {
  readonly what: string;
  readonly timeoutMs: number;
  constructor(what: string, timeoutMs: number, state: string) {
    super(`${what} not completed within ${timeoutMs} ms (${state})`);
    this.name = 'InvalidationTimeout';
    this.what = what;
    this.timeoutMs = timeoutMs;
  }
}

/** What a queue knows beside its pages; nothing is in it. */
export interface VtdQueueState {
  readonly ring: number;
  /** Index of the next descriptor. */
  readonly tail: number;
  /** The last wait descriptor's status data. */
  readonly value: number;
  /** GPAs of the status words; the last is used next. */
  readonly freeStatus: readonly number[];
}

interface Submission {
  readonly slots: number;
  readonly statusGpa: number;
  readonly value: number;
  done: boolean;
}

export class VtdQueue {
  readonly #port: RegisterPort;
  readonly #ram: GuestRam;
  readonly #timeoutMs: number;
  readonly #ring: number;
  readonly #wide: boolean;
  readonly #entries: number;
  readonly #descriptorBytes: number;
  readonly #freeStatus: number[];
  /** In ring order, from the oldest that is not known to be complete. */
  readonly #inFlight: Submission[] = [];
  #tail: number;
  #used = 0;
  #value: number;

  /**
   * Takes two pages: the ring and the status words.
   * @param wide 256-bit descriptors (IQA.DW), which scalable mode needs
   * @param saved a queue that hardware has already: no page is taken
   * @throws PageAllocatorExhausted
   */
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    timeoutMs: number,
    wide: boolean,
    saved?: VtdQueueState,
  ) {
    this.#wide = wide;
    this.#entries = wide ? QUEUE_ENTRIES / 2 : QUEUE_ENTRIES;
    this.#descriptorBytes = wide ? vtd.QI_WIDE_DESCRIPTOR_BYTES : vtd.QI_DESCRIPTOR_BYTES;
    this.#port = port;
    this.#ram = ram;
    this.#timeoutMs = timeoutMs;
    this.#ring = saved?.ring ?? pages.allocate();
    this.#tail = saved?.tail ?? 0;
    this.#value = saved?.value ?? 0;
    this.#freeStatus = saved ? [...saved.freeStatus] : statusWords(pages.allocate(), this.#entries);
  }

  /** @throws InFlightError while hardware has a submission that it has not completed */
  save(): VtdQueueState {
    this.#reap();
    const { length } = this.#inFlight;
    if (length > 0) throw new InFlightError('the invalidation queue', [`${length} submissions`]);
    return {
      ring: this.#ring,
      tail: this.#tail,
      value: this.#value,
      freeStatus: [...this.#freeStatus],
    };
  }

  /** Tells the hardware where the queue is; enabling it (GCMD.QIE) is the caller's. */
  async install(): Promise<void> {
    await this.#port.write(vtd.IQT_REG, 8, 0n);
    await this.#port.write(vtd.IQA_REG, 8, BigInt(this.#ring) | (this.#wide ? vtd.IQA_DW : 0n));
  }

  /**
   * Submits descriptors followed by a wait descriptor and waits until the hardware has completed them all.
   * @param what names the request in errors
   * @throws InvalidationTimeout, RangeError for more than SUBMISSION_LIMIT descriptors
   */
  async submit(descriptors: readonly Descriptor[], what: string): Promise<void> {
    if (descriptors.length > SUBMISSION_LIMIT)
      throw new RangeError(
        `${descriptors.length} descriptors in one submission; accepted: ${SUBMISSION_LIMIT}`,
      );
    const slots = descriptors.length + 1;
    const deadline = nowUs() + this.#timeoutMs * 1000;
    while (!this.#fits(slots)) await this.#waitForRoom(deadline, what);
    // From the check above to the tail write nothing awaits, so that submissions neither interleave nor overrun.
    const submission = this.#begin(slots);
    for (const descriptor of descriptors) this.#push(descriptor);
    const flags = vtd.QI_WAIT | vtd.WAIT_SW | vtd.WAIT_FN;
    const { statusGpa, value } = submission;
    this.#push([flags, value, statusGpa % 2 ** 32, Math.floor(statusGpa / 2 ** 32)]);
    await this.#port.write(vtd.IQT_REG, 8, BigInt(this.#tail * this.#descriptorBytes));
    await this.#settled(submission, this.#timeoutMs);
    if (!submission.done) throw await this.#timeout(what);
  }

  #fits(slots: number): boolean {
    this.#reap();
    return this.#used + slots <= this.#entries - SPARE_SLOTS;
  }

  /** Slots become free when the oldest submission is complete. */
  async #waitForRoom(deadline: number, what: string): Promise<void> {
    const leftMs = Math.ceil((deadline - nowUs()) / 1000);
    if (leftMs <= 0) throw await this.#timeout(`room in the queue for ${what}`);
    await this.#settled(this.#inFlight[0] as Submission, leftMs);
  }

  /**
   * Waits until the submission is complete or the time is up. Woken is not done: the status word may be a reused one,
   * whose former user was seen complete before the hardware's wake-up for it came.
   */
  async #settled(submission: Submission, timeoutMs: number): Promise<void> {
    const deadline = nowUs() + timeoutMs * 1000;
    for (this.#reap(); !submission.done; this.#reap()) {
      const leftMs = Math.ceil((deadline - nowUs()) / 1000);
      if (leftMs <= 0) return;
      await this.#ram.waitWhile32(submission.statusGpa, 0, leftMs);
    }
  }

  #begin(slots: number): Submission {
    // Every submission has at least one slot, so there are more status words than submissions can be in flight.
    const statusGpa = this.#freeStatus.pop() as number;
    this.#value = (this.#value % 0xffffffff) + 1;
    const submission = { slots, statusGpa, value: this.#value, done: false };
    this.#ram.write32(statusGpa, 0);
    this.#inFlight.push(submission);
    this.#used += slots;
    return submission;
  }

  #push(descriptor: Descriptor): void {
    const at = this.#ring + this.#tail * this.#descriptorBytes;
    for (let i = 0; i < this.#descriptorBytes / 4; i++) this.#ram.write32(at + 4 * i, descriptor[i] ?? 0);
    this.#tail = (this.#tail + 1) % this.#entries;
  }

  /** Frees what the hardware has completed, in ring order. */
  #reap(): void {
    for (;;) {
      const oldest = this.#inFlight[0];
      if (!oldest || this.#ram.load32(oldest.statusGpa) !== oldest.value) return;
      oldest.done = true;
      this.#inFlight.shift();
      this.#used -= oldest.slots;
      this.#freeStatus.push(oldest.statusGpa);
    }
  }

  async #timeout(what: string): Promise<InvalidationTimeout> {
    const read = async (name: string, offset: number, size: 4 | 8) =>
      `${name} ${hex(await this.#port.read(offset, size))}`;
    const state = [
      await read('IQH', vtd.IQH_REG, 8),
      await read('IQT', vtd.IQT_REG, 8),
      await read('FSTS', vtd.FSTS_REG, 4),
    ];
    return new InvalidationTimeout(what, this.#timeoutMs, state.join(', '));
  }
}

/** One word for each submission that fits the ring; the first is used first. */
const statusWords = (page: number, count: number): number[] =>
  Array.from({ length: count }, (_, i) => page + 4 * (count - 1 - i));
