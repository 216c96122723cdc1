/**
 * Driver side of VT-d's invalidation queue (specification section 6.5.2): submits descriptors and waits for
 * completion.
 *
 * Several flows of one guest may submit concurrently: each submission owns consecutive descriptor slots, and a status
 * word that its own wait descriptor writes.
 */

import { nowUs } from '#host';
import * as vtd from '../../../abi/vtd.ts';
import { hex } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import { InFlightError } from '../../in-flight.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';

/** Count of 128-bit descriptors of a queue of one page (IQA.QS = 0); half as many 256-bit descriptors. */
export const QUEUE_ENTRIES = 256;
/** Count of slots that stay empty: a full ring must not look empty, and a wait may complete before IQH passes it. */
const SPARE_SLOTS = 2;
/** Limit of descriptors in one submission, without its wait descriptor. */
const SUBMISSION_LIMIT = 64;

/** A descriptor as 32-bit words, the lowest first; the upper half of a 256-bit descriptor is 0. */
export type Descriptor = readonly [number, number, number, number];

/** Thrown when the hardware does not complete a submission in time; the tables must not be reused. */
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

/** State of a queue beside its pages, with no submission in flight. */
export interface VtdQueueState {
  /** GPA of the ring. */
  readonly ring: number;
  /** Index of the next descriptor. */
  readonly tail: number;
  /** Status data of the last wait descriptor. */
  readonly value: number;
  /** GPAs of free status words; the last is used next. */
  readonly freeStatus: readonly number[];
}

interface Submission {
  readonly slots: number;
  readonly statusGpa: number;
  readonly value: number;
  done: boolean;
}

/** An invalidation queue of one page. */
export class VtdQueue {
  readonly #port: RegisterPort;
  readonly #ram: GuestRam;
  readonly #timeoutMs: number;
  readonly #ring: number;
  readonly #wide: boolean;
  readonly #entries: number;
  readonly #descriptorBytes: number;
  readonly #freeStatus: number[];
  /** Submissions not known to be complete, in ring order. */
  readonly #inFlight: Submission[] = [];
  #tail: number;
  #used = 0;
  #value: number;

  /**
   * Allocates two pages: the ring and the status words.
   * @param wide 256-bit descriptors (IQA.DW), which scalable mode needs
   * @param saved state of an installed queue; then no page is allocated
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

  /** Returns the state of the queue. @throws InFlightError while submissions are in flight */
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

  /** Writes the queue's address to the hardware. The caller enables the queue (GCMD.QIE). */
  async install(): Promise<void> {
    await this.#port.write(vtd.IQT_REG, 8, 0n);
    await this.#port.write(vtd.IQA_REG, 8, BigInt(this.#ring) | (this.#wide ? vtd.IQA_DW : 0n));
  }

  /**
   * Submits descriptors and a wait descriptor; resolves when the hardware has completed them all.
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
    // No await from the check above to the tail write, so that submissions neither interleave nor overrun.
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

  /** Waits until the oldest submission is complete, which frees its slots. */
  async #waitForRoom(deadline: number, what: string): Promise<void> {
    const leftMs = Math.ceil((deadline - nowUs()) / 1000);
    if (leftMs <= 0) throw await this.#timeout(`free slots in the queue for ${what}`);
    await this.#settled(this.#inFlight[0] as Submission, leftMs);
  }

  /**
   * Waits until the submission is complete or the time is up. A wake-up alone does not prove completion:
   * 1. A reader sees the status word of an earlier submission complete, before the hardware's wake-up.
   * 2. The status word is reused for this submission.
   * 3. The late wake-up of the earlier submission arrives.
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
    // Every submission has at least one slot, so there are more status words than submissions in flight.
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

  /** Frees the completed submissions, in ring order. */
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

/** Returns the GPAs of `count` status words; the lowest is last, to be used first. */
const statusWords = (page: number, count: number): number[] =>
  Array.from({ length: count }, (_, i) => page + 4 * (count - 1 - i));
