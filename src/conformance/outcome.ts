/**
 * Outcome of a recorded vector.
 */

/** A step that gave something else than the recorded machine. */
export interface StepFailure {
  readonly step: number;
  readonly op: string;
  readonly expected: string;
  readonly got: string;
}

/** What became of one vector. `reason` says why it was skipped. */
export interface VectorOutcome {
  readonly name: string;
  readonly status: 'passed' | 'failed' | 'skipped';
  readonly reason?: string;
  readonly failures: readonly StepFailure[];
}

/** Thrown for input that is no VT-d vector, naming file, vector, step and field. */
export class VectorFormatError extends Error {
  override name = 'VectorFormatError';
}
