/**
 * Shared parts of the operation tables: the form of an operation, and the objects that a step names.
 */
import { VfioError } from '../../vfio/errors.ts';
import type { DeviceFile, VfioMachine } from './machine.ts';
import { NotModelledError, type StepInputs } from './vector-file.ts';

/** Output fields of a step. Fields that were set before an error stay. */
export type Output = Record<string, unknown>;

/** Runs one operation on the machine. A refused call throws VfioError or MdevError. */
type Handler = (input: StepInputs, machine: VfioMachine, output: Output) => void;

/** Refuses a name that is not open; the recorder's descriptor was -1. @throws VfioError EBADF */
export const notOpen = (what: string, name: string): never => {
  throw new VfioError('EBADF', `${what} ${JSON.stringify(name)} is not open`);
};

export interface Operation {
  readonly run: Handler;
  /** Output fields of the step, besides `ret` and `errno`. */
  readonly outputs: readonly string[];
}

export const operation = (run: Handler, ...outputs: string[]): Operation => ({ run, outputs });

export const deviceOf = (input: StepInputs, { devices }: VfioMachine): DeviceFile => {
  const name = input.text('device');
  return devices.get(name) ?? notOpen('device', name);
};

/** Maximum size of a step's buffer in bytes. The recorder's buffers have up to a few pages. */
const BUFFER_LIMIT = 2 ** 24;

export function lengthOf(input: StepInputs, key: string): number {
  const length = input.number(key);
  if (length < 0) throw new VfioError('EINVAL', `${key} ${length}`);
  if (length > BUFFER_LIMIT) throw new NotModelledError(`${key} of more than ${BUFFER_LIMIT} bytes`);
  return length;
}
