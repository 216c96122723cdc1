/**
 * The command that runs, as part of a migrating model's state.
 */

import { CompletionStatus, FENCE_BYTES, GPU_VA_LIMIT_3, Opcode } from '../../../abi/vgpu/vgpu.ts';
import type { StateReader, StateValues } from '../../../device/model.ts';
import { type Command, isFence } from './command.ts';
import { isValid, OPERATIONS } from './operations.ts';

const WORD_MAX = 0xffff_ffff;
const STATUSES: readonly number[] = Object.values(CompletionStatus);
/** Stands for the status of a command that still runs. */
const RUNNING = 255;

/** Returns the values of the command that runs, if there is one. */
export function saveCommand(command: Command | undefined): StateValues {
  if (!command) return { commandRuns: false };
  const { status = RUNNING, scalar, ...numbers } = command;
  // The scalar may be NaN or infinite, which a state's numbers cannot be.
  const bits = new DataView(new ArrayBuffer(4));
  bits.setFloat32(0, scalar);
  const named = Object.entries(numbers).map(([name, value]) => [`command.${name}`, value]);
  return {
    commandRuns: true,
    ...Object.fromEntries(named),
    'command.scalarBits': bits.getUint32(0),
    'command.status': status,
  };
}

/** @throws StateError for a command that no engine can have reached */
export function restoreCommand(state: StateReader): Command | undefined {
  if (!state.boolean('commandRuns')) return undefined;
  const word = (name: string, max = WORD_MAX) => state.integer(`command.${name}`, max);
  const bits = new DataView(new ArrayBuffer(4));
  bits.setUint32(0, word('scalarBits'));
  const status = word('status', RUNNING);
  if (status !== RUNNING && !STATUSES.includes(status))
    throw state.error('command.status', `is ${status}; accepted: ${STATUSES.join(', ')}, ${RUNNING}`);
  const command: Command = {
    opcode: word('opcode'),
    sequence: word('sequence'),
    target: state.number('command.target'),
    source: state.number('command.source'),
    length: word('length'),
    value: word('value'),
    context: word('context'),
    scalar: bits.getFloat32(0),
    done: word('done'),
    crc: word('crc'),
    spentNs: state.number('command.spentNs'),
    status: status === RUNNING ? undefined : status,
  };
  if (command.status === undefined && !canContinue(command))
    throw state.error('command', 'is invalid; accepted: a command that this device can run');
  return command;
}

/** Returns true if the engine can continue the command. The pages that it reaches are checked when they are used. */
function canContinue(command: Command): boolean {
  const { opcode, done, length, value, target, source, spentNs } = command;
  const unit = OPERATIONS[opcode]?.unit(value) ?? 1;
  const areAddresses = [target, source].every((at) => Number.isSafeInteger(at) && at >= 0);
  const isHere = done < length && done % unit === 0 && spentNs >= 0;
  if (isFence(opcode) && length !== FENCE_BYTES) return false;
  return areAddresses && isHere && opcode !== Opcode.nop && isValid(command, GPU_VA_LIMIT_3);
}
