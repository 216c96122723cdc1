/**
 * Saved state of an AMD-Vi unit: its registers and PCI function, and what it has latched from them.
 *
 * Not saved: cached device table entries. Hardware may drop a cached entry at any time. A guest can therefore notice only
 * for an entry that it has changed and not yet invalidated: the new entry is in use early. No command is in progress.
 */

import * as amdvi from '../../abi/amdvi.ts';
import { hex } from '../../memory/address.ts';
import { decodeState, encodeState, type StateReader } from '../../proto/state-codec.ts';
import {
  type DeviceBits,
  registerValues,
  restoreRegisters,
  softwareBits,
} from '../../registers/register-state.ts';
import { checkQuirks, type Quirks } from '../quirks.ts';
import type { CommandBuffer } from './command-buffer.ts';
import type { DeviceTable } from './device-table.ts';
import type { EventLog } from './event-log.ts';
import type { ConfigRegister, PciFunction } from './pci-function.ts';
import type { AmdViRegister, AmdViRegisterFile } from './registers.ts';

const KIND = 'amdvi';
const VERSION = 1;
const DEVICE_LIMIT = 2 ** 16;

const { CONTROL, STATUS } = amdvi;

/** Register bits that the unit itself sets, besides those that software writes. */
const DEVICE_BITS: DeviceBits<AmdViRegister> = {
  Status:
    STATUS.EVENT_OVERFLOW |
    STATUS.EVENT_LOG_INT |
    STATUS.COM_WAIT_INT |
    STATUS.EVENT_LOG_RUN |
    STATUS.CMD_BUF_RUN,
};
const PCI_DEVICE_BITS: DeviceBits<ConfigRegister> = { PciStatus: 0x0800n };

/** The parts of a unit that have a state. */
export interface AmdViParts {
  readonly quirks: Quirks;
  readonly registers: AmdViRegisterFile;
  readonly pci: PciFunction;
  readonly table: DeviceTable;
  readonly log: EventLog;
  readonly buffer: CommandBuffer;
  /** QEMU: devices that are looked up. */
  readonly translated: Set<number>;
  /** Devices with SE whose first event is logged. */
  readonly logged: Set<number>;
}

/** Returns the state of a unit. Nothing may be in progress. */
export function saveUnit(parts: AmdViParts): Uint8Array {
  const { registers, pci, table, log, buffer, translated, logged, quirks } = parts;
  const { head, tail } = buffer.offsets;
  return encodeState(KIND, VERSION, {
    ...registerValues(registers),
    ...registerValues(pci.registers),
    deviceTableInUse: table.latched,
    commandBufferInUse: buffer.latched,
    eventLogInUse: log.latched,
    commandHead: head,
    commandTail: tail,
    commandsStopped: buffer.stopped,
    eventsStopped: log.stopped,
    translated: sorted(translated),
    logged: sorted(logged),
    quirks,
  });
}

const sorted = (ids: ReadonlySet<number>): number[] => [...ids].sort((a, b) => a - b);

/**
 * Restores the state of another unit with the same capabilities.
 * @returns true if the unit is enabled
 * @throws StateError
 */
export function restoreUnit(bytes: Uint8Array, parts: AmdViParts): boolean {
  const { registers, pci, table, log, translated, logged, quirks } = parts;
  const state = decodeState(bytes, KIND, VERSION);
  checkQuirks(state, quirks);
  restoreRegisters(registers, state, DEVICE_BITS);
  restoreRegisters(pci.registers, state, PCI_DEVICE_BITS);
  const asQemu = quirks === 'qemu';
  table.setPlace(latched(state, 'deviceTableInUse', registers, 'DeviceTable', asQemu));
  log.restore(
    latched(state, 'eventLogInUse', registers, 'EventBase', asQemu),
    state.boolean('eventsStopped'),
  );
  restoreBuffer(state, parts, asQemu);
  checkRunning(state, parts);
  for (const id of ids(state, 'translated', asQemu)) translated.add(id);
  for (const id of ids(state, 'logged', !asQemu)) logged.add(id);
  return (registers.get('Control') & CONTROL.IOMMU_EN) !== 0n;
}

/** Returns a base in use. Only QEMU may use another than the register's: it ignores some writes. */
function latched(
  state: StateReader,
  name: string,
  registers: AmdViRegisterFile,
  register: AmdViRegister,
  asQemu: boolean,
): bigint {
  const value = state.bigint(name);
  const here = registers.get(register);
  const accepted = asQemu ? (value & ~softwareBits(registers, register)) === 0n : value === here;
  if (!accepted) throw state.error(name, `is ${hex(value)}; accepted: ${hex(here)}, as in ${register}`);
  return value;
}

function restoreBuffer(state: StateReader, { registers, buffer }: AmdViParts, asQemu: boolean): void {
  const base = latched(state, 'commandBufferInUse', registers, 'CommandBase', asQemu);
  const [head, tail] = [state.integer('commandHead'), state.integer('commandTail')];
  buffer.restore(base, head, tail, state.boolean('commandsStopped'));
  const { bytes } = buffer.offsets;
  for (const [name, register, offset] of [
    ['commandHead', 'CommandHead', head],
    ['commandTail', 'CommandTail', tail],
  ] as const) {
    if (offset >= bytes || offset % amdvi.COMMAND_BYTES !== 0)
      throw state.error(name, `is ${offset}; accepted: multiples of ${amdvi.COMMAND_BYTES} below ${bytes}`);
    const shown = (registers.get32(register) & amdvi.POINTER_MASK) % bytes;
    if (!asQemu && shown !== offset)
      throw state.error(name, `is ${offset}; accepted: ${shown}, as in ${register}`);
  }
  if (buffer.ready)
    throw state.error('commandHead', `is ${head}; accepted: ${tail}, the commands are executed`);
}

/** Checks that the run bits agree with the control register, and that only what is enabled can have stopped. */
function checkRunning(state: StateReader, { registers, log, buffer, quirks }: AmdViParts): void {
  const control = registers.get('Control');
  const status = registers.get('Status');
  for (const { name, enable, run, stopped } of [
    { name: 'eventsStopped', enable: CONTROL.EVENT_LOG_EN, run: STATUS.EVENT_LOG_RUN, stopped: log.stopped },
    { name: 'commandsStopped', enable: CONTROL.CMD_BUF_EN, run: STATUS.CMD_BUF_RUN, stopped: buffer.stopped },
  ]) {
    const isEnabled = (control & enable) !== 0n;
    if (stopped && (!isEnabled || quirks === 'qemu')) throw state.error(name, 'is true; accepted: false');
    const runs = isEnabled && !stopped && (control & CONTROL.IOMMU_EN) !== 0n;
    if (((status & run) !== 0n) !== runs)
      throw state.error('Status', `is ${hex(status)}; accepted: ${runs ? 'with' : 'without'} ${hex(run)}`);
  }
}

/** Returns a list of device ids; empty unless `used`. */
function ids(state: StateReader, name: string, used: boolean): number[] {
  const found = state.numbers(name, used ? DEVICE_LIMIT : 0);
  for (const [i, id] of found.entries()) {
    const isNext = i === 0 || id > (found[i - 1] as number);
    if (!(Number.isInteger(id) && id >= 0 && id < DEVICE_LIMIT && isNext))
      throw state.error(name, `has ${id}; accepted: rising integers below ${DEVICE_LIMIT}`);
  }
  return found;
}
