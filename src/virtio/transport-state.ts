/**
 * Saved state of a virtio MMIO transport: registers, features and, for each ready queue, its addresses and the device's
 * ring indices. Descriptors and rings are in guest RAM.
 */

import * as virtio from '../abi/virtio.ts';
import { hex } from '../memory/address.ts';
import { decodeState, encodeState, type StateReader, type StateValues } from '../proto/state-codec.ts';
import type { RegisterFile } from '../registers/register-file.ts';
import { type DeviceBits, registerValues, restoreRegisters } from '../registers/register-state.ts';
import type { DeviceQueue, QueueState } from './device-queue.ts';
import type { MmioRegister } from './mmio-registers.ts';

const KIND = 'virtio-mmio';
const VERSION = 1;

/** Registers derived from other state. They are not saved. */
const DERIVED: readonly MmioRegister[] = ['DEVICE_FEATURES', 'QUEUE_SIZE_MAX', 'QUEUE_READY'];
const DEVICE_BITS: DeviceBits<MmioRegister> = {
  INTERRUPT_STATUS: BigInt(virtio.INTERRUPT_USED | virtio.INTERRUPT_CONFIG),
  STATUS: BigInt(virtio.STATUS_NEEDS_RESET),
};
/** Ring indices have 16 bits. */
const INDEX_MAX = 0xffff;
/** Largest 64-bit GPA as a float64: 2^64 - 1 rounds to it. */
const GPA_MAX = 2 ** 64;

/** State of a transport besides its registers and queues. */
export interface TransportValues {
  /** Last values written to DRIVER_FEATURES, by DRIVER_FEATURES_SEL. */
  readonly driverFeatures: readonly [bigint, bigint];
  readonly negotiated: bigint;
}

export function saveTransport(
  registers: RegisterFile<MmioRegister>,
  { driverFeatures: [low, high], negotiated }: TransportValues,
  queues: readonly DeviceQueue[],
): Uint8Array {
  return encodeState(KIND, VERSION, {
    ...registerValues(registers, DERIVED),
    driverFeatures: low | (high << 32n),
    negotiated,
    ...Object.assign({}, ...queues.map(queueValues)),
  });
}

function queueValues(queue: DeviceQueue, i: number): StateValues {
  const { state } = queue;
  if (!state) return { [`queue${i}.ready`]: false };
  const { size, desc, avail, used } = state.at;
  return {
    [`queue${i}.ready`]: true,
    [`queue${i}.size`]: size,
    [`queue${i}.desc`]: desc,
    [`queue${i}.avail`]: avail,
    [`queue${i}.used`]: used,
    [`queue${i}.eventIdx`]: state.eventIdx,
    [`queue${i}.seenIndex`]: state.seen,
    [`queue${i}.usedIndex`]: state.given,
  };
}

/**
 * Restores registers and queues of another transport. Derived registers are left to the caller.
 * @param offered the device's features
 * @param sizes maximum entries of each queue
 * @throws StateError
 */
export function restoreTransport(
  bytes: Uint8Array,
  registers: RegisterFile<MmioRegister>,
  offered: bigint,
  sizes: readonly number[],
  queues: readonly DeviceQueue[],
): TransportValues {
  const state = decodeState(bytes, KIND, VERSION);
  restoreRegisters(registers, state, DEVICE_BITS, DERIVED);
  const negotiated = state.bigint('negotiated');
  if ((negotiated & ~offered) !== 0n)
    throw state.error('negotiated', `is ${hex(negotiated)}; accepted: of the features ${hex(offered)}`);
  for (const [i, queue] of queues.entries()) queue.restore(queueState(state, i, sizes[i] as number));
  const features = state.bigint('driverFeatures');
  return { negotiated, driverFeatures: [BigInt.asUintN(32, features), features >> 32n] };
}

/** Returns undefined if the queue is not ready. Addresses may be any that a driver can write: each use checks them. */
function queueState(state: StateReader, i: number, most: number): QueueState | undefined {
  if (!state.boolean(`queue${i}.ready`)) return undefined;
  const address = (ring: string) => {
    const gpa = state.number(`queue${i}.${ring}`);
    if (!(Number.isInteger(gpa) && gpa >= 0 && gpa <= GPA_MAX))
      throw state.error(`queue${i}.${ring}`, `is ${gpa}; accepted: integers of 64 bits`);
    return gpa;
  };
  const at = {
    size: state.integer(`queue${i}.size`, most),
    desc: address('desc'),
    avail: address('avail'),
    used: address('used'),
  };
  return {
    at,
    eventIdx: state.boolean(`queue${i}.eventIdx`),
    seen: state.integer(`queue${i}.seenIndex`, INDEX_MAX),
    given: state.integer(`queue${i}.usedIndex`, INDEX_MAX),
  };
}
