/**
 * Statistics of the scheduler: per vGPU in shared memory, between two readings, and fairness over many vGPUs.
 */
import * as mem from '#mem';
import { bucketUs, readTimeRelaxed, SlotWord, slotWord, WAIT_OCTAVES, WAIT_STEPS } from './layout.ts';

const { ld } = mem;

/** One vGPU's totals since it was placed. Times in µs of engine time. */
export interface VgpuStats {
  /** `vm0/gpu1`. */
  readonly name: string;
  /** Number of its physical GPU in its host process. */
  readonly gpu: number;
  readonly type: string;
  /** Its part of the engine under fixed-share. */
  readonly share: number;
  /** The physical GPU's clock. */
  readonly clockUs: number;
  readonly busyUs: number;
  readonly waitedUs: number;
  readonly turns: number;
  /** Turns that ended with work left, because another slot was next or the share was used up. */
  readonly preemptions: number;
  readonly commands: number;
  /** Counts of waits for the engine, by bucket, up to the last one with waits. */
  readonly waits: readonly number[];
}

export function readSlotStats(
  words: mem.SharedWords,
  slot: number,
): Omit<VgpuStats, 'name' | 'gpu' | 'type' | 'share' | 'clockUs'> {
  const word = (index: number) => ld(words, slotWord(slot, index), 'engine.stats') >>> 0;
  const timeUs = (index: number) => readTimeRelaxed(words, slotWord(slot, index)) / 1000;
  return {
    busyUs: timeUs(SlotWord.busy),
    waitedUs: timeUs(SlotWord.waited),
    turns: word(SlotWord.turns),
    preemptions: word(SlotWord.preemptions),
    commands: word(SlotWord.commands),
    waits: waitsOf(word(SlotWord.waitOctaves), (bucket) => word(SlotWord.waits + bucket)),
  };
}

/** Reads the buckets of the powers of two that have waits; most have none. */
function waitsOf(octaves: number, read: (bucket: number) => number): number[] {
  if (octaves === 0) return [];
  const length = 1 + WAIT_STEPS * (32 - Math.clz32(octaves));
  const waits = new Array<number>(length).fill(0);
  waits[0] = read(0);
  for (let octave = 0; octave < WAIT_OCTAVES; octave++) {
    if ((octaves & (1 << octave)) === 0) continue;
    const first = 1 + octave * WAIT_STEPS;
    for (let bucket = first; bucket < first + WAIT_STEPS; bucket++) waits[bucket] = read(bucket);
  }
  return waits;
}

/** One vGPU between two readings. Times in µs of engine time. */
export interface VgpuUsage {
  readonly name: string;
  readonly type: string;
  readonly share: number;
  readonly busyUs: number;
  /** Its part of the engine's time. */
  readonly part: number;
  readonly waitP50Us: number;
  readonly waitP99Us: number;
  readonly turns: number;
  readonly preemptions: number;
  readonly commands: number;
}

/** Returns the usage of each vGPU between two readings of the same host, in their order. */
export function usageBetween(before: readonly VgpuStats[], after: readonly VgpuStats[]): VgpuUsage[] {
  const earlier = new Map(before.map((figures) => [figures.name, figures]));
  return after.flatMap((now) => {
    const then = earlier.get(now.name);
    if (!then) return [];
    const waits = now.waits.map((count, i) => count - (then.waits[i] ?? 0));
    const busyUs = now.busyUs - then.busyUs;
    return {
      name: now.name,
      type: now.type,
      share: now.share,
      busyUs,
      part: busyUs / Math.max(1, now.clockUs - then.clockUs),
      waitP50Us: percentileUs(waits, 0.5),
      waitP99Us: percentileUs(waits, 0.99),
      turns: now.turns - then.turns,
      preemptions: now.preemptions - then.preemptions,
      commands: now.commands - then.commands,
    };
  });
}

/** Returns the upper end of the bucket that contains the percentile; 0 if there were no waits. */
function percentileUs(waits: readonly number[], percentile: number): number {
  let left = percentile * waits.reduce((sum, count) => sum + count, 0);
  for (const [bucket, count] of waits.entries()) {
    left -= count;
    if (count > 0 && left <= 0) return bucketUs(bucket);
  }
  return 0;
}

/**
 * Jain's fairness index, (Σx)² / (n Σx²): 1 if all values are equal, 1/n if one has everything. R. Jain, D. Chiu, W.
 * Hawe: A Quantitative Measure of Fairness, DEC-TR-301, 1984.
 */
export function jainIndex(values: readonly number[]): number {
  const sum = values.reduce((a, b) => a + b, 0);
  const squares = values.reduce((a, b) => a + b * b, 0);
  return squares === 0 ? 1 : (sum * sum) / (values.length * squares);
}
