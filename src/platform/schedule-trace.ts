/**
 * Kinds of scheduled steps, and the hash of their sequence. The model and the turnstile compute the same hash for the same
 * schedule.
 */

/** Kinds of steps. The order is part of trace hashes. */
export const StepKind = {
  start: 0,
  resume: 1,
  yield: 2,
  sleep: 3,
  join: 4,
  rd: 5,
  wr: 6,
  ld: 7,
  st: 8,
  add: 9,
  and: 10,
  or: 11,
  xchg: 12,
  cas: 13,
  wait: 14,
  waitAsync: 15,
  wake: 16,
  fill: 17,
  read: 18,
  write: 19,
} as const;
export type StepKind = (typeof StepKind)[keyof typeof StepKind];

/** Most steps of one copy. A copy is not atomic, and two pieces show a torn one. */
const COPY_PIECES = 2;

/** Returns the lengths of a copy's pieces; whole words, as far as the length allows. */
export function copyPieces(length: number): number[] {
  const first = Math.ceil(length / COPY_PIECES / 4) * 4;
  return first >= length ? [length] : [first, length - first];
}

const PRIME = 0x01000193;
const siteHashes = new Map<string, number>();

/** Returns a hash of a site's name, equal in all processes. */
function siteHash(site: string): number {
  let hash = siteHashes.get(site);
  if (hash !== undefined) return hash;
  hash = 0x811c9dc5;
  for (let i = 0; i < site.length; i++) hash = Math.imul(hash ^ site.charCodeAt(i), PRIME);
  siteHashes.set(site, hash);
  return hash;
}

/** Adds a step to a trace hash. `operand` is its first operand, `value` what it returned. */
export function traceHash(
  hash: number,
  thread: number,
  kind: StepKind,
  site: string,
  operand: number,
  value: number,
): number {
  let next = Math.imul(hash ^ ((thread << 8) | kind), PRIME);
  next = Math.imul(next ^ siteHash(site), PRIME);
  next = Math.imul(next ^ operand, PRIME);
  return Math.imul(next ^ value, PRIME);
}
