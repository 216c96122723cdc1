/**
 * `#mem` of the model: each operation returns the step that it would perform. The transform puts a `yield` around it.
 */
import { crc32 as zlibCrc32 } from 'node:zlib';
import { copyPieces } from '../../platform/schedule-trace.ts';
import { type ModelBytes, type ModelWords, memory } from './memory.ts';
import { byteStep, Step, StepKind, wordStep } from './step.ts';

export { ensure, explore, ViolationError } from '../harness.ts';

export const wordsOf = (buffer: SharedArrayBuffer, byteOffset?: number, length?: number): ModelWords =>
  memory.wordsOf(buffer, byteOffset, length);
export const bytesOf = (buffer: SharedArrayBuffer, byteOffset?: number, length?: number): ModelBytes =>
  memory.bytesOf(buffer, byteOffset, length);

/** Reads a word for an oracle: no step. */
export const peek = (words: ModelWords, index: number): number => words.array[index] as number;
/** Writes a word of an oracle: no step. */
export function poke(words: ModelWords, index: number, value: number): void {
  memory.note(words.array, index, 1);
  words.array[index] = value;
}

export const rd = (words: ModelWords, index: number, site: string): Step =>
  wordStep(StepKind.rd, words, index, 0, 0, site);
export const wr = (words: ModelWords, index: number, value: number, site: string): Step =>
  wordStep(StepKind.wr, words, index, value, 0, site);
export const ld = (words: ModelWords, index: number, site: string): Step =>
  wordStep(StepKind.ld, words, index, 0, 0, site);
export const st = (words: ModelWords, index: number, value: number, site: string): Step =>
  wordStep(StepKind.st, words, index, value, 0, site);
export const add = (words: ModelWords, index: number, value: number, site: string): Step =>
  wordStep(StepKind.add, words, index, value, 0, site);
export const and = (words: ModelWords, index: number, value: number, site: string): Step =>
  wordStep(StepKind.and, words, index, value, 0, site);
export const or = (words: ModelWords, index: number, value: number, site: string): Step =>
  wordStep(StepKind.or, words, index, value, 0, site);
export const xchg = (words: ModelWords, index: number, value: number, site: string): Step =>
  wordStep(StepKind.xchg, words, index, value, 0, site);
export const cas = (words: ModelWords, index: number, expected: number, value: number, site: string): Step =>
  wordStep(StepKind.cas, words, index, expected, value, site);
export const waitEq = (
  words: ModelWords,
  index: number,
  value: number,
  timeoutMs: number,
  site: string,
): Step => wordStep(StepKind.wait, words, index, value, timeoutMs, site);
export const waitEqAsync = (
  words: ModelWords,
  index: number,
  value: number,
  timeoutMs: number,
  site: string,
): Step => wordStep(StepKind.waitAsync, words, index, value, timeoutMs, site);
export const wake = (words: ModelWords, index: number, site: string): Step =>
  wordStep(StepKind.wake, words, index, 0, 0, site);
export const fillWords = (
  words: ModelWords,
  index: number,
  count: number,
  value: number,
  site: string,
): Step =>
  new Step(StepKind.fill, site, words, index, value, count, words.base + index, words.base + index + count);

export function* copyOut(
  target: Uint8Array,
  targetOffset: number,
  source: ModelBytes,
  sourceOffset: number,
  length: number,
  site: string,
): Generator<Step, void, number> {
  let at = 0;
  for (const piece of copyPieces(length)) {
    const from = at;
    yield byteStep(StepKind.read, site, source, sourceOffset + at, piece, () => {
      const found = source.bytes.subarray(sourceOffset + from, sourceOffset + from + piece);
      target.set(found, targetOffset + from);
      return zlibCrc32(found) | 0;
    });
    at += piece;
  }
}

export function* copyIn(
  target: ModelBytes,
  targetOffset: number,
  source: Uint8Array,
  sourceOffset: number,
  length: number,
  site: string,
): Generator<Step, void, number> {
  let at = 0;
  for (const piece of copyPieces(length)) {
    const from = at;
    yield byteStep(StepKind.write, site, target, targetOffset + at, piece, () => {
      target.bytes.set(
        source.subarray(sourceOffset + from, sourceOffset + from + piece),
        targetOffset + from,
      );
      return 0;
    });
    at += piece;
  }
}

export function* copy(
  target: ModelBytes,
  targetOffset: number,
  source: ModelBytes,
  sourceOffset: number,
  length: number,
  site: string,
): Generator<Step, void, number> {
  const bytes = new Uint8Array(length);
  yield* copyOut(bytes, 0, source, sourceOffset, length, site);
  yield* copyIn(target, targetOffset, bytes, 0, length, site);
}

export const crc32 = (bytes: ModelBytes, offset: number, length: number, seed: number, site: string): Step =>
  byteStep(StepKind.read, site, bytes, offset, length, () =>
    zlibCrc32(bytes.bytes.subarray(offset, offset + length), seed),
  );

export const equals = (bytes: ModelBytes, offset: number, expected: Uint8Array, site: string): Step =>
  byteStep(StepKind.read, site, bytes, offset, expected.length, () =>
    Number(Buffer.from(bytes.bytes.subarray(offset, offset + expected.length)).equals(expected)),
  );
