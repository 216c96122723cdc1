/**
 * What `npm run prove` shows of the models in docs/proofs: the sound protocol holds, and every mutant is refuted.
 */

export const MODELS = ['short-dma', 'long-pin', 'table-pin'] as const;

/**
 * What spin must answer. `proved`: every state visited, no error. `violated`: an assertion fails (a page used
 * after its unmap, a pin count below zero, a node given back while not all zeros). `hangs`: an end in which somebody waits for ever.
 * `starves`: the claim does not hold: a run without end in which an unmap does not come to its own.
 */
export type Verdict = 'proved' | 'violated' | 'hangs' | 'starves';

export interface ModelRun {
  readonly model: (typeof MODELS)[number];
  readonly name: string;
  /** Macros that the model is compiled with. */
  readonly defines: readonly string[];
  readonly expected: Verdict;
  /** Checks the model's claim under weak fairness instead of its assertions and end states. */
  readonly claim?: true;
  /** A mutant never reaches some statements; the sound models must reach them all, or they prove less than they say. */
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
  // A known limit, see README.md: the writer wakes, and always finds the next pin that is about to fail.
  {
    model: 'long-pin',
    name: 'pins that fail for ever',
    defines: ['LIVENESS'],
    expected: 'starves',
    claim: true,
  },
  // The seven mutants; the lost notify is one of either protocol.
  { model: 'long-pin', name: 'store for and', defines: ['STORE_FOR_AND'], expected: 'violated' },
  { model: 'long-pin', name: 'check before add', defines: ['CHECK_BEFORE_ADD'], expected: 'violated' },
  { model: 'short-dma', name: 'no bump', defines: ['NO_BUMP'], expected: 'violated' },
  { model: 'short-dma', name: 'late epoch', defines: ['LATE_EPOCH'], expected: 'violated' },
  { model: 'short-dma', name: 'skipped reader', defines: ['SKIPPED_READER'], expected: 'violated' },
  { model: 'long-pin', name: 'no undo', defines: ['NO_UNDO'], expected: 'violated' },
  { model: 'short-dma', name: 'lost notify', defines: ['LOST_NOTIFY'], expected: 'hangs' },
  { model: 'long-pin', name: 'lost notify', defines: ['LOST_NOTIFY'], expected: 'hangs' },
  // More of the same kind.
  { model: 'long-pin', name: 'lost notify of an undo', defines: ['LOST_UNDO_NOTIFY'], expected: 'hangs' },
  { model: 'long-pin', name: 'store for or', defines: ['STORE_FOR_OR'], expected: 'violated' },
  { model: 'long-pin', name: 'clear before 0 pins', defines: ['EARLY_CLEAR'], expected: 'violated' },
  { model: 'short-dma', name: 'reuse before drain', defines: ['EARLY_REUSE'], expected: 'violated' },
  { model: 'short-dma', name: 'look before flag', defines: ['LATE_WAITING'], expected: 'hangs' },
  { model: 'table-pin', name: 'no pin on the link', defines: ['NO_LINK_PIN'], expected: 'violated' },
  { model: 'table-pin', name: 'no undo', defines: ['NO_UNDO'], expected: 'hangs' },
  { model: 'table-pin', name: 'lost notify', defines: ['LOST_NOTIFY'], expected: 'hangs' },
  { model: 'table-pin', name: 'follows a link that is 0', defines: ['NO_ZERO_CHECK'], expected: 'violated' },
  // Only weak memory shows why the confirming load is there: the second run is the first without it.
  { model: 'short-dma', name: 'no confirm', defines: ['NO_CONFIRM', 'ROUNDS=2'], expected: 'violated' },
  {
    model: 'short-dma',
    name: 'no confirm, strong memory',
    defines: ['NO_CONFIRM', 'ROUNDS=2', 'STRONG_MEMORY'],
    expected: 'proved',
  },
  // With the wheel of generations turning once around, strong memory does not help either.
  {
    model: 'short-dma',
    name: 'no confirm, wrap',
    defines: ['NO_CONFIRM', 'STRONG_MEMORY'],
    expected: 'violated',
  },
];
