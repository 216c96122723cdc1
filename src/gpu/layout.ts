/**
 * The memory that the vGPUs of one physical GPU share: who owns its engine, who wants it, and a slot for each.
 *
 * Times are engine time: nanoseconds of the cost model (cost.ts) on the GPU's own clock. A time is two int32 words,
 * low and high, exact to 2^53 ns = 104 days.
 */
import * as mem from '#mem';

const { ld, rd, wr } = mem;

/** vGPUs of one physical GPU: more than any vendor's types allow, and few enough that a scan of all is cheap. */
export const SLOTS_LIMIT = 64;

/** Words of the GPU as a whole. */
export const GpuWord = {
  /** 0 if the engine is free, else the owner's term: a count in the upper 24 bits, its slot + 1 in the lower 8. */
  owner: 0,
  /** Counts terms, so that a term is never taken for an older one of the same slot. */
  terms: 1,
  /** When the owner's lease ends: low 32 bits of microseconds. */
  lease: 2,
  /** The policy in force, and the one that the host asks for, which the next owner puts in force. */
  policy: 3,
  wantedPolicy: 4,
  sliceNs: 5,
  /** Bitmap of the slots that have work and not the engine, or have it and work left. */
  want: 6,
  /** Engine time. */
  clock: 8,
  /** Virtual time of the slot chosen last: who comes back from idleness starts near it. */
  floor: 10,
  /** When the engine became free: low 32 bits of microseconds. */
  freeSince: 12,
  leasesBroken: 13,
} as const;
const WANT_WORDS = SLOTS_LIMIT / 32;
const HEADER_WORDS = 16;

/** Words of one slot. All but `share` are written by its own vGPU while that owns the engine. */
export const SlotWord = {
  /** Parts of SHARE_ONE; 0 for an empty slot. Written by the host. */
  share: 0,
  turns: 1,
  preemptions: 2,
  commands: 3,
  virtual: 4,
  busy: 6,
  waited: 8,
  /** Histogram of waits. */
  waits: 16,
} as const;
/** Buckets of a wait histogram: WAIT_STEPS per power of two, from 0 to 2^WAIT_OCTAVES µs. */
const WAIT_STEPS = 8;
const WAIT_OCTAVES = 24;
export const WAIT_BUCKETS: number = WAIT_STEPS * WAIT_OCTAVES;
const SLOT_WORDS = 256;

/** The whole engine, as a share. */
export const SHARE_ONE = 2 ** 20;

export const GPU_BYTES: number = (HEADER_WORDS + SLOTS_LIMIT * SLOT_WORDS) * 4;

if (SlotWord.waits + WAIT_BUCKETS > SLOT_WORDS) throw new Error('a slot does not hold its histogram');

/** Index of a slot's word. */
export const slotWord = (slot: number, word: number): number => HEADER_WORDS + slot * SLOT_WORDS + word;

/** Index of the bitmap's word that holds the slot's bit. */
export const wantWord = (slot: number): number => GpuWord.want + (slot >>> 5);
export const wantBit = (slot: number): number => 1 << (slot & 31);

/** True if a slot other than this one wants the engine; -1 for any slot. */
export function othersWant(words: mem.SharedWords, slot: number): boolean {
  for (let word = 0; word < WANT_WORDS; word++) {
    const own = slot >>> 5 === word ? wantBit(slot) : 0;
    if ((ld(words, GpuWord.want + word, 'engine.want') & ~own) !== 0) return true;
  }
  return false;
}

/** The slots whose bits are set, in order. */
export function* wantingSlots(words: mem.SharedWords): Iterable<number> {
  for (let word = 0; word < WANT_WORDS; word++) {
    let bits = ld(words, GpuWord.want + word, 'engine.want');
    while (bits !== 0) {
      yield word * 32 + 31 - Math.clz32(bits & -bits);
      bits &= bits - 1;
    }
  }
}

/** The owner's: nobody else writes, so the two halves belong together. */
export const readTime = (words: mem.SharedWords, index: number): number =>
  rd(words, index + 1, 'engine.clock') * 2 ** 32 + (rd(words, index, 'engine.clock') >>> 0);

export const writeTime = (words: mem.SharedWords, index: number, value: number): void => {
  wr(words, index + 1, Math.floor(value / 2 ** 32), 'engine.clock');
  wr(words, index, (value % 2 ** 32) | 0, 'engine.clock');
};

/** Tries of a reader that does not own the engine; the upper half changes every 4.3 s of engine time. */
const GLANCES = 3;

/** Anyone's: a time that somebody else may be writing. */
export function readTimeRelaxed(words: mem.SharedWords, index: number): number {
  let low = 0;
  let high = ld(words, index + 1, 'engine.stats');
  for (let i = 0; i < GLANCES; i++) {
    const before = high;
    low = ld(words, index, 'engine.stats');
    high = ld(words, index + 1, 'engine.stats');
    if (high === before) break;
  }
  return high * 2 ** 32 + (low >>> 0);
}

/** The bucket of a wait in engine time. */
export function waitBucket(waitNs: number): number {
  const us = waitNs / 1000;
  return us < 1 ? 0 : Math.min(WAIT_BUCKETS - 1, 1 + Math.floor(Math.log2(us) * WAIT_STEPS));
}

/** Upper end of a bucket, in microseconds of engine time; 9 % above its lower end. */
export const bucketUs = (bucket: number): number => (bucket === 0 ? 0 : 2 ** (bucket / WAIT_STEPS));
