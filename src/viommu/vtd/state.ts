/**
 * Saved state of a VT-d unit: its registers, and the values that it has latched from them. QEMU's `vtd_vmstate` has the
 * same content: the register file, the root and queue in use, and the type of the last descriptor.
 *
 * Not saved: the IOTLB, the interrupt entry cache, the contexts cached for devices and, as in QEMU, its other caches. Hardware may drop a cached
 * entry at any time. A guest can therefore notice only for an entry that it has changed and not yet invalidated: the
 * new entry is in use early. No command is pending: a command or a queue run has ended before a unit is saved.
 */

import * as vtd from '../../abi/vtd.ts';
import { hex } from '../../memory/address.ts';
import { decodeState, encodeState, type StateReader } from '../../proto/state-codec.ts';
import {
  type DeviceBits,
  registerValues,
  restoreRegisters,
  softwareBits,
} from '../../registers/register-state.ts';
import { checkQuirks } from '../quirks.ts';
import type { VtdParts } from './parts.ts';
import type { VtdRegister, VtdRegisterFile } from './registers.ts';

const KIND = 'vtd';
const VERSION = 2;

/** Returns the status bits of the commands that a unit performs. */
function statusBits({ capabilities, interrupts }: VtdParts): number {
  const translation = (capabilities.dmaTranslation ?? true) ? vtd.GCMD_TE : 0;
  return (vtd.GCMD_SRTP | vtd.GCMD_QIE | translation | interrupts.statusBits) >>> 0;
}

/** Register bits that the unit itself sets, besides those that software writes. */
const deviceBits = (parts: VtdParts): DeviceBits<VtdRegister> => ({
  GSTS: BigInt(statusBits(parts)),
  CCMD: 3n << vtd.CCMD.CAIG_SHIFT,
  IOTLB: 3n << vtd.IOTLB.IAIG_SHIFT,
  FSTS: BigInt(vtd.FSTS_PFO | vtd.FSTS_PPF | vtd.FSTS_IQE),
  FECTL: BigInt(vtd.EVENT_IP),
  IECTL: BigInt(vtd.EVENT_IP),
  IQH: vtd.IQT_MASK,
  ICS: BigInt(vtd.ICS_IWC),
  // An address of a page, or an index of 16 bits.
  FRCD_LO: ~0xfffn & 0xffff_ffff_ffff_ffffn,
  FRCD_HI: vtd.FRCD.F | vtd.FRCD.T | (vtd.FRCD.REASON_MASK << vtd.FRCD.REASON_SHIFT) | vtd.FRCD.SID_MASK,
});

/** Returns the state of a unit. Nothing may be in progress. */
export function saveUnit({ registers, contexts, queue, interrupts, quirks }: VtdParts): Uint8Array {
  return encodeState(KIND, VERSION, {
    ...registerValues(registers),
    // RTADDR and IQA may have been written since. The new values take effect at the next SRTP and QIE.
    rootInUse: contexts.latchedRoot,
    queueInUse: queue.latched,
    interruptTableInUse: interrupts.latched,
    lastDescriptorWaits: queue.lastWasWait,
    quirks,
  });
}

/**
 * Restores the state of another unit with the same capabilities.
 * @returns true if DMA is translated
 * @throws StateError
 */
export function restoreUnit(bytes: Uint8Array, parts: VtdParts): boolean {
  const { registers, contexts, queue, interrupts } = parts;
  const state = decodeState(bytes, KIND, VERSION);
  checkQuirks(state, parts.quirks);
  restoreRegisters(registers, state, deviceBits(parts));
  checkFaults(registers, state);
  contexts.setRoot(within(state, 'rootInUse', softwareBits(registers, 'RTADDR')));
  const status = registers.get32('GSTS');
  const table = within(state, 'interruptTableInUse', softwareBits(registers, 'IRTA'));
  if ((status & vtd.GCMD_SIRTP) === 0 && table !== 0n)
    throw state.error('interruptTableInUse', `is ${hex(table)}; accepted: 0 before SIRTP`);
  interrupts.restore(table, status);
  restoreQueue(parts, state, (status & vtd.GCMD_QIE) !== 0);
  if (parts.quirks === 'spec' && queue.ready)
    throw state.error('IQH', `is ${registers.get32('IQH')}; accepted: IQT, the queue has been drained`);
  return (status & vtd.GCMD_TE) !== 0;
}

/** Checks that FSTS.PPF equals the F bit of the one fault recording register. */
function checkFaults(registers: VtdRegisterFile, state: StateReader): void {
  const recorded = (registers.get('FRCD_HI') & vtd.FRCD.F) !== 0n;
  if (recorded !== ((registers.get32('FSTS') & vtd.FSTS_PPF) !== 0))
    throw state.error('FSTS', `does not agree with FRCD_HI; accepted: PPF ${recorded ? 1 : 0}`);
}

function restoreQueue({ registers, queue }: VtdParts, state: StateReader, enabled: boolean): void {
  const latched = within(state, 'queueInUse', softwareBits(registers, 'IQA'));
  // Software cannot move an enabled queue.
  if (enabled && latched !== registers.get('IQA'))
    throw state.error('queueInUse', `is ${hex(latched)}; accepted: IQA while the queue is enabled`);
  queue.restore(latched, enabled, state.boolean('lastDescriptorWaits'));
  const head = registers.get32('IQH');
  const { bytes, descriptorBytes } = queue;
  const accepted = enabled ? `multiples of ${descriptorBytes} below ${bytes}` : '0 without a queue';
  if (enabled ? head >= bytes || head % descriptorBytes !== 0 : head !== 0)
    throw state.error('IQH', `is ${head}; accepted: ${accepted}`);
}

/** Returns a value that has only bits of `mask`. @throws StateError */
function within(state: StateReader, name: string, mask: bigint): bigint {
  const value = state.bigint(name);
  if ((value & ~mask) !== 0n) throw state.error(name, `is ${hex(value)}; accepted: bits ${hex(mask)}`);
  return value;
}
