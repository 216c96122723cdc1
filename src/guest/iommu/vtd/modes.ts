/**
 * Translation modes of the VT-d driver, and the capabilities that they need.
 */

import * as vtd from '../../../abi/vtd.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import { ContextTables, type DeviceTables, type DeviceTablesState, PasidTables } from './context-tables.ts';
import { FIRST_STAGE_IOTLB, type IotlbDescriptors, SECOND_STAGE_IOTLB } from './descriptors.ts';
import { type EntryEncoding, FIRST_STAGE_ENTRIES, SECOND_STAGE_ENTRIES } from './page-table-editor.ts';

/** Thrown for a request that the driver or the hardware does not support. */
export class VtdDriverError extends Error {
  override name = 'VtdDriverError';
}

/** Legacy mode, or scalable mode with page tables of the named stage. */
export type VtdMode = 'legacy' | 'second-stage' | 'first-stage';

/** Capabilities of the hardware for one mode. */
export interface VtdCapabilities {
  /** CAP.CM: entries must also be invalidated when they become present. */
  readonly cachingMode: boolean;
  /** ECAP.PT. */
  readonly passThrough: boolean;
  /** Count of levels of the page tables. */
  readonly levels: number;
  /** Level of the largest leaf: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB. */
  readonly largestLeaf: number;
  /** Largest address mask of a page-selective invalidation, or -1 if there is no such invalidation. */
  readonly maxAddressMask: number;
  /** Register offset of the first fault recording register. */
  readonly faultOffset: number;
  /** Always true: VT-d has at least one fault recording register. */
  readonly faultRecords: true;
}

/** The parts of a mode. */
export interface ModeParts {
  readonly scalable: boolean;
  readonly encoding: EntryEncoding;
  readonly iotlb: IotlbDescriptors;
  /** Required bits of ECAP. */
  readonly needs: bigint;
  tables(ram: GuestRam, pages: PageAllocator, saved?: DeviceTablesState): DeviceTables;
  /** Level of the largest leaf. */
  largestLeaf(cap: bigint): number;
}

const secondStageLeaf = (cap: bigint): number =>
  (cap & vtd.CAP.SLLPS_1G) !== 0n ? 3 : (cap & vtd.CAP.SLLPS_2M) !== 0n ? 2 : 1;

/** The parts of each mode. */
export const MODES: Readonly<Record<VtdMode, ModeParts>> = {
  legacy: {
    scalable: false,
    encoding: SECOND_STAGE_ENTRIES,
    iotlb: SECOND_STAGE_IOTLB,
    needs: vtd.ECAP.QI,
    tables: (ram, pages, saved) => new ContextTables(ram, pages, saved),
    largestLeaf: secondStageLeaf,
  },
  'second-stage': {
    scalable: true,
    encoding: SECOND_STAGE_ENTRIES,
    iotlb: SECOND_STAGE_IOTLB,
    needs: vtd.ECAP.QI | vtd.ECAP.SMTS | vtd.ECAP.SSTS,
    tables: (ram, pages, saved) => new PasidTables(ram, pages, vtd.PGTT_SECOND_STAGE, saved),
    largestLeaf: secondStageLeaf,
  },
  'first-stage': {
    scalable: true,
    encoding: FIRST_STAGE_ENTRIES,
    iotlb: FIRST_STAGE_IOTLB,
    needs: vtd.ECAP.QI | vtd.ECAP.SMTS | vtd.ECAP.FSTS,
    tables: (ram, pages, saved) => new PasidTables(ram, pages, vtd.PGTT_FIRST_STAGE, saved),
    largestLeaf: (cap) => ((cap & vtd.CAP.FS1GP) !== 0n ? 3 : 2),
  },
};

/** Names of the capabilities that a mode may need. */
const NEEDED: readonly { readonly bit: bigint; readonly what: string }[] = [
  { bit: vtd.ECAP.QI, what: 'queued invalidation (ECAP.QI)' },
  { bit: vtd.ECAP.SMTS, what: 'scalable mode (ECAP.SMTS)' },
  { bit: vtd.ECAP.SSTS, what: 'second-stage translation in scalable mode (ECAP.SSTS)' },
  { bit: vtd.ECAP.FSTS, what: 'first-stage translation (ECAP.FSTS)' },
];

/**
 * Reads the capabilities of the hardware for a mode.
 * @param wanted count of levels of the page tables; undefined for the maximum
 * @throws VtdDriverError if the hardware lacks a capability that the mode needs
 */
export async function readCapabilities(
  port: RegisterPort,
  mode: VtdMode,
  wanted: number | undefined,
): Promise<VtdCapabilities> {
  const { CAP, ECAP } = vtd;
  const cap = await port.read(vtd.CAP_REG, 8);
  const ecap = await port.read(vtd.ECAP_REG, 8);
  const widest = (cap & CAP.SAGAW_48) !== 0n ? 4 : (cap & CAP.SAGAW_39) !== 0n ? 3 : 0;
  const levels = wanted ?? widest;
  if (widest === 0) throw new VtdDriverError('the hardware does not translate DMA (CAP.SAGAW is 0)');
  if (levels > widest) throw new VtdDriverError(`the hardware has ${widest} levels of tables, not ${levels}`);
  const missing = NEEDED.filter(({ bit }) => (MODES[mode].needs & bit & ~ecap) !== 0n);
  if (missing.length > 0)
    throw new VtdDriverError(`the hardware has no ${missing.map(({ what }) => what).join(', no ')}`);
  if (mode === 'first-stage' && levels !== vtd.FS_LEVELS)
    throw new VtdDriverError(`first-stage tables have ${vtd.FS_LEVELS} levels, not ${levels}`);
  return {
    cachingMode: (cap & CAP.CM) !== 0n,
    passThrough: (ecap & ECAP.PT) !== 0n,
    levels,
    largestLeaf: MODES[mode].largestLeaf(cap),
    maxAddressMask: (cap & CAP.PSI) !== 0n ? Number((cap >> CAP.MAMV_SHIFT) & CAP.MAMV_MASK) : -1,
    faultRecords: true,
    faultOffset: Number((cap >> CAP.FRO_SHIFT) & CAP.FRO_MASK) * 16,
  };
}
