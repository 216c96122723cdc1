/**
 * A vGPU's slot at the engine of its physical GPU: asks for the engine, accounts for what it does with it, hands it on.
 * Shared memory alone: no message, no thread that decides for the others. Who owns the engine decides who is next.
 *
 * Ordering argument. Owning the engine is a lock on all plain words (clock, floor, virtual times): an owner writes them
 * before it stores the owner word, and the next reads them after it has loaded or exchanged that word. No request is
 * lost: who wants sets its bit, then looks at the owner word; who frees the engine stores the owner word, then
 * looks at the bits. All four are sequentially consistent, so one of the two sees the other. A slot that is given the
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
  othersWant,
  readTime,
  readTimeRelaxed,
  SHARE_ONE,
  SLOTS_LIMIT,
  SlotWord,
  slotWord,
  waitBucket,
  wantBit,
  wantingSlots,
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
export type Grant = 'granted' | 'queued' | 'retry';

/** What a vGPU is given. */
export interface GpuSlotHandle {
  readonly gpu: SharedArrayBuffer;
  readonly slot: number;
  /** Links of all vGPUs on this GPU, by slot. */
  readonly links: readonly SharedArrayBuffer[];
  /** What its type gives it of the GPU's memory. */
  readonly vramMiB?: number | undefined;
}

interface Candidate {
  readonly slot: number;
  readonly mayRun: boolean;
}

const slotOf = (owner: number): number => (owner & 0xff) - 1;

export class EngineSlot {
  readonly #words: mem.SharedWords;
  readonly #slot: number;
  readonly #links: readonly SharedArrayBuffer[];
  readonly #clockUs: () => number;
  /** The term in which this slot runs, or decides who does; 0 for none. */
  #term = FREE;
  #turnNs = 0;
  /** Engine time since when this slot has wanted the engine; undefined while it has it, or has no work. */
  #since: number | undefined;
  #wanting = false;
  /** Slots that wanted the engine when this one last looked. */
  #seen = new Set<number>();

  /** `clockUs` is for tests: the clock of leases and of gaps. */
  constructor({ gpu, slot, links }: GpuSlotHandle, clockUs: () => number = nowUs) {
    if (slot < 0 || slot >= SLOTS_LIMIT)
      throw new RangeError(`slot ${slot} of a GPU; accepted: 0 to ${SLOTS_LIMIT - 1}`);
    this.#words = wordsOf(gpu);
    this.#slot = slot;
    this.#links = links;
    this.#clockUs = clockUs;
  }

  /** Asks for the engine, for work that is there. To be called before every piece of work. */
  acquire(): Grant {
    const owner = ld(this.#words, GpuWord.owner, 'engine.owner');
    if (this.#term !== FREE && owner === this.#term) return 'granted';
    this.#term = FREE;
    this.#request();
    // Again: whoever was the owner before the bit was set may not have seen it.
    return this.#claim(ld(this.#words, GpuWord.owner, 'engine.owner'));
  }

  /**
   * Books `ns` of engine time for work that was granted; `more`: there is work left. The engine may change hands.
   */
  charge(ns: number, atCommandEnd: boolean, more: boolean): void {
    const words = this.#words;
    const rules = this.#rules;
    if (atCommandEnd) this.#bump(SlotWord.commands);
    this.#addTime(SlotWord.busy, ns);
    this.#setVirtual(rules.worked(this.#virtual(this.#slot), ns, this.#share));
    if (ld(words, GpuWord.owner, 'engine.owner') !== this.#term) {
      this.#term = FREE; // passed over
      return;
    }
    writeTime(words, GpuWord.clock, readTime(words, GpuWord.clock) + ns);
    this.#turnNs += ns;
    if (!more) {
      this.release();
      return;
    }
    this.#renew();
    if (rules.turnEnds(this.#turnNs, this.#times.sliceNs, atCommandEnd)) this.#endTurn();
  }

  /** Says that there is no work: gives the engine on if this slot has it, or has just been given it. */
  release(): void {
    if (this.#wanting) {
      and(this.#words, wantWord(this.#slot), ~wantBit(this.#slot), 'engine.want');
      this.#wanting = false;
    }
    this.#since = undefined;
    const owner = ld(this.#words, GpuWord.owner, 'engine.owner');
    this.#term = FREE;
    if (owner === FREE || slotOf(owner) !== this.#slot) return;
    if (othersWant(this.#words, -1)) this.#dispatch();
    else {
      this.#seen.clear();
      this.#free();
    }
  }

  get #share(): number {
    return ld(this.#words, slotWord(this.#slot, SlotWord.share), 'engine.slot') / SHARE_ONE;
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

  #request(): void {
    this.#wanting = true;
    this.#since ??= readTimeRelaxed(this.#words, GpuWord.clock);
    // Every time: who passes this slot over clears the bit.
    or(this.#words, wantWord(this.#slot), wantBit(this.#slot), 'engine.want');
  }

  #claim(owner: number): Grant {
    if (owner !== FREE && slotOf(owner) === this.#slot) return this.#begin(owner);
    if (owner !== FREE && !this.#leaseIsOver()) return 'queued';
    const term = this.#newTerm(this.#slot);
    // First the lease, then the engine: nobody may find the new owner with an old lease.
    this.#renew();
    const found = cas(this.#words, GpuWord.owner, owner, term, 'engine.owner');
    if (found !== owner) return slotOf(found) === this.#slot ? this.#begin(found) : 'queued';
    if (owner !== FREE) return this.#passOver(slotOf(owner), term);
    this.#term = term;
    this.#adoptPolicy();
    if (this.#rules.capped) this.#passIdleTime();
    else if (!othersWant(this.#words, this.#slot)) return this.#begin(term);
    return this.#dispatch();
  }

  /** Takes the place of an owner that is silent; it is asked again when it asks itself. */
  #passOver(silent: number, term: number): Grant {
    and(this.#words, wantWord(silent), ~wantBit(silent), 'engine.want');
    add(this.#words, GpuWord.leasesBroken, 1, 'engine.lease');
    return this.#begin(term);
  }

  /** Decides who is next, while this slot owns the engine: itself ('granted'), another, or nobody. */
  #dispatch(): Grant {
    this.#adoptPolicy();
    const next = this.#choose();
    if (next?.mayRun) {
      if (next.slot === this.#slot) return this.#begin(this.#term);
      this.#handOver(next.slot);
      return 'queued';
    }
    this.#free();
    if (next?.slot === this.#slot) return 'retry';
    if (next) this.#ring(next.slot); // it is the one to ask again until it may run
    return 'queued';
  }

  /** The wanting slot with the smallest virtual time. */
  #choose(): Candidate | undefined {
    const times = this.#times;
    const rules = this.#rules;
    let best = -1;
    let least = Number.POSITIVE_INFINITY;
    this.#seen = new Set(wantingSlots(this.#words));
    for (const slot of this.#seen) {
      if (ld(this.#words, slotWord(slot, SlotWord.share), 'engine.slot') === 0) continue;
      const virtual = rules.effective(this.#virtual(slot), times);
      if (virtual < least) [best, least] = [slot, virtual];
    }
    return best < 0 ? undefined : { slot: best, mayRun: rules.mayRun(least, times) };
  }

  #begin(term: number): Grant {
    const words = this.#words;
    this.#term = term;
    this.#renew();
    const times = this.#times;
    const virtual = this.#rules.effective(this.#virtual(this.#slot), times);
    if (virtual > times.floor) writeTime(words, GpuWord.floor, virtual);
    this.#setVirtual(this.#rules.begun(virtual, times));
    this.#turnNs = 0;
    this.#bump(SlotWord.turns);
    if (this.#since !== undefined) {
      const waited = Math.max(0, times.clock - this.#since);
      this.#addTime(SlotWord.waited, waited);
      this.#bump(SlotWord.waits + waitBucket(waited));
      this.#since = undefined;
    }
    return 'granted';
  }

  /** The slice is used up and there is work left: another's turn, unless this slot is the next as well. */
  #endTurn(): void {
    const since = readTime(this.#words, GpuWord.clock);
    if (this.#dispatch() === 'granted') return;
    this.#since = since;
    this.#bump(SlotWord.preemptions);
  }

  #handOver(slot: number): void {
    this.#term = FREE;
    this.#renew();
    st(this.#words, GpuWord.owner, this.#newTerm(slot), 'engine.owner');
    this.#ring(slot);
  }

  #free(): void {
    const words = this.#words;
    this.#term = FREE;
    if (this.#rules.capped) st(words, GpuWord.freeSince, this.#clockUs() | 0, 'engine.clock');
    st(words, GpuWord.owner, FREE, 'engine.owner');
    // Who asked in between found the engine taken. One is enough: it decides among all.
    if (!othersWant(words, -1)) return;
    for (const slot of wantingSlots(words)) {
      if (this.#seen.has(slot)) continue;
      this.#ring(slot);
      return;
    }
  }

  /** Puts the policy in force that the host asks for: everybody starts anew. */
  #adoptPolicy(): void {
    const words = this.#words;
    const wanted = ld(words, GpuWord.wantedPolicy, 'engine.policy');
    if (wanted === rd(words, GpuWord.policy, 'engine.policy')) return;
    const clock = readTime(words, GpuWord.clock);
    for (let slot = 0; slot < SLOTS_LIMIT; slot++) writeTime(words, slotWord(slot, SlotWord.virtual), clock);
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

  #newTerm(slot: number): number {
    const count = add(this.#words, GpuWord.terms, 1, 'engine.owner') & 0x7f_ffff;
    return (count << 8) | (slot + 1);
  }

  #ring(slot: number): void {
    const link = this.#links[slot];
    if (link) ringDevice(link, RING_ENGINE);
  }

  #virtual(slot: number): number {
    return readTime(this.#words, slotWord(slot, SlotWord.virtual));
  }

  #setVirtual(value: number): void {
    writeTime(this.#words, slotWord(this.#slot, SlotWord.virtual), value);
  }

  #bump(word: number): void {
    const at = slotWord(this.#slot, word);
    wr(this.#words, at, rd(this.#words, at, 'engine.stats') + 1, 'engine.stats');
  }

  #addTime(word: number, ns: number): void {
    const at = slotWord(this.#slot, word);
    writeTime(this.#words, at, readTime(this.#words, at) + ns);
  }
}
