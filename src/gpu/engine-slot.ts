/**
 * A vGPU's seat at the engine of its physical GPU: asks for the engine, accounts for what it does with it, hands it on.
 * Shared memory alone: no message, no thread that decides for the others. Who owns the engine decides who is next.
 *
 * Ordering argument. Owning the engine is a lock on all plain words (clock, floor, virtual times): an owner writes them
 * before it stores the owner word, and the next reads them after it has loaded or exchanged that word. No request is
 * lost: who wants sets its bit, then looks at the owner word; who frees the engine stores the owner word, then
 * looks at the bits. All four are sequentially consistent, so one of the two sees the other. A seat that is given the
 * engine is rung at its device's doorbell, whose sequence it reads before it looks here.
 *
 * No wait in here, and none without an end: a waiting device sleeps on its own doorbell and looks again at least once a
 * second. An owner that renews its lease no more, because its thread died or hangs, is then passed over. It may
 * still be at work and notice late; two vGPUs then run at once, which harms nothing but the accounting: what
 * memory a vGPU may touch is settled by its pins, never by the engine.
 */

import { nowUs } from '#host';
import * as mem from '#mem';
import { RING_ENGINE, ringDevice } from '../channel/device-link.ts';
import {
  GpuWord,
  glanceTime,
  othersWant,
  readTime,
  SEATS_LIMIT,
  SeatWord,
  SHARE_ONE,
  seatWord,
  waitBucket,
  wantBit,
  wantingSeats,
  wantWord,
  writeTime,
} from './layout.ts';
import { type EngineTimes, type PolicyRules, RULES } from './policy.ts';

const { add, and, cas, ld, or, rd, st, wordsOf, wr } = mem;

/** An owner that has not renewed for so long is passed over. Far above what a thread waits for a core. */
export const LEASE_MS = 250;
/** The most that one gap in which nobody may run advances the engine's clock: a late thread must cost nobody's share. */
const IDLE_GAP_US = 10_000;
const FREE = 0;

/** `granted`: run a piece of work. `queued`: the doorbell rings when it is time. `soon`: ask again in milliseconds. */
export type Grant = 'granted' | 'queued' | 'soon';

/** What a vGPU is given. */
export interface SeatHandle {
  readonly gpu: SharedArrayBuffer;
  readonly seat: number;
  /** Links of all vGPUs on this GPU, by seat. */
  readonly links: readonly SharedArrayBuffer[];
  /** What its type gives it of the GPU's memory. */
  readonly vramMiB?: number | undefined;
}

interface Candidate {
  readonly seat: number;
  readonly mayRun: boolean;
}

const seatOf = (owner: number): number => (owner & 0xff) - 1;

export class EngineSeat {
  readonly #words: mem.SharedWords;
  readonly #seat: number;
  readonly #links: readonly SharedArrayBuffer[];
  readonly #clockUs: () => number;
  /** The term in which this seat runs, or decides who does; 0 for none. */
  #term = FREE;
  #turnNs = 0;
  /** Engine time since when this seat has wanted the engine; undefined while it has it, or has no work. */
  #since: number | undefined;
  #wanting = false;
  /** Seats that wanted the engine when this one last looked. */
  #seen = new Set<number>();

  /** `clockUs` is for tests: the clock of leases and of gaps. */
  constructor({ gpu, seat, links }: SeatHandle, clockUs: () => number = nowUs) {
    if (seat < 0 || seat >= SEATS_LIMIT)
      throw new RangeError(`seat ${seat} of a GPU; accepted: 0 to ${SEATS_LIMIT - 1}`);
    this.#words = wordsOf(gpu);
    this.#seat = seat;
    this.#links = links;
    this.#clockUs = clockUs;
  }

  /** Asks for the engine, for work that is there. To be called before every piece of work. */
  acquire(): Grant {
    const owner = ld(this.#words, GpuWord.owner, 'engine.owner');
    if (this.#term !== FREE && owner === this.#term) return 'granted';
    this.#term = FREE;
    this.#want();
    // Again: whoever was the owner before the bit was set may not have seen it.
    return this.#claim(ld(this.#words, GpuWord.owner, 'engine.owner'));
  }

  /**
   * Books `ns` of engine time for work that was granted; `more`: there is work left. The engine may change hands.
   */
  charge(ns: number, atCommandEnd: boolean, more: boolean): void {
    const words = this.#words;
    const rules = this.#rules;
    if (atCommandEnd) this.#bump(SeatWord.commands);
    this.#addTime(SeatWord.busy, ns);
    this.#setVirtual(rules.worked(this.#virtual(this.#seat), ns, this.#share));
    if (ld(words, GpuWord.owner, 'engine.owner') !== this.#term) {
      this.#term = FREE; // passed over
      return;
    }
    writeTime(words, GpuWord.clock, readTime(words, GpuWord.clock) + ns);
    this.#turnNs += ns;
    if (!more) {
      this.rest();
      return;
    }
    this.#renew();
    if (rules.turnEnds(this.#turnNs, this.#times.sliceNs, atCommandEnd)) this.#endTurn();
  }

  /** Says that there is no work: gives the engine on if this seat has it, or has just been given it. */
  rest(): void {
    if (this.#wanting) {
      and(this.#words, wantWord(this.#seat), ~wantBit(this.#seat), 'engine.want');
      this.#wanting = false;
    }
    this.#since = undefined;
    const owner = ld(this.#words, GpuWord.owner, 'engine.owner');
    this.#term = FREE;
    if (owner === FREE || seatOf(owner) !== this.#seat) return;
    if (othersWant(this.#words, -1)) this.#dispatch();
    else {
      this.#seen.clear();
      this.#free();
    }
  }

  get #share(): number {
    return ld(this.#words, seatWord(this.#seat, SeatWord.share), 'engine.seat') / SHARE_ONE;
  }

  get #rules(): PolicyRules {
    return RULES[rd(this.#words, GpuWord.policy, 'engine.policy')] as PolicyRules;
  }

  get #times(): EngineTimes {
    return {
      clock: readTime(this.#words, GpuWord.clock),
      floor: readTime(this.#words, GpuWord.floor),
      sliceNs: ld(this.#words, GpuWord.sliceNs, 'engine.policy'),
    };
  }

  #want(): void {
    this.#wanting = true;
    this.#since ??= glanceTime(this.#words, GpuWord.clock);
    // Every time: who passes this seat over clears the bit.
    or(this.#words, wantWord(this.#seat), wantBit(this.#seat), 'engine.want');
  }

  #claim(owner: number): Grant {
    if (owner !== FREE && seatOf(owner) === this.#seat) return this.#begin(owner);
    if (owner !== FREE && !this.#leaseIsOver()) return 'queued';
    const term = this.#newTerm(this.#seat);
    // First the lease, then the engine: nobody may find the new owner with an old lease.
    this.#renew();
    const found = cas(this.#words, GpuWord.owner, owner, term, 'engine.owner');
    if (found !== owner) return seatOf(found) === this.#seat ? this.#begin(found) : 'queued';
    if (owner !== FREE) return this.#passOver(seatOf(owner), term);
    this.#term = term;
    this.#adoptPolicy();
    if (this.#rules.capped) this.#passIdleTime();
    else if (!othersWant(this.#words, this.#seat)) return this.#begin(term);
    return this.#dispatch();
  }

  /** Takes the place of an owner that is silent; it is asked again when it asks itself. */
  #passOver(silent: number, term: number): Grant {
    and(this.#words, wantWord(silent), ~wantBit(silent), 'engine.want');
    add(this.#words, GpuWord.leasesBroken, 1, 'engine.lease');
    return this.#begin(term);
  }

  /** Decides who is next, while this seat owns the engine: itself ('granted'), another, or nobody. */
  #dispatch(): Grant {
    this.#adoptPolicy();
    const next = this.#choose();
    if (next?.mayRun) {
      if (next.seat === this.#seat) return this.#begin(this.#term);
      this.#handOver(next.seat);
      return 'queued';
    }
    this.#free();
    if (next?.seat === this.#seat) return 'soon';
    if (next) this.#ring(next.seat); // it is the one to ask again until it may run
    return 'queued';
  }

  /** The wanting seat with the smallest virtual time. */
  #choose(): Candidate | undefined {
    const times = this.#times;
    const rules = this.#rules;
    let best = -1;
    let least = Number.POSITIVE_INFINITY;
    this.#seen = new Set(wantingSeats(this.#words));
    for (const seat of this.#seen) {
      if (ld(this.#words, seatWord(seat, SeatWord.share), 'engine.seat') === 0) continue;
      const virtual = rules.effective(this.#virtual(seat), times);
      if (virtual < least) [best, least] = [seat, virtual];
    }
    return best < 0 ? undefined : { seat: best, mayRun: rules.mayRun(least, times) };
  }

  #begin(term: number): Grant {
    const words = this.#words;
    this.#term = term;
    this.#renew();
    const times = this.#times;
    const virtual = this.#rules.effective(this.#virtual(this.#seat), times);
    if (virtual > times.floor) writeTime(words, GpuWord.floor, virtual);
    this.#setVirtual(this.#rules.begun(virtual, times));
    this.#turnNs = 0;
    this.#bump(SeatWord.turns);
    if (this.#since !== undefined) {
      const waited = Math.max(0, times.clock - this.#since);
      this.#addTime(SeatWord.waited, waited);
      this.#bump(SeatWord.waits + waitBucket(waited));
      this.#since = undefined;
    }
    return 'granted';
  }

  /** The slice is used up and there is work left: another's turn, unless this seat is the next as well. */
  #endTurn(): void {
    const since = readTime(this.#words, GpuWord.clock);
    if (this.#dispatch() === 'granted') return;
    this.#since = since;
    this.#bump(SeatWord.preemptions);
  }

  #handOver(seat: number): void {
    this.#term = FREE;
    this.#renew();
    st(this.#words, GpuWord.owner, this.#newTerm(seat), 'engine.owner');
    this.#ring(seat);
  }

  #free(): void {
    const words = this.#words;
    this.#term = FREE;
    if (this.#rules.capped) st(words, GpuWord.freeSince, this.#clockUs() | 0, 'engine.clock');
    st(words, GpuWord.owner, FREE, 'engine.owner');
    // Who asked in between found the engine taken. One is enough: it decides among all.
    if (!othersWant(words, -1)) return;
    for (const seat of wantingSeats(words)) {
      if (this.#seen.has(seat)) continue;
      this.#ring(seat);
      return;
    }
  }

  /** Puts the policy in force that the host asks for: everybody starts anew. */
  #adoptPolicy(): void {
    const words = this.#words;
    const wanted = ld(words, GpuWord.wantedPolicy, 'engine.policy');
    if (wanted === rd(words, GpuWord.policy, 'engine.policy')) return;
    const clock = readTime(words, GpuWord.clock);
    for (let seat = 0; seat < SEATS_LIMIT; seat++) writeTime(words, seatWord(seat, SeatWord.virtual), clock);
    writeTime(words, GpuWord.floor, clock);
    wr(words, GpuWord.policy, wanted, 'engine.policy');
  }

  /** The gap in which nobody ran, on the clock of an engine whose shares are caps. */
  #passIdleTime(): void {
    const gapUs = (this.#clockUs() - ld(this.#words, GpuWord.freeSince, 'engine.clock')) | 0;
    const passedNs = Math.min(IDLE_GAP_US, Math.max(0, gapUs)) * 1000;
    writeTime(this.#words, GpuWord.clock, readTime(this.#words, GpuWord.clock) + passedNs);
  }

  #leaseIsOver(): boolean {
    const lease = ld(this.#words, GpuWord.lease, 'engine.lease');
    return ((this.#clockUs() - lease) | 0) > 0;
  }

  #renew(): void {
    st(this.#words, GpuWord.lease, (this.#clockUs() + LEASE_MS * 1000) | 0, 'engine.lease');
  }

  #newTerm(seat: number): number {
    const count = add(this.#words, GpuWord.terms, 1, 'engine.owner') & 0x7f_ffff;
    return (count << 8) | (seat + 1);
  }

  #ring(seat: number): void {
    const link = this.#links[seat];
    if (link) ringDevice(link, RING_ENGINE);
  }

  #virtual(seat: number): number {
    return readTime(this.#words, seatWord(seat, SeatWord.virtual));
  }

  #setVirtual(value: number): void {
    writeTime(this.#words, seatWord(this.#seat, SeatWord.virtual), value);
  }

  #bump(word: number): void {
    const at = seatWord(this.#seat, word);
    wr(this.#words, at, rd(this.#words, at, 'engine.figures') + 1, 'engine.figures');
  }

  #addTime(word: number, ns: number): void {
    const at = seatWord(this.#seat, word);
    writeTime(this.#words, at, readTime(this.#words, at) + ns);
  }
}
