/**
 * `#mem` of scheduled threads (`--conditions=sched`): each access waits for its turn. Outside a schedule it is the access of
 * production.
 */
import { crc32 as zlibCrc32 } from 'node:zlib';
import type { Site } from './schedule-points.ts';
import { copyPieces, StepKind } from './schedule-trace.ts';
import * as mem from './shared-memory.ts';
import { placeOfWord, turnstile } from './turnstile.ts';

type Words = mem.SharedWords;
type Bytes = mem.SharedBytes;

export type { SharedBytes, SharedWords } from './shared-memory.ts';
export { bytesOf, peek, poke, wordsOf } from './shared-memory.ts';

export const rd = (words: Words, index: number, site: Site): number =>
  turnstile()?.step(StepKind.rd, site, 0, () => mem.rd(words, index, site)) ?? mem.rd(words, index, site);

export function wr(words: Words, index: number, value: number, site: Site): void {
  const turn = turnstile();
  if (!turn) mem.wr(words, index, value, site);
  // The model's step of a write returns the old word, as those of the atomic operations do.
  else turn.step(StepKind.wr, site, value, () => mem.xchg(words, index, value, site));
}

export const ld = (words: Words, index: number, site: Site): number =>
  turnstile()?.step(StepKind.ld, site, 0, () => mem.ld(words, index, site)) ?? mem.ld(words, index, site);

export function st(words: Words, index: number, value: number, site: Site): void {
  const turn = turnstile();
  if (!turn) mem.st(words, index, value, site);
  else turn.step(StepKind.st, site, value, () => mem.xchg(words, index, value, site));
}

type Change = (words: Words, index: number, value: number, site: Site) => number;
const change =
  (kind: StepKind, operation: Change): Change =>
  (words, index, value, site) =>
    turnstile()?.step(kind, site, value, () => operation(words, index, value, site)) ??
    operation(words, index, value, site);

export const add: Change = change(StepKind.add, mem.add);
export const and: Change = change(StepKind.and, mem.and);
export const or: Change = change(StepKind.or, mem.or);
export const xchg: Change = change(StepKind.xchg, mem.xchg);

export function cas(words: Words, index: number, expected: number, value: number, site: Site): number {
  const perform = (): number => mem.cas(words, index, expected, value, site);
  return turnstile()?.step(StepKind.cas, site, expected, perform) ?? perform();
}

export function waitEq(words: Words, index: number, value: number, timeoutMs: number, site: Site): boolean {
  const turn = turnstile();
  if (!turn) return mem.waitEq(words, index, value, timeoutMs, site);
  return turn.wait(site, placeOfWord(words, index), value, () => mem.ld(words, index, site) !== value);
}

export function waitEqAsync(
  words: Words,
  index: number,
  value: number,
  timeoutMs: number,
  site: Site,
): Promise<boolean> | undefined {
  const turn = turnstile();
  if (!turn) return mem.waitEqAsync(words, index, value, timeoutMs, site);
  let waits = false;
  turn.step(StepKind.waitAsync, site, value, () => {
    waits = mem.ld(words, index, site) === value;
    if (waits) turn.await(placeOfWord(words, index));
    return 0;
  });
  if (!waits) return undefined;
  // An `await` calls `then`, which blocks this thread as the model blocks its thread.
  const joined = {
    // biome-ignore lint/suspicious/noThenProperty: it stands for a promise
    then: (resolve: (outcome: boolean) => void, reject: (reason: unknown) => void): void => {
      try {
        resolve(turn.join());
      } catch (error) {
        reject(error);
      }
    },
  };
  return joined as unknown as Promise<boolean>;
}

export function wake(words: Words, index: number, site: Site): void {
  const turn = turnstile();
  if (!turn) mem.wake(words, index, site);
  else
    turn.step(StepKind.wake, site, 0, () => {
      turn.wake(placeOfWord(words, index));
      return 0;
    });
}

export function fillWords(words: Words, index: number, count: number, value: number, site: Site): void {
  const perform = (): number => {
    mem.fillWords(words, index, count, value, site);
    return 0;
  };
  turnstile()?.step(StepKind.fill, site, value, perform) ?? perform();
}

export function copyOut(
  target: Uint8Array,
  targetOffset: number,
  source: Bytes,
  sourceOffset: number,
  length: number,
  site: Site,
): void {
  const turn = turnstile();
  if (!turn) {
    mem.copyOut(target, targetOffset, source, sourceOffset, length, site);
    return;
  }
  let at = 0;
  for (const piece of copyPieces(length)) {
    turn.step(StepKind.read, site, piece, () => {
      mem.copyOut(target, targetOffset + at, source, sourceOffset + at, piece, site);
      return zlibCrc32(target.subarray(targetOffset + at, targetOffset + at + piece)) | 0;
    });
    at += piece;
  }
}

export function copyIn(
  target: Bytes,
  targetOffset: number,
  source: Uint8Array,
  sourceOffset: number,
  length: number,
  site: Site,
): void {
  const turn = turnstile();
  if (!turn) {
    mem.copyIn(target, targetOffset, source, sourceOffset, length, site);
    return;
  }
  let at = 0;
  for (const piece of copyPieces(length)) {
    turn.step(StepKind.write, site, piece, () => {
      mem.copyIn(target, targetOffset + at, source, sourceOffset + at, piece, site);
      return 0;
    });
    at += piece;
  }
}

export function copy(
  target: Bytes,
  targetOffset: number,
  source: Bytes,
  sourceOffset: number,
  length: number,
  site: Site,
): void {
  if (!turnstile()) {
    mem.copy(target, targetOffset, source, sourceOffset, length, site);
    return;
  }
  const bytes = new Uint8Array(length);
  copyOut(bytes, 0, source, sourceOffset, length, site);
  copyIn(target, targetOffset, bytes, 0, length, site);
}

export function crc32(bytes: Bytes, offset: number, length: number, seed: number, site: Site): number {
  const perform = (): number => mem.crc32(bytes, offset, length, seed, site);
  return turnstile()?.step(StepKind.read, site, length, perform) ?? perform();
}

export function equals(bytes: Bytes, offset: number, expected: Uint8Array, site: Site): boolean {
  const perform = (): number => Number(mem.equals(bytes, offset, expected, site));
  return (turnstile()?.step(StepKind.read, site, expected.length, perform) ?? perform()) !== 0;
}
