/**
 * Runs recorded VFIO vectors, each on a new machine, and compares the result of every step with the kernel's.
 */

import { isDeepStrictEqual } from 'node:util';
import { MdevError } from '../../mdev/registry.ts';
import { hex } from '../../memory/address.ts';
import { VfioError } from '../../vfio/errors.ts';
import { VfioMachine } from './machine.ts';
import type { Output } from './step-inputs.ts';
import { OPERATIONS, sysfsError } from './steps.ts';
import type { Callback } from './test-driver.ts';
import { NotModelledError, type Step, StepInputs, type Vector, type VectorFile } from './vector-file.ts';

/** One field of one step that differs from the recorded one. */
interface Difference {
  readonly step: number;
  readonly op: string;
  readonly field: string;
  readonly expected: unknown;
  readonly got: unknown;
}

interface VectorResult {
  readonly name: string;
  readonly verdict: 'passed' | 'failed' | 'skipped';
  /** Reason why the vector was skipped, or empty. */
  readonly reason: string;
  readonly steps: number;
  readonly differences: readonly Difference[];
}

interface FileResult {
  readonly path: string;
  readonly section: string;
  readonly vectors: readonly VectorResult[];
}

/** Runs every vector of a file. @throws VectorFileError for an invalid step */
export function runVectorFile(file: VectorFile): FileResult {
  const vectors = file.vectors.map((vector) => runVector(vector, file.path));
  return { path: file.path, section: file.section, vectors };
}

/** Runs one vector. @throws VectorFileError */
export function runVector(vector: Vector, path: string): VectorResult {
  const { name, steps } = vector;
  try {
    const differences = differencesOf(vector, path);
    const verdict = differences.length === 0 ? 'passed' : 'failed';
    return { name, verdict, reason: '', steps: steps.length, differences };
  } catch (error) {
    if (!(error instanceof NotModelledError)) throw error;
    return { name, verdict: 'skipped', reason: error.message, steps: steps.length, differences: [] };
  }
}

/** @throws VectorFileError, NotModelledError */
function differencesOf({ name, steps }: Vector, path: string): Difference[] {
  const foreign = steps.find(({ op }) => !OPERATIONS.has(op));
  if (foreign) throw new NotModelledError(`operation ${foreign.op}`);
  const machine = new VfioMachine();
  const differences: Difference[] = [];
  for (const [index, step] of steps.entries()) {
    const where = `${path}: vector ${name} step ${index} ${step.op}`;
    for (const [field, expected, got] of runStep(machine, step, where))
      differences.push({ step: index, op: step.op, field, expected, got });
  }
  return differences;
}

type FieldDifference = readonly [field: string, expected: unknown, got: unknown];

function runStep(machine: VfioMachine, step: Step, where: string): FieldDifference[] {
  machine.callbacks = [];
  machine.violations = [];
  const operation = OPERATIONS.get(step.op);
  if (!operation) return [];
  const got: Output = { ret: 0, errno: null };
  try {
    operation.run(new StepInputs(step, where), machine, got);
  } catch (error) {
    if (error instanceof VfioError) Object.assign(got, { ret: -1, errno: error.errno });
    else if (error instanceof MdevError) Object.assign(got, sysfsError(error));
    else throw error;
  }
  got.dma_unmap_cb = callbackList(machine.callbacks);
  got.vmlck_kb = machine.process.locked * KB_PER_PAGE;
  return [...compare(step, got, operation.outputs), ...compareLog(step, machine)];
}

const KB_PER_PAGE = 4;
const ALWAYS = ['ret', 'errno', 'vmlck_kb'];

function compare(step: Step, got: Output, outputs: readonly string[]): FieldDifference[] {
  // The recorded kernel never returned from this call. Only its log can be compared.
  if (step._incomplete) return [];
  const differences: FieldDifference[] = [];
  for (const field of [...ALWAYS, ...outputs]) {
    const expected = expectedOf(step, field);
    if (expected !== undefined && !isDeepStrictEqual(got[field], expected))
      differences.push([field, expected, got[field]]);
  }
  return differences;
}

/**
 * Returns the expected value. If two bitmaps are recorded, it is the one without untouched pages. If no callbacks are
 * recorded, there must be none.
 */
function expectedOf(step: Step, field: string): unknown {
  if (field === 'bitmap') return step.bitmap_sane ?? step.bitmap;
  if (field === 'dma_unmap_cb') return step.dma_unmap_cb ?? [];
  return step[field];
}

/** Compares the kernel's log: each WARN or BUG must be a violation here, and there must be no other violation. */
function compareLog({ klog }: Step, { violations }: VfioMachine): FieldDifference[] {
  const logged = Array.isArray(klog) ? klog : [];
  if (logged.length === violations.length) return [];
  return [['klog', logged, violations.map(({ kind, detail }) => `${kind}: ${detail}`)]];
}

/** Returns the callbacks in the recorded form: grouped by device, in order for each device. */
function callbackList(callbacks: readonly Callback[]): Output[] {
  const sorted = [...callbacks].sort((a, b) => (a.device < b.device ? -1 : a.device > b.device ? 1 : 0));
  return sorted.map(({ device, iova, size, released, left }) => ({
    device,
    iova: hex(iova),
    size: hex(size),
    released,
    left,
  }));
}
