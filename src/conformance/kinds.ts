/**
 * Kinds of recorded vectors, and the runner of each.
 */
import type { Quirks } from '../viommu/quirks.ts';
import { runAmdVectors } from './amdvi/run.ts';
import { VectorFormatError, type VectorOutcome } from './outcome.ts';
import { runSpaprVectors } from './spapr/run.ts';
import { runVectorFile } from './vfio/run.ts';
import { readJsonFile, readVectorFile, VectorFileError } from './vfio/vector-file.ts';
import { runVirtioIommuVectors } from './virtio-iommu/run.ts';
import { runVtdVectors } from './vtd/run.ts';
import { runIrVectors } from './vtd-ir/run.ts';

type Runner = (path: string, quirks: Quirks) => readonly VectorOutcome[];

const KINDS: ReadonlyMap<string, Runner> = new Map<string, Runner>([
  ['vfio', (path) => vfioOutcomes(path)],
  ['vtd', (path, quirks) => runVtdVectors(readJsonFile(path), { quirks, file: path })],
  ['vtd-ir', (path, quirks) => runIrVectors(readJsonFile(path), { quirks, file: path })],
  ['virtio-iommu', (path, quirks) => runVirtioIommuVectors(readJsonFile(path), { quirks })],
  ['amd', (path, quirks) => runAmdVectors(readJsonFile(path), { quirks, file: path })],
  ['spapr', (path, quirks) => runSpaprVectors(readJsonFile(path), { quirks })],
]);

export const CONFORMANCE_KINDS: readonly string[] = [...KINDS.keys()];

/** Runs a file's vectors. @throws VectorFileError, the file system's own errors */
export function runKind(kind: string, path: string, quirks: Quirks): readonly VectorOutcome[] {
  try {
    return (KINDS.get(kind) as Runner)(path, quirks);
  } catch (error) {
    // Memory that a step names and the machine does not have is a RangeError.
    if (error instanceof VectorFormatError || error instanceof RangeError)
      throw new VectorFileError(path, error.message.replace(`${path}: `, ''));
    throw error;
  }
}

function vfioOutcomes(path: string): VectorOutcome[] {
  return runVectorFile(readVectorFile(path)).vectors.map(({ name, verdict, reason, differences }) => ({
    name,
    status: verdict,
    reason,
    failures: differences.map(({ step, op, field, expected, got }) => ({
      step,
      op: `${op} ${field}`,
      expected: valueText(expected),
      got: valueText(got),
    })),
  }));
}

const valueText = (value: unknown): string => JSON.stringify(value) ?? 'absent';
