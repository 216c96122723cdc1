/**
 * A unit's state on its way to another host: its registers, and what it has latched from them. QEMU's `vtd_vmstate`
 * has the same: the register file, root and queue in use, and the type of the last descriptor.
 *
 * Dropped: the IOTLB, the contexts cached for devices and, as QEMU does, its other caches. Hardware may drop an entry
 * at any time, so a guest can tell only for what it has changed and not yet invalidated; it then finds the new
 * entry early. Nothing waits: a command or a queue that runs has ended before a unit is saved.
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
import type { Quirks } from '../quirks.ts';
import type { ContextLookup } from './context-lookup.ts';
import type { InvalidationQueue } from './invalidation-queue.ts';
import type { IntelCapabilities, VtdRegister, VtdRegisterFile } from './registers.ts';

const KIND = 'vtd';
const VERSION = 1;

/** What of a unit has state. */
export interface VtdParts {
  readonly registers: VtdRegisterFile;
  readonly routes: ContextLookup;
  readonly queue: InvalidationQueue;
  readonly capabilities: IntelCapabilities;
  readonly quirks: Quirks;
}

/** Status bits of the commands that a unit with these capabilities carries out. */
function statusBits({ dmaTranslation = true, intremap = true }: IntelCapabilities): number {
  const translation = dmaTranslation ? vtd.GCMD_TE : 0;
  const interrupts = intremap ? vtd.GCMD_IRE | vtd.GCMD_SIRTP : 0;
  return (vtd.GCMD_SRTP | vtd.GCMD_QIE | translation | interrupts) >>> 0;
}

/** What the unit itself sets, beside what software writes. */
const deviceBits = (capabilities: IntelCapabilities): DeviceBits<VtdRegister> => ({
  GSTS: BigInt(statusBits(capabilities)),
  CCMD: 3n << vtd.CCMD.CAIG_SHIFT,
  IOTLB: 3n << vtd.IOTLB.IAIG_SHIFT,
  FSTS: BigInt(vtd.FSTS_PFO | vtd.FSTS_PPF | vtd.FSTS_IQE),
  FECTL: BigInt(vtd.EVENT_IP),
  IECTL: BigInt(vtd.EVENT_IP),
  IQH: vtd.IQT_MASK,
  ICS: BigInt(vtd.ICS_IWC),
  FRCD_LO: ~0xfffn & 0xffff_ffff_ffff_ffffn,
  FRCD_HI: vtd.FRCD.F | vtd.FRCD.T | (vtd.FRCD.REASON_MASK << vtd.FRCD.REASON_SHIFT) | vtd.FRCD.SID_MASK,
});

/** The state of a unit at which nothing is under way. */
export function saveUnit({ registers, routes, queue, quirks }: VtdParts): Uint8Array {
  return encodeState(KIND, VERSION, {
    ...registerValues(registers),
    // RTADDR and IQA may have been written since: not in use before the next SRTP and QIE.
    rootInUse: routes.latchedRoot,
    queueInUse: queue.latched,
    lastDescriptorWaits: queue.lastWasWait,
    quirks,
  });
}

/**
 * Takes up the state of another unit of the same capabilities.
 * @returns whether DMA is translated
 * @throws StateError
 */
export function restoreUnit(bytes: Uint8Array, parts: VtdParts): boolean {
  const { registers, routes, queue, capabilities } = parts;
  const state = decodeState(bytes, KIND, VERSION);
  const quirks = state.text('quirks');
  if (quirks !== parts.quirks)
    throw state.error('quirks', `is '${quirks.slice(0, 20)}'; accepted: ${parts.quirks}`);
  restoreRegisters(registers, state, deviceBits(capabilities));
  checkFaults(registers, state);
  routes.setRoot(within(state, 'rootInUse', softwareBits(registers, 'RTADDR')));
  const status = registers.get32('GSTS');
  restoreQueue(parts, state, (status & vtd.GCMD_QIE) !== 0);
  if (parts.quirks === 'spec' && queue.ready)
    throw state.error('IQH', `is ${registers.get32('IQH')}; accepted: IQT, the queue has been drained`);
  return (status & vtd.GCMD_TE) !== 0;
}

/** FSTS.PPF says what the F bit of the one fault recording register says. */
function checkFaults(registers: VtdRegisterFile, state: StateReader): void {
  const recorded = (registers.get('FRCD_HI') & vtd.FRCD.F) !== 0n;
  if (recorded !== ((registers.get32('FSTS') & vtd.FSTS_PPF) !== 0))
    throw state.error('FSTS', `does not agree with FRCD_HI; accepted: PPF ${recorded ? 1 : 0}`);
}

function restoreQueue({ registers, queue }: VtdParts, state: StateReader, enabled: boolean): void {
  const latched = within(state, 'queueInUse', softwareBits(registers, 'IQA'));
  // An enabled queue cannot be moved.
  if (enabled && latched !== registers.get('IQA'))
    throw state.error('queueInUse', `is ${hex(latched)}; accepted: IQA while the queue is enabled`);
  queue.restore(latched, enabled, state.boolean('lastDescriptorWaits'));
  const head = registers.get32('IQH');
  const { bytes, descriptorBytes } = queue;
  const accepted = enabled ? `multiples of ${descriptorBytes} below ${bytes}` : '0 without a queue';
  if (enabled ? head >= bytes || head % descriptorBytes !== 0 : head !== 0)
    throw state.error('IQH', `is ${head}; accepted: ${accepted}`);
}

/** A value of bits that software can write to a register. */
function within(state: StateReader, name: string, mask: bigint): bigint {
  const value = state.bigint(name);
  if ((value & ~mask) !== 0n) throw state.error(name, `is ${hex(value)}; accepted: bits ${hex(mask)}`);
  return value;
}
