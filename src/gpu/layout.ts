/**
 * Shared memory of the vGPUs of one physical GPU: the owner of its engine, the requests, and a slot for each vGPU.
 *
 * Times are engine time: nanoseconds of the cost model (cost.ts) on the GPU's own clock. A time is two int32 words,
 * low and high, exact to 2^53 ns = 104 days.
 */
import * as mem from '#mem';

const { ld, rd, st, wr } = mem;

/**
 * Slots of one physical GPU: more vGPUs than any vendor's types allow, and few enough that a scan of all is cheap.
 */
export const SLOTS_LIMIT = 64;

/** Words of the whole GPU. */
export const GpuWord = {
  /** 0 if the engine is free, else the owner's term: a count in the upper 24 bits, its slot + 1 in the lower 8. */
  owner: 0,
  /** Counts terms, so that a term differs from older ones of the same slot. */
  terms: 1,
  /** End of the owner's lease: low 32 bits of microseconds. */
  lease: 2,
  /** The policy in force, and the policy that the host wants. The next owner puts that one in force. */
  policy: 3,
  wantedPolicy: 4,
  sliceNs: 5,
  /** Bitmap of the slots that have work and wait for the engine, or own it and have work left. */
  want: 6,
  /** Engine time. */
  clock: 8,
  /** Virtual time of the slot that was chosen last. A slot that returns from idleness starts near it. */
  floor: 10,
  /** Time when the engine became free: low 32 bits of microseconds. */
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
  /** Bitmap of the powers of two whose buckets have waits. */
  waitOctaves: 10,
  /** Histogram of waits. */
  waits: 16,
} as const;
/**
 * Buckets of a wait histogram: one below 1 µs, then WAIT_STEPS equal ones for each power of two up to 2^WAIT_OCTAVES µs.
 * They are the buckets of a metric's histogram, so that nothing is lost when they become one.
 */
export const WAIT_STEPS = 128;
export const WAIT_OCTAVES = 24;
export const WAIT_BUCKETS: number = 1 + WAIT_STEPS * WAIT_OCTAVES;
const SLOT_WORDS = 3104;

/** The whole engine, as a share. */
export const SHARE_ONE = 2 ** 20;

export const GPU_BYTES: number = (HEADER_WORDS + SLOTS_LIMIT * SLOT_WORDS) * 4;

if (SlotWord.waits + WAIT_BUCKETS > SLOT_WORDS) throw new Error('a slot is too small for its histogram');

/** Returns the index of a slot's word. */
export const slotWord = (slot: number, word: number): number => HEADER_WORDS + slot * SLOT_WORDS + word;

/** Returns the index of the bitmap word that holds the slot's bit. */
export const wantWord = (slot: number): number => GpuWord.want + (slot >>> 5);
export const wantBit = (slot: number): number => 1 << (slot & 31);

/** Returns true if a slot other than `slot` wants the engine; for -1, if any slot does. */
export function othersWant(words: mem.SharedWords, slot: number): boolean {
  for (let word = 0; word < WANT_WORDS; word++) {
    const own = slot >>> 5 === word ? wantBit(slot) : 0;
    if ((ld(words, GpuWord.want + word, 'engine.want') & ~own) !== 0) return true;
  }
  return false;
}

/** Yields the slots whose bits are set, in order. */
export function* wantingSlots(words: mem.SharedWords): Iterable<number> {
  for (let word = 0; word < WANT_WORDS; word++) {
    let bits = ld(words, GpuWord.want + word, 'engine.want');
    while (bits !== 0) {
      yield word * 32 + 31 - Math.clz32(bits & -bits);
      bits &= bits - 1;
    }
  }
}

/** V8 calls `pow` for `2 ** 32` at each use. */
const TWO_32 = 4_294_967_296;

/**
 * Bit of a time's high word while its halves do not match, which happens every 4.3 s of engine time. Without it, a
 * reader may combine the new high word with the old low word, also when both loads of the high word are equal.
 */
const CHANGING = 1 << 30;

/** Reads a time as the owner of the engine: no other thread writes it. An owner may have died in the middle of a write. */
export const readTime = (words: mem.SharedWords, index: number): number =>
  (rd(words, index + 1, 'engine.clock') & ~CHANGING) * TWO_32 + (rd(words, index, 'engine.clock') >>> 0);

/** Writes a time, which is not negative. */
export const writeTime = (words: mem.SharedWords, index: number, value: number): void => {
  const high = Math.floor(value / TWO_32);
  if (rd(words, index + 1, 'engine.clock') === high) {
    wr(words, index, value | 0, 'engine.clock');
    return;
  }
  // Ordered stores, so that no reader sees the low word before the bit, or the high word before the low word.
  st(words, index + 1, high | CHANGING, 'engine.clock');
  st(words, index, value | 0, 'engine.clock');
  st(words, index + 1, high, 'engine.clock');
};

/** Tries of a reader that does not own the engine. */
const READ_TRIES = 3;

/** Reads a time that another thread may be writing. If that stopped in the middle, returns the new high half alone. */
export function readTimeRelaxed(words: mem.SharedWords, index: number): number {
  let high = ld(words, index + 1, 'engine.stats');
  for (let i = 0; i < READ_TRIES; i++) {
    const before = high;
    const low = ld(words, index, 'engine.stats');
    high = ld(words, index + 1, 'engine.stats');
    if (high === before && (high & CHANGING) === 0) return high * TWO_32 + (low >>> 0);
  }
  return (high & ~CHANGING) * TWO_32;
}

/** Returns the bucket of a wait in engine time. */
export function waitBucket(waitNs: number): number {
  const us = waitNs / 1000;
  if (us < 1) return 0;
  if (us >= 2 ** WAIT_OCTAVES) return WAIT_BUCKETS - 1;
  const octave = octaveOf(us);
  return 1 + octave * WAIT_STEPS + Math.floor((us / 2 ** octave - 1) * WAIT_STEPS);
}

/** Returns the exponent of a number from 1 to 2^31. */
const octaveOf = (value: number): number => 31 - Math.clz32(value);

/** Returns the bit of a bucket in {@link SlotWord.waitOctaves}. */
export const waitOctaveBit = (bucket: number): number =>
  bucket === 0 ? 1 : 1 << Math.floor((bucket - 1) / WAIT_STEPS);

/** Returns the upper end of a bucket, in microseconds of engine time; less than 1 % above its lower end. */
export function bucketUs(bucket: number): number {
  if (bucket === 0) return 0;
  const octave = Math.floor((bucket - 1) / WAIT_STEPS);
  return 2 ** octave * (1 + (((bucket - 1) % WAIT_STEPS) + 1) / WAIT_STEPS);
}
