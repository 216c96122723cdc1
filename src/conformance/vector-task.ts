/**
 * Messages between the command and the worker that runs files of vectors.
 */
import type { Quirks } from '../viommu/quirks.ts';
import type { VectorOutcome } from './outcome.ts';

/** The worker's data. Each message to it is the path of a file. */
export interface VectorTask {
  readonly kind: string;
  readonly quirks: Quirks;
}

/** The worker's message for a file. */
export type VectorAnswer = { readonly vectors: readonly VectorOutcome[] } | { readonly error: string };
