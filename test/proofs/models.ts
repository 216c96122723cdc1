/**
 * Runs of `npm run prove` on the models in docs/proofs: the protocol is proved, and every mutant is refuted.
 */

export const MODELS = ['short-dma', 'long-pin', 'table-pin'] as const;

/**
 * Expected verdict of Spin:
 * - `proved`: all states visited, no error;
 * - `violated`: an assertion fails (a page used after its unmap, a pin count below zero, a freed node with counts);
 * - `hangs`: an end state in which a process waits forever;
 * - `starves`: the claim is false, by an infinite run in which an unmap never ends.
 */
type Verdict = 'proved' | 'violated' | 'hangs' | 'starves';

export interface ModelRun {
  readonly model: (typeof MODELS)[number];
  readonly name: string;
  /** Macros defined for the model. */
  readonly defines: readonly string[];
  readonly expected: Verdict;
  /** Checks the model's claim under weak fairness instead of its assertions and end states. */
  readonly claim?: true;
  /** The run must reach all statements. Set for the unmutated models: an unreached statement would prove nothing. */
  readonly wholeText?: true;
}

export const RUNS: readonly ModelRun[] = [
  { model: 'short-dma', name: 'sound', defines: [], expected: 'proved', wholeText: true },
  { model: 'short-dma', name: 'every unmap ends', defines: ['LIVENESS'], expected: 'proved', claim: true },
  { model: 'long-pin', name: 'sound', defines: [], expected: 'proved', wholeText: true },
  { model: 'table-pin', name: 'sound', defines: [], expected: 'proved', wholeText: true },
  {
    model: 'long-pin',
    name: 'every unmap ends, back off',
    defines: ['LIVENESS', 'BACK_OFF'],
    expected: 'proved',
    claim: true,
  },
  // A known limit, see README.md: whenever the writer wakes, it finds the next pin that is about to fail.
  {
    model: 'long-pin',
    name: 'pins that fail for ever',
    defines: ['LIVENESS'],
    expected: 'starves',
    claim: true,
  },
  // The seven basic mutants. The lost notify has one in each protocol.
  { model: 'long-pin', name: 'store for and', defines: ['STORE_FOR_AND'], expected: 'violated' },
  { model: 'long-pin', name: 'check before add', defines: ['CHECK_BEFORE_ADD'], expected: 'violated' },
  { model: 'short-dma', name: 'no bump', defines: ['NO_BUMP'], expected: 'violated' },
  { model: 'short-dma', name: 'late epoch', defines: ['LATE_EPOCH'], expected: 'violated' },
  { model: 'short-dma', name: 'skipped reader', defines: ['SKIPPED_READER'], expected: 'violated' },
  { model: 'long-pin', name: 'no undo', defines: ['NO_UNDO'], expected: 'violated' },
  { model: 'short-dma', name: 'lost notify', defines: ['LOST_NOTIFY'], expected: 'hangs' },
  { model: 'long-pin', name: 'lost notify', defines: ['LOST_NOTIFY'], expected: 'hangs' },
  // Further mutants.
  { model: 'long-pin', name: 'lost notify of an undo', defines: ['LOST_UNDO_NOTIFY'], expected: 'hangs' },
  { model: 'long-pin', name: 'store for or', defines: ['STORE_FOR_OR'], expected: 'violated' },
  { model: 'long-pin', name: 'clear before 0 pins', defines: ['EARLY_CLEAR'], expected: 'violated' },
  { model: 'short-dma', name: 'reuse before drain', defines: ['EARLY_REUSE'], expected: 'violated' },
  { model: 'short-dma', name: 'load before flag', defines: ['LATE_WAITING'], expected: 'hangs' },
  { model: 'table-pin', name: 'no pin on the link', defines: ['NO_LINK_PIN'], expected: 'violated' },
  { model: 'table-pin', name: 'no undo', defines: ['NO_UNDO'], expected: 'hangs' },
  { model: 'table-pin', name: 'lost notify', defines: ['LOST_NOTIFY'], expected: 'hangs' },
  { model: 'table-pin', name: 'follows a link that is 0', defines: ['NO_ZERO_CHECK'], expected: 'violated' },
  // The confirming load: weak memory needs it. The second run is the first one without weak memory.
  { model: 'short-dma', name: 'no confirm', defines: ['NO_CONFIRM', 'ROUNDS=2'], expected: 'violated' },
  {
    model: 'short-dma',
    name: 'no confirm, strong memory',
    defines: ['NO_CONFIRM', 'ROUNDS=2', 'STRONG_MEMORY'],
    expected: 'proved',
  },
  // Once the generation wraps, strong memory needs it too.
  {
    model: 'short-dma',
    name: 'no confirm, wrap',
    defines: ['NO_CONFIRM', 'STRONG_MEMORY'],
    expected: 'violated',
  },
];
