/**
 * Runs fuzz cases against the vIOMMUs. A case depends only on the seed and its number.
 */
import { amdCase } from './amd-case.ts';
import { Digest } from './draw.ts';
import { Rig, type World } from './rig.ts';
import { spaprCase } from './spapr-case.ts';
import { virtioCase } from './virtio-case.ts';
import { vtdCase } from './vtd-case.ts';

export const KINDS = {
  'vtd-legacy': (world: World) => vtdCase(world, false),
  'vtd-scalable': (world: World) => vtdCase(world, true),
  amd: amdCase,
  virtio: virtioCase,
  spapr: spaprCase,
} as const;

export type Kind = keyof typeof KINDS;
export const KIND_NAMES = Object.keys(KINDS) as Kind[];

/** One case in this many runs twice and must return the same digest. */
const TWICE_EVERY = 16;
const CASE_STRIDE = 0x9e37_79b1;

export interface Failed {
  readonly kind: Kind;
  readonly number: number;
  readonly error: unknown;
}

export interface Outcome {
  readonly passed: number;
  readonly failed: readonly Failed[];
  readonly digest: string;
}

/** Runs one case and returns its digest. @throws FuzzFailure, or any error of the model */
export async function runCase(rig: Rig, kind: Kind, seed: number, number: number): Promise<string> {
  const lane = KIND_NAMES.indexOf(kind) + 1;
  const world = rig.open(Math.imul(seed ^ Math.imul(number, CASE_STRIDE), 2 * lane + 1));
  await KINDS[kind](world);
  return world.close();
}

/** Runs cases `first`, `first` + 1, … of every kind in turn while `more` returns true. */
export async function fuzz(
  kinds: readonly Kind[],
  seed: number,
  first: number,
  more: (number: number) => boolean,
): Promise<Outcome> {
  const rig = new Rig();
  const digest = new Digest();
  const failed: Failed[] = [];
  let passed = 0;
  for (let number = first; more(number); number++)
    for (const kind of kinds)
      try {
        const once = await runCase(rig, kind, seed, number);
        if (number % TWICE_EVERY === 0) {
          const again = await runCase(rig, kind, seed, number);
          if (again !== once) throw new Error(`digest ${once}, but ${again} in the second run`);
        }
        digest.addWide(BigInt(`0x${once}`));
        passed++;
      } catch (error) {
        failed.push({ kind, number, error });
      }
  return { passed, failed, digest: digest.hex };
}
