/**
 * A vGPU's slot on the engine of its physical GPU. It acquires the engine, charges the work done, and hands the
 * engine over. All of this happens in shared memory: there are no messages and no arbiter thread. The owner of the
 * engine chooses the next owner.
 *
 * Ordering argument. All accesses to the owner word and to the want bits are sequentially consistent.
 *
 * The owner word is a lock on all plain words (clock, floor, virtual times, the policy in force):
 * 1. The owner writes the plain words.
 * 2. It stores the owner word.
 * 3. The next owner finds its own slot in the owner word, by a load or by its own exchange.
 * 4. It reads the plain words. Since 2 comes before 3, it reads the values of 1.
 *
 * No request is lost:
 * 1. A slot that wants the engine sets its want bit.
 * 2. It loads the owner word. It claims a free engine by compare-exchange; otherwise its device sleeps.
 * 3. An owner that frees the engine stores the owner word.
 * 4. It then loads the want bits. If it finds the bit of a slot that it has not considered, it rings that slot, which
 *    claims the engine and chooses among all.
 *
 * If 2 finds the engine taken, then 2 comes before 3. So 1 comes before 4, and 4 finds the bit. An owner that hands the
 * engine over leaves the bit to the next owner, which considers all bits when its turn ends.
 *
 * No handover is lost:
 * 1. A device reads the sequence of its doorbell, and then the owner word.
 * 2. The previous owner stores the owner word, and then rings the doorbell.
 * 3. The device sleeps only while the sequence is the one of 1. Either it has found the new owner word, or the ring
 *    of 2 comes after its read of the sequence and ends its sleep.
 *
 * Nothing here blocks. A waiting device sleeps on its own doorbell and rechecks at least once a second. If the owner
 * stops renewing its lease, because its thread died or hung, the next device takes over the engine. The old owner may
 * still be at work and notice late. Two vGPUs then run at once, which affects only the accounting: the memory that a
 * vGPU may access depends on its pins, not on the engine.
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
  waitOctaveBit,
  wantBit,
  wantingSlots,
  wantWord,
  writeTime,
} from './layout.ts';
import { type EngineTimes, type PolicyRules, RULES } from './policy.ts';

const { add, and, cas, ld, or, rd, st, wordsOf, wr } = mem;

/**
 * An owner that has not renewed its lease for this long is passed over. Far above the time for which a thread waits
 * for a core.
 */
export const LEASE_MS = 250;
/**
 * Most that one gap in which no slot may run advances the engine's clock, so that a late thread costs no slot its
 * share.
 */
const IDLE_GAP_US = 10_000;
const FREE = 0;

/**
 * `granted`: run a piece of work. `queued`: the doorbell will ring. `retry`: the share is used up; ask again in
 * milliseconds.
 */
export type Grant = 'granted' | 'queued' | 'retry';

/** A slot on a physical GPU, as it is passed to the vGPU's worker. */
export interface GpuSlotHandle {
  readonly gpu: SharedArrayBuffer;
  readonly slot: number;
  /** Links of all vGPUs on this GPU, by slot. */
  readonly links: readonly SharedArrayBuffer[];
  /** The part of the GPU's memory that the vGPU's type has. */
  readonly vramMiB?: number | undefined;
  /** Wakes the vGPU of a slot, if it sleeps on something else than its link. */
  readonly ring?: (slot: number) => void;
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
  readonly #wake: ((slot: number) => void) | undefined;
  /** The term in which this slot runs or chooses the next owner; 0 for none. */
  #term = FREE;
  #turnNs = 0;
  /** Engine time since which this slot has wanted the engine; undefined while it owns it or has no work. */
  #since: number | undefined;
  #wanting = false;
  /** Slots that wanted the engine when this slot last chose. */
  #considered = new Set<number>();

  /** `clockUs` is the clock of leases and gaps, which tests replace. */
  constructor({ gpu, slot, links, ring }: GpuSlotHandle, clockUs: () => number = nowUs) {
    if (slot < 0 || slot >= SLOTS_LIMIT)
      throw new RangeError(`slot ${slot} of a GPU; accepted: 0 to ${SLOTS_LIMIT - 1}`);
    this.#words = wordsOf(gpu);
    this.#slot = slot;
    this.#links = links;
    this.#clockUs = clockUs;
    this.#wake = ring;
  }

  /** Requests the engine for pending work. Must be called before every piece of work. */
  acquire(): Grant {
    const owner = ld(this.#words, GpuWord.owner, 'engine.owner');
    if (this.#term !== FREE && owner === this.#term) return 'granted';
    this.#term = FREE;
    this.#request();
    // A second load: the owner before the bit was set may not have seen the bit.
    return this.#claim(ld(this.#words, GpuWord.owner, 'engine.owner'));
  }

  /** Charges `ns` of engine time for granted work. `more` is true if there is work left. The owner may change. */
  charge(ns: number, atCommandEnd: boolean, more: boolean): void {
    const words = this.#words;
    const rules = this.#rules;
    if (atCommandEnd) this.#bump(SlotWord.commands);
    this.#addTime(SlotWord.busy, ns);
    this.#setVirtual(rules.worked(this.#virtual(this.#slot), ns, this.#share));
    if (ld(words, GpuWord.owner, 'engine.owner') !== this.#term) {
      this.#term = FREE; // this slot was passed over
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

  /** Withdraws the request, because there is no work. Hands the engine over or frees it, if this slot owns it. */
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
      this.#considered.clear();
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
    // Every time, because a slot that passes this one over clears the bit.
    or(this.#words, wantWord(this.#slot), wantBit(this.#slot), 'engine.want');
  }

  #claim(owner: number): Grant {
    if (owner !== FREE && slotOf(owner) === this.#slot) return this.#begin(owner);
    if (owner !== FREE && !this.#leaseIsOver()) return 'queued';
    const term = this.#newTerm(this.#slot);
    // The lease before the owner word: no slot may find the new owner with an old lease.
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

  /** Takes the engine over from an owner whose lease has ended. That owner must request the engine again. */
  #passOver(silent: number, term: number): Grant {
    and(this.#words, wantWord(silent), ~wantBit(silent), 'engine.want');
    add(this.#words, GpuWord.leasesBroken, 1, 'engine.lease');
    return this.#begin(term);
  }

  /** Chooses the next owner, while this slot owns the engine: itself ('granted'), another slot, or none. */
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
    if (next) this.#ring(next.slot); // that slot retries until it may run
    return 'queued';
  }

  /** Returns the wanting slot with the smallest virtual time. */
  #choose(): Candidate | undefined {
    const times = this.#times;
    const rules = this.#rules;
    let best = -1;
    let least = Number.POSITIVE_INFINITY;
    this.#considered = new Set(wantingSlots(this.#words));
    for (const slot of this.#considered) {
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
      const bucket = waitBucket(waited);
      this.#bump(SlotWord.waits + bucket);
      const octaves = slotWord(this.#slot, SlotWord.waitOctaves);
      wr(words, octaves, rd(words, octaves, 'engine.stats') | waitOctaveBit(bucket), 'engine.stats');
      this.#since = undefined;
    }
    return 'granted';
  }

  /** Ends the turn with work left. This slot continues only if it is also the next. */
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
    // A slot that asked meanwhile found the engine taken. Ringing one is enough, because it chooses among all.
    if (!othersWant(words, -1)) return;
    for (const slot of wantingSlots(words)) {
      if (this.#considered.has(slot)) continue;
      this.#ring(slot);
      return;
    }
  }

  /** Puts the policy that the host wants in force. All slots start with equal virtual times. */
  #adoptPolicy(): void {
    const words = this.#words;
    const wanted = ld(words, GpuWord.wantedPolicy, 'engine.policy');
    if (wanted === rd(words, GpuWord.policy, 'engine.policy')) return;
    const clock = readTime(words, GpuWord.clock);
    for (let slot = 0; slot < SLOTS_LIMIT; slot++) writeTime(words, slotWord(slot, SlotWord.virtual), clock);
    writeTime(words, GpuWord.floor, clock);
    wr(words, GpuWord.policy, wanted, 'engine.policy');
  }

  /** Advances the clock by the gap in which no slot ran; only for a policy whose shares are caps. */
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
    if (this.#wake) this.#wake(slot);
    else if (link) ringDevice(link, RING_ENGINE);
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
