/**
 * A physical GPU in its host process: its vGPUs, the scheduling of its engine, and statistics.
 */
import * as mem from '#mem';
import { RING_ENGINE, ringDevice } from '../channel/device-link.ts';
import type { GpuSlotHandle } from './engine-slot.ts';
import {
  GPU_BYTES,
  GpuWord,
  readTimeRelaxed,
  SHARE_ONE,
  SLOTS_LIMIT,
  SlotWord,
  slotWord,
  wantBit,
  wantingSlots,
  wantWord,
} from './layout.ts';
import { checkScheduling, DEFAULT_SCHEDULING, POLICIES, type Scheduling } from './policy.ts';
import { readSlotStats, type VgpuStats } from './stats.ts';
import { GPU_VRAM_MIB, type VgpuType } from './types.ts';

const { and, cas, ld, st, wordsOf } = mem;

/** Thrown when a vGPU does not fit. */
export class GpuFullError extends Error {
  override name = 'GpuFullError';
}

interface Occupant {
  readonly name: string;
  readonly type: VgpuType;
  readonly link: SharedArrayBuffer;
}

export class PhysicalGpu {
  readonly vramMiB: number;
  readonly #sab = new SharedArrayBuffer(GPU_BYTES);
  readonly #words = wordsOf(this.#sab);
  /** By slot. A released slot is not reused, because the other slots know its link. */
  readonly #occupants: Occupant[] = [];
  readonly #left = new Set<number>();

  constructor(scheduling: Scheduling = DEFAULT_SCHEDULING, vramMiB: number = GPU_VRAM_MIB) {
    this.vramMiB = vramMiB;
    this.schedule(scheduling);
    // There is no vGPU yet, so the first policy is in force at once.
    st(this.#words, GpuWord.policy, POLICIES.indexOf(scheduling.policy), 'engine.policy');
  }

  /** Returns how many more vGPUs of the type fit, by memory, engine share and slots. */
  available({ vramMiB, share }: VgpuType): number {
    const here = this.#occupants.filter((_, slot) => !this.#left.has(slot));
    const memory = this.vramMiB - here.reduce((sum, { type }) => sum + type.vramMiB, 0);
    const engine = 1 - here.reduce((sum, { type }) => sum + type.share, 0);
    return Math.min(
      Math.floor(memory / vramMiB),
      Math.floor(engine / share + 1e-9),
      SLOTS_LIMIT - this.#occupants.length,
    );
  }

  /** True if every vGPU that was placed here has left. */
  get isDeserted(): boolean {
    return this.#left.size === this.#occupants.length;
  }

  /** Assigns a slot to a vGPU. Returns its number. @throws GpuFullError */
  place(name: string, type: VgpuType, link: SharedArrayBuffer): number {
    if (this.available(type) < 1) throw new GpuFullError(`${name}: no room for a ${type.id} on this GPU`);
    const slot = this.#occupants.push({ name, type, link }) - 1;
    const share = Math.max(1, Math.round(type.share * SHARE_ONE));
    st(this.#words, slotWord(slot, SlotWord.share), share, 'engine.slot');
    return slot;
  }

  /** Returns the slot for the vGPU's worker. All vGPUs of the GPU must have been placed. */
  handle(slot: number): GpuSlotHandle {
    const vramMiB = this.#occupants[slot]?.type.vramMiB;
    return { gpu: this.#sab, slot, links: this.#occupants.map(({ link }) => link), vramMiB };
  }

  /** Frees the slot of a vGPU whose thread has ended. If it owned the engine, the engine becomes free. */
  release(slot: number): void {
    const words = this.#words;
    this.#left.add(slot);
    st(words, slotWord(slot, SlotWord.share), 0, 'engine.slot');
    and(words, wantWord(slot), ~wantBit(slot), 'engine.want');
    const owner = ld(words, GpuWord.owner, 'engine.owner');
    if ((owner & 0xff) === slot + 1) cas(words, GpuWord.owner, owner, 0, 'engine.owner');
    for (const waiting of wantingSlots(words)) {
      const link = this.#occupants[waiting]?.link;
      if (link) ringDevice(link, RING_ENGINE);
    }
  }

  /** Sets the scheduling, from the next turn on. @throws RangeError */
  schedule(scheduling: Scheduling): void {
    checkScheduling(scheduling);
    st(this.#words, GpuWord.sliceNs, scheduling.sliceUs * 1000, 'engine.policy');
    st(this.#words, GpuWord.wantedPolicy, POLICIES.indexOf(scheduling.policy), 'engine.policy');
  }

  /** Returns the statistics of every vGPU since it was placed. */
  stats(gpu = 0): VgpuStats[] {
    return this.#occupants.map((_, slot) => this.statsOf(slot, gpu));
  }

  /** Returns the statistics of the vGPU that has been placed in this slot. */
  statsOf(slot: number, gpu = 0): VgpuStats {
    const { name, type } = this.#occupants[slot] as Occupant;
    const clockUs = readTimeRelaxed(this.#words, GpuWord.clock) / 1000;
    return { name, gpu, type: type.id, share: type.share, clockUs, ...readSlotStats(this.#words, slot) };
  }

  /** Count of owners that were passed over because they did not renew their lease. */
  get leasesBroken(): number {
    return ld(this.#words, GpuWord.leasesBroken, 'engine.stats');
  }
}
