/**
 * A ring of commands in guest RAM, as VT-d's invalidation queue and AMD-Vi's command buffer are: submits commands and
 * waits for completion.
 *
 * Several flows of one guest may submit concurrently: each submission owns consecutive descriptor slots, and a status
 * word that its own wait descriptor writes.
 */

import { nowUs } from '#host';
import { hex } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { InFlightError } from '../in-flight.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { RegisterPort } from '../register-port.ts';

/** Count of slots that stay empty: a full ring must not look empty, and a wait may complete before IQH passes it. */
const SPARE_SLOTS = 2;
/** Limit of commands in one submission, without its wait command. */
const SUBMISSION_LIMIT = 64;

/** A command as 32-bit words, the lowest first; further words of the ring's entry are 0. */
export type Descriptor = readonly [number, number, number, number];

/** Format of the commands of one kind of hardware. */
export interface RingFormat {
  /** Name in errors. */
  readonly name: string;
  /** Count of entries of a ring of one page, and the bytes of each. */
  readonly entries: number;
  readonly entryBytes: number;
  /** Bytes of a status word and of what the hardware writes after it. */
  readonly statusBytes: number;
  readonly tailRegister: number;
  /** Returns the command after whose predecessors the hardware writes `value` to the word at `statusGpa`. */
  waitCommand(statusGpa: number, value: number): Descriptor;
  /** Registers that a time-out reports. */
  readonly reported: readonly (readonly [name: string, offset: number, size: 4 | 8])[];
}

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

/** State of a ring beside its pages, with no submission in flight. */
export interface CommandRingState {
  /** GPA of the ring. */
  readonly ring: number;
  /** Index of the next entry. */
  readonly tail: number;
  /** Status data of the last wait command. */
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

/** A ring of one page. */
export class CommandRing {
  /** GPA of the ring. */
  protected readonly ring: number;
  protected readonly port: RegisterPort;
  readonly #ram: GuestRam;
  readonly #timeoutMs: number;
  readonly #format: RingFormat;
  readonly #freeStatus: number[];
  /** Submissions not known to be complete, in ring order. */
  readonly #inFlight: Submission[] = [];
  #tail: number;
  #used = 0;
  #value: number;

  /**
   * Allocates two pages: the ring and the status words.
   * @param saved state of an installed ring; then no page is allocated
   * @throws PageAllocatorExhausted
   */
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    timeoutMs: number,
    format: RingFormat,
    saved?: CommandRingState,
  ) {
    this.port = port;
    this.#ram = ram;
    this.#timeoutMs = timeoutMs;
    this.#format = format;
    this.ring = saved?.ring ?? pages.allocate();
    this.#tail = saved?.tail ?? 0;
    this.#value = saved?.value ?? 0;
    this.#freeStatus = saved ? [...saved.freeStatus] : statusWords(pages.allocate(), format);
  }

  /** Returns the state of the ring. @throws InFlightError while submissions are in flight */
  save(): CommandRingState {
    this.#reap();
    const { length } = this.#inFlight;
    if (length > 0) throw new InFlightError(`the ${this.#format.name}`, [`${length} submissions`]);
    return {
      ring: this.ring,
      tail: this.#tail,
      value: this.#value,
      freeStatus: [...this.#freeStatus],
    };
  }

  /**
   * Submits commands and a wait command; resolves when the hardware has completed them all.
   * @param what names the request in errors
   * @throws InvalidationTimeout, RangeError for more than SUBMISSION_LIMIT commands
   */
  async submit(commands: readonly Descriptor[], what: string): Promise<void> {
    if (commands.length > SUBMISSION_LIMIT)
      throw new RangeError(`${commands.length} commands in one submission; accepted: ${SUBMISSION_LIMIT}`);
    const slots = commands.length + 1;
    const deadline = nowUs() + this.#timeoutMs * 1000;
    while (!this.#fits(slots)) await this.#waitForRoom(deadline, what);
    // No await from the check above to the tail write, so that submissions neither interleave nor overrun.
    const submission = this.#begin(slots);
    const { entryBytes, tailRegister } = this.#format;
    for (const command of commands) this.#push(command);
    this.#push(this.#format.waitCommand(submission.statusGpa, submission.value));
    await this.port.write(tailRegister, 8, BigInt(this.#tail * entryBytes));
    await this.#settled(submission, this.#timeoutMs);
    if (!submission.done) throw await this.#timeout(what);
  }

  #fits(slots: number): boolean {
    this.#reap();
    return this.#used + slots <= this.#format.entries - SPARE_SLOTS;
  }

  /** Waits until the oldest submission is complete, which frees its slots. */
  async #waitForRoom(deadline: number, what: string): Promise<void> {
    const leftMs = Math.ceil((deadline - nowUs()) / 1000);
    if (leftMs <= 0) throw await this.#timeout(`free slots in the ${this.#format.name} for ${what}`);
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

  #push(command: Descriptor): void {
    const { entries, entryBytes } = this.#format;
    const at = this.ring + this.#tail * entryBytes;
    for (let i = 0; i < entryBytes / 4; i++) this.#ram.write32(at + 4 * i, command[i] ?? 0);
    this.#tail = (this.#tail + 1) % entries;
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
    const state: string[] = [];
    for (const [name, offset, size] of this.#format.reported)
      state.push(`${name} ${hex(await this.port.read(offset, size))}`);
    return new InvalidationTimeout(what, this.#timeoutMs, state.join(', '));
  }
}

/** Returns the GPAs of a status word for each entry; the lowest is last, to be used first. */
const statusWords = (page: number, { entries, statusBytes }: RingFormat): number[] =>
  Array.from({ length: entries }, (_, i) => page + statusBytes * (entries - 1 - i));
