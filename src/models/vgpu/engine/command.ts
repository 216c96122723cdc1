/**
 * One command of a ring, and its progress.
 */

import { CommandWord, FENCE_BYTES, Opcode } from '../../../abi/vgpu/vgpu.ts';

export interface Command {
  readonly opcode: number;
  readonly sequence: number;
  readonly target: number;
  readonly source: number;
  readonly length: number;
  readonly value: number;
  readonly context: number;
  readonly scalar: number;
  /** Bytes done. */
  done: number;
  /** CRC-32 so far, a kernel's result so far, or the word that a wait has read. */
  crc: number;
  /** Engine time used, ns. */
  spentNs: number;
  /** Completion status; undefined while the command runs. */
  status: number | undefined;
}

export const isFence = (opcode: number): boolean => opcode === Opcode.signal || opcode === Opcode.wait;

/** Returns true for a wait that has not ended. */
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
