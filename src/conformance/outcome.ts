/**
 * Outcome of a run of recorded vectors, and the error for input that is not in their format.
 */

/** A step whose result differs from the recorded one. */
export interface StepFailure {
  readonly step: number;
  readonly op: string;
  readonly expected: string;
  readonly got: string;
}

/** Result of one vector. `reason` says why the vector, or a part of it, was skipped. */
export interface VectorOutcome {
  readonly name: string;
  readonly status: 'passed' | 'failed' | 'skipped';
  readonly reason?: string;
  readonly failures: readonly StepFailure[];
}

/** Thrown for input that is not a valid vector file. The message names the place and what is accepted. */
export class VectorFormatError extends Error {
  override name = 'VectorFormatError';
}
