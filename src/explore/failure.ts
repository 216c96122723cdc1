/**
 * A recorded failure: all that a replay needs, as a JSON file.
 */
import { z } from 'zod';
import type { RunResult } from './model/run.ts';
import { STRATEGIES } from './strategy/strategies.ts';

const SCHEMA = z.object({
  mdevsim: z.string(),
  target: z.string(),
  harness: z.string(),
  strategy: z.enum(STRATEGIES),
  seed: z.int(),
  /** Index of the schedule among those of its seed, from 1 on. */
  schedule: z.int(),
  weak: z.boolean(),
  rule: z.string(),
  message: z.string(),
  /** Hash of the trace. */
  hash: z.int(),
  choices: z.array(z.int().min(0)).max(1_000_000),
});

export type Failure = z.infer<typeof SCHEMA>;

/** Thrown for a file that is no recorded failure. */
export class FailureFileError extends Error {
  override name = 'FailureFileError';
}

/** Reads a recorded failure. @throws FailureFileError */
export function parseFailure(text: string, path: string): Failure {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new FailureFileError(`${path}: ${(error as Error).message}`);
  }
  const parsed = SCHEMA.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new FailureFileError(`${path}: ${issue?.path.join('.') || 'the file'}: ${issue?.message}`);
}

/** Returns the record of a failing schedule. */
export const failureOf = (
  origin: Omit<Failure, 'rule' | 'message' | 'hash' | 'choices'>,
  { violation, hash, choices }: RunResult,
): Failure => ({
  ...origin,
  rule: violation?.rule ?? '',
  message: violation?.message ?? '',
  hash,
  choices: [...choices],
});
