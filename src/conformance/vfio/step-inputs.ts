/**
 * What the tables of operations share: the shape of an operation, and how a step names things.
 */
import { VfioError } from '../../vfio/errors.ts';
import type { DeviceFile, VfioMachine } from './machine.ts';
import { NotModelledError, type StepInputs } from './vector-file.ts';

/** Fields that a step gives. What was set before an error stays. */
export type Output = Record<string, unknown>;

/** One operation on the machine; a refused call throws VfioError or MdevError. */
export type Handler = (input: StepInputs, machine: VfioMachine, output: Output) => void;

/** A name that is not open: the recorder's descriptor was -1. @throws VfioError EBADF */
export const notOpen = (what: string, name: string): never => {
  throw new VfioError('EBADF', `${what} ${JSON.stringify(name)} is not open`);
};

export interface Operation {
  readonly run: Handler;
  /** Fields of the step that it gives, besides `ret` and `errno`. */
  readonly gives: readonly string[];
}

export const operation = (run: Handler, ...gives: string[]): Operation => ({ run, gives });

export const deviceOf = (input: StepInputs, { devices }: VfioMachine): DeviceFile => {
  const name = input.text('device');
  return devices.get(name) ?? notOpen('device', name);
};

/** Buffers of one step stay this small; the recorder's are up to a few pages. */
const BUFFER_LIMIT = 2 ** 24;

export function lengthOf(input: StepInputs, key: string): number {
  const length = input.number(key);
  if (length < 0) throw new VfioError('EINVAL', `${key} ${length}`);
  if (length > BUFFER_LIMIT) throw new NotModelledError(`${key} of more than ${BUFFER_LIMIT} bytes`);
  return length;
}
