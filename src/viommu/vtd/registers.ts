/**
 * Table of VT-d's registers (specification section 11.4), with reset values and masks of QEMU's model.
 */

import * as vtd from '../../abi/vtd.ts';
import { IRTA_EIME } from '../../abi/vtd-interrupts.ts';
import { RegisterFile, type RegisterSpec } from '../../registers/register-file.ts';
import type { Quirks } from '../quirks.ts';

/** Size of the MMIO page, bytes. */
export const REGISTER_BYTES = 0x1000;

/** MAMV: the largest address mask of a page-selective invalidation, 2^18 pages. */
export const MAX_ADDRESS_MASK = 18;

/** Capabilities of a unit. They determine CAP and ECAP. */
export interface IntelCapabilities {
  /** Guest and host address width. 39 bits means tables of 3 levels, 48 bits of 3 or 4. */
  readonly awBits: 39 | 48;
  /** CAP.CM: software also invalidates when an entry becomes present. */
  readonly cachingMode: boolean;
  /** ECAP.SC: bit 11 of a 4 KiB leaf is SNP, no longer reserved. */
  readonly snoopControl?: boolean;
  /** ECAP.DT: translation type 1 is allowed. */
  readonly deviceIotlb?: boolean;
  /** ECAP.IR; default true. */
  readonly intremap?: boolean;
  /** ECAP.EIM: interrupts may have destinations of 32 bits; default false. */
  readonly eim?: boolean;
  /** Without `eim`: IRTA.EIME reads back as written, as in the recorded registers; it has no effect. */
  readonly eimeSticks?: boolean;
  /** False makes GCMD.TE inert and clears SAGAW (QEMU's dma-translation=off); default true. */
  readonly dmaTranslation?: boolean;
  /** With `deviceIotlb`: bit 62 of a leaf is TM, as in older specification revisions. */
  readonly staleTm?: boolean;
  /** ECAP.SMTS: RTADDR.TTM may select scalable mode, and the queue may have 256-bit descriptors. */
  readonly scalable?: boolean;
  /** With `scalable`, ECAP.FSTS: PASID entries may have first-stage tables. */
  readonly firstStage?: boolean;
  /** With `scalable`, ECAP.SSTS: PASID entries may have second-stage tables; default: true without `firstStage`. */
  readonly secondStage?: boolean;
  /** CAP.FS1GP: first-stage tables may have 1 GiB leaves; default true. */
  readonly firstStage1G?: boolean;
  /** With `scalable`: ECAP.PASID and PSS, the size of a PASID in bits (1–20); default 0, none. */
  readonly pasidBits?: number;
}

export type VtdRegister =
  | 'VER'
  | 'CAP'
  | 'ECAP'
  | 'GCMD'
  | 'GSTS'
  | 'RTADDR'
  | 'CCMD'
  | 'FSTS'
  | 'FECTL'
  | 'FEDATA'
  | 'FEADDR'
  | 'FEUADDR'
  | 'AFLOG'
  | 'PMEN'
  | 'PLMBASE'
  | 'PLMLIMIT'
  | 'PHMBASE'
  | 'PHMLIMIT'
  | 'IQH'
  | 'IQT'
  | 'IQA'
  | 'ICS'
  | 'IECTL'
  | 'IEDATA'
  | 'IEADDR'
  | 'IEUADDR'
  | 'IQERCD'
  | 'IRTA'
  | 'IVA'
  | 'IOTLB'
  | 'FRCD_LO'
  | 'FRCD_HI';

/** Section 11.4.2. Domain ids have 16 bits. There is one fault recording register (NFR 0). */
function capRegister(options: IntelCapabilities): bigint {
  const { CAP } = vtd;
  let cap =
    CAP.ND_16BIT |
    (BigInt(options.awBits - 1) << CAP.MGAW_SHIFT) |
    (BigInt(vtd.FRCD_LO_REG / 16) << CAP.FRO_SHIFT) |
    CAP.SLLPS_2M |
    CAP.SLLPS_1G |
    CAP.PSI |
    (BigInt(MAX_ADDRESS_MASK) << CAP.MAMV_SHIFT) |
    CAP.DWD |
    CAP.DRD |
    CAP.ESRTPS;
  if (options.cachingMode) cap |= CAP.CM;
  if (options.scalable && options.firstStage && (options.firstStage1G ?? true)) cap |= CAP.FS1GP;
  if (options.dmaTranslation ?? true) {
    cap |= CAP.SAGAW_39;
    if (options.awBits === 48) cap |= CAP.SAGAW_48;
  }
  return cap;
}

/** True if scalable mode has second-stage tables. By default a unit has one of the two stages, as in QEMU. */
export const hasSecondStage = (options: IntelCapabilities): boolean =>
  options.secondStage ?? !(options.firstStage ?? false);

/** Section 11.4.3. */
function ecapRegister(options: IntelCapabilities): bigint {
  const { ECAP } = vtd;
  let ecap = ECAP.QI | ECAP.PT | (BigInt(vtd.IVA_REG / 16) << ECAP.IRO_SHIFT);
  if (options.intremap ?? true) ecap |= ECAP.IR | (0xfn << ECAP.MHMV_SHIFT);
  if (options.eim) ecap |= ECAP.EIM;
  if (options.snoopControl) ecap |= ECAP.SC;
  if (options.deviceIotlb) ecap |= ECAP.DT;
  if (!options.scalable) return ecap;
  ecap |= ECAP.SMTS;
  if (options.firstStage) ecap |= ECAP.FSTS;
  if (hasSecondStage(options)) ecap |= ECAP.SSTS | ECAP.SRS;
  if (options.pasidBits) ecap |= ECAP.PASID | (BigInt(options.pasidBits - 1) << ECAP.PSS_SHIFT);
  return ecap;
}

function table(options: IntelCapabilities, quirks: Quirks): RegisterSpec<VtdRegister>[] {
  const asQemu = quirks === 'qemu';
  // QEMU has no upper halves of message addresses, and stores EIME without EIM.
  const upper = options.eim && !asQemu ? 0xffffffffn : 0n;
  const extended = options.eim || options.eimeSticks || asQemu ? IRTA_EIME : 0n;
  const eventControl = { size: 4, reset: BigInt(vtd.EVENT_IM), rw: BigInt(vtd.EVENT_IM) } as const;
  const eventAddress = { size: 4, rw: 0xfffffffcn } as const;
  return [
    { name: 'VER', offset: vtd.VER_REG, size: 4, reset: vtd.VER_1_0, spec: '11.4.1' },
    { name: 'CAP', offset: vtd.CAP_REG, size: 8, reset: capRegister(options), spec: '11.4.2' },
    { name: 'ECAP', offset: vtd.ECAP_REG, size: 8, reset: ecapRegister(options), spec: '11.4.3' },
    { name: 'GCMD', offset: vtd.GCMD_REG, size: 4, rw: 0xffffffffn, spec: '11.4.4.1' },
    { name: 'GSTS', offset: vtd.GSTS_REG, size: 4, spec: '11.4.4.2' },
    { name: 'RTADDR', offset: vtd.RTADDR_REG, size: 8, rw: 0xfffffffffffffc00n, spec: '11.4.5' },
    { name: 'CCMD', offset: vtd.CCMD_REG, size: 8, rw: 0xe0000003ffffffffn, spec: '11.4.6.1' },
    { name: 'FSTS', offset: vtd.FSTS_REG, size: 4, w1c: 0x11n, spec: '11.4.7.1' },
    { name: 'FECTL', offset: vtd.FECTL_REG, ...eventControl, spec: '11.4.7.2' },
    { name: 'FEDATA', offset: vtd.FEDATA_REG, size: 4, rw: 0xffffn, spec: '11.4.7.3' },
    { name: 'FEADDR', offset: vtd.FEADDR_REG, ...eventAddress, spec: '11.4.7.4' },
    { name: 'FEUADDR', offset: vtd.FEUADDR_REG, size: 4, rw: upper, spec: '11.4.7.5' },
    // The unit has neither advanced fault logging nor protected memory.
    { name: 'AFLOG', offset: vtd.AFLOG_REG, size: 8, spec: '11.4.7.7' },
    { name: 'PMEN', offset: vtd.PMEN_REG, size: 4, spec: '11.4.8.1' },
    { name: 'PLMBASE', offset: vtd.PLMBASE_REG, size: 4, spec: '11.4.8.2' },
    { name: 'PLMLIMIT', offset: vtd.PLMLIMIT_REG, size: 4, spec: '11.4.8.3' },
    { name: 'PHMBASE', offset: vtd.PHMBASE_REG, size: 8, spec: '11.4.8.4' },
    { name: 'PHMLIMIT', offset: vtd.PHMLIMIT_REG, size: 8, spec: '11.4.8.5' },
    { name: 'IQH', offset: vtd.IQH_REG, size: 8, spec: '11.4.9.1' },
    { name: 'IQT', offset: vtd.IQT_REG, size: 8, rw: vtd.IQT_MASK, spec: '11.4.9.2' },
    {
      name: 'IQA',
      offset: vtd.IQA_REG,
      size: 8,
      rw: vtd.IQA_ADDRESS_MASK | vtd.IQA_QS_MASK | (options.scalable ? vtd.IQA_DW : 0n),
      spec: '11.4.9.3',
    },
    { name: 'ICS', offset: vtd.ICS_REG, size: 4, w1c: 1n, spec: '11.4.9.6' },
    { name: 'IECTL', offset: vtd.IECTL_REG, ...eventControl, spec: '11.4.9.7' },
    { name: 'IEDATA', offset: vtd.IEDATA_REG, size: 4, rw: 0xffffffffn, spec: '11.4.9.8' },
    { name: 'IEADDR', offset: vtd.IEADDR_REG, ...eventAddress, spec: '11.4.9.9' },
    { name: 'IEUADDR', offset: vtd.IEUADDR_REG, size: 4, rw: upper, spec: '11.4.9.10' },
    { name: 'IQERCD', offset: vtd.IQERCD_REG, size: 8, spec: '11.4.9.4' },
    { name: 'IRTA', offset: vtd.IRTA_REG, size: 8, rw: 0xfffffffffffff00fn | extended, spec: '11.4.10' },
    { name: 'IVA', offset: vtd.IVA_REG, size: 8, rw: 0xfffffffffffff07fn, spec: '11.4.6.3' },
    { name: 'IOTLB', offset: vtd.IOTLB_REG, size: 8, rw: 0xb003ffff00000000n, spec: '11.4.6.2' },
    { name: 'FRCD_LO', offset: vtd.FRCD_LO_REG, size: 8, spec: '11.4.7.6' },
    { name: 'FRCD_HI', offset: vtd.FRCD_HI_REG, size: 8, w1c: vtd.FRCD.F, spec: '11.4.7.6' },
  ];
}

/** Fields that software can write but that read as 0: register offset, bytes, mask. */
const WRITE_ONLY: readonly { readonly offset: number; readonly size: number; readonly mask: bigint }[] = [
  { offset: vtd.GCMD_REG, size: 4, mask: 0xffffffffn },
  { offset: vtd.CCMD_REG, size: 8, mask: 0x3ffff0000n },
  { offset: vtd.IVA_REG, size: 8, mask: 0xffffffffffffffffn },
];

export type VtdRegisterFile = RegisterFile<VtdRegister>;

/** Returns a register file in its reset state. */
export const createRegisters = (options: IntelCapabilities, quirks: Quirks): VtdRegisterFile =>
  new RegisterFile(REGISTER_BYTES, table(options, quirks));

/**
 * Reads as software does: write-only fields are 0.
 * @param latchedQueue replaces IQA's address bits; undefined: IQA reads back as written
 */
export function readVisible(
  registers: VtdRegisterFile,
  offset: number,
  size: number,
  latchedQueue?: bigint,
): bigint {
  let value = registers.read(offset, size);
  for (const field of WRITE_ONLY) value &= ~partOf(field.offset, field.size, field.mask, offset, size);
  if (latchedQueue === undefined) return value;
  value &= ~partOf(vtd.IQA_REG, 8, vtd.IQA_ADDRESS_MASK, offset, size);
  return value | partOf(vtd.IQA_REG, 8, latchedQueue, offset, size);
}

/** Returns the bits of a field of `bytes` at `at`, shifted to an access of `size` at `offset`. */
function partOf(at: number, bytes: number, bits: bigint, offset: number, size: number): bigint {
  if (offset >= at + bytes || offset + size <= at) return 0n;
  const shift = BigInt(8 * Math.abs(at - offset));
  return BigInt.asUintN(8 * size, at >= offset ? bits << shift : bits >> shift);
}

/** Returns the 64-bit address of an event's message. */
export const messageAddress = (
  registers: VtdRegisterFile,
  low: 'FEADDR' | 'IEADDR',
  high: 'FEUADDR' | 'IEUADDR',
): number => registers.get32(high) * 2 ** 32 + registers.get32(low);
