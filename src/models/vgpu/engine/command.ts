/**
 * One command: as it is in the ring, whether it makes sense, how far it has come, and its form on the way to another host.
 */

import {
  COMMAND_LENGTH_LIMIT,
  CommandWord,
  CompletionStatus,
  FENCE_BYTES,
  GPU_VA_LIMIT_3,
  gpuPageBytes,
  Kernel,
  Opcode,
} from '../../../abi/vgpu/vgpu.ts';
import type { StateReader, StateValues } from '../../../device/model.ts';
import { KERNELS } from './kernels.ts';

export interface Command {
  readonly opcode: number;
  readonly sequence: number;
  readonly target: number;
  readonly source: number;
  readonly length: number;
  readonly value: number;
  readonly context: number;
  readonly scalar: number;
  done: number;
  /** CRC-32, or what a kernel has come to. */
  crc: number;
  /** Engine time used, ns. */
  spentNs: number;
  status: number | undefined;
}

const isFence = (opcode: number): boolean => opcode === Opcode.signal || opcode === Opcode.wait;

/** True for a wait that has not ended. */
export const isWait = (command: Command | undefined): boolean =>
  command?.opcode === Opcode.wait && command.status === undefined;

export function parseCommand(entry: DataView): Command {
  const word = (index: number) => entry.getUint32(index * 4, true);
  const opcode = word(CommandWord.opcode);
  return {
    opcode,
    sequence: word(CommandWord.sequence),
    target: word(CommandWord.target) + word(CommandWord.targetHigh) * 2 ** 32,
    source: word(CommandWord.source) + word(CommandWord.sourceHigh) * 2 ** 32,
    length: isFence(opcode) ? FENCE_BYTES : word(CommandWord.length),
    value: word(CommandWord.value),
    context: word(CommandWord.context),
    scalar: entry.getFloat32(CommandWord.scalar * 4, true),
    done: 0,
    crc: 0,
    spentNs: 0,
    status: undefined,
  };
}

/** `limit`: the first address beyond the command's context; 0 if there is no such context. */
export function isValid({ opcode, target, source, length, value }: Command, limit: number): boolean {
  if (opcode === Opcode.nop) return true;
  if (length > COMMAND_LENGTH_LIMIT || limit === 0) return false;
  const targetFits = target + length <= limit;
  const sourceFits = source + length <= limit;
  if (opcode === Opcode.fill) return targetFits && target % 4 === 0 && length % 4 === 0;
  if (opcode === Opcode.copy) return targetFits && sourceFits;
  if (opcode === Opcode.signal) return targetFits && target % FENCE_BYTES === 0;
  if (opcode === Opcode.wait) return sourceFits && source % FENCE_BYTES === 0;
  if (opcode === Opcode.compute) {
    const { alignment, writes } = KERNELS[value] ?? { alignment: 1, writes: false };
    const isKernel = value === Kernel.spin || KERNELS[value] !== undefined;
    const aligned = [source, length, writes ? target : 0].every((each) => each % alignment === 0);
    return isKernel && aligned && sourceFits && (targetFits || !writes);
  }
  if (opcode !== Opcode.updatePtes) return opcode === Opcode.checksum && sourceFits;
  const page = gpuPageBytes(value);
  return targetFits && target % page === 0 && source % page === 0 && length % page === 0;
}

const WORD_MAX = 0xffff_ffff;
const STATUSES: readonly number[] = Object.values(CompletionStatus);
/** In the place of a status: the command still runs. */
const RUNNING = 255;

/** The values of the command that runs; of none, nothing. */
export function saveCommand(command: Command | undefined): StateValues {
  if (!command) return { commandRuns: false };
  const { status = RUNNING, scalar, ...numbers } = command;
  // A scalar may be no number at all, which a state's numbers are not.
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

/** @throws StateError for a command that no engine can have come to */
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
  if (command.status === undefined && !canRun(command))
    throw state.error('command', 'makes no sense; accepted: one that this device would run');
  return command;
}

/** Bytes that the pieces of a command are multiples of. */
function unitOf(opcode: number, value: number): number {
  if (opcode === Opcode.updatePtes) return gpuPageBytes(value);
  if (opcode === Opcode.compute) return KERNELS[value]?.alignment ?? 1;
  if (isFence(opcode)) return FENCE_BYTES;
  return opcode === Opcode.fill ? 4 : 1;
}

/** True if the engine may go on with it. What its context reaches is looked at page by page, as ever. */
function canRun(command: Command): boolean {
  const { opcode, done, length, value, target, source, spentNs } = command;
  const unit = unitOf(opcode, value);
  const areAddresses = [target, source].every((at) => Number.isSafeInteger(at) && at >= 0);
  const isHere = done < length && done % unit === 0 && spentNs >= 0;
  if (isFence(opcode) && length !== FENCE_BYTES) return false;
  return areAddresses && isHere && opcode !== Opcode.nop && isValid(command, GPU_VA_LIMIT_3);
}
