/**
 * Scalable mode: lookup of a PASID's entry in PASID directory and PASID table. Specification sections 9.5 and 9.6.
 *
 * As in QEMU, a PASID is not compared with the directory's size (PDTS), and reserved bits of an entry are ignored.
 */

import * as vtd from '../../abi/vtd.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { type Blocked, blocked, tablePointer } from './legacy-context.ts';

/** Capabilities of a unit for PASID entries. */
export interface PasidFormat {
  readonly awBits: 39 | 48;
  /** ECAP.FSTS and ECAP.SSTS. */
  readonly firstStage: boolean;
  readonly secondStage: boolean;
  /** QEMU checks the translation type of an entry before it checks P. */
  readonly typeBeforePresent: boolean;
}

/** A valid PASID table entry. `width` is the width of its AW field in bits, `tables` the GPA of the top table. */
export interface PasidEntry {
  readonly ok: true;
  readonly type: number;
  readonly domainId: number;
  readonly width: number;
  readonly tables: number;
  /** FPD of the directory entry or of this entry. */
  readonly fpd: boolean;
}

/**
 * Reads the entry of `pasid`. The FPD bits of directory and entry apply only if the entry is valid.
 * @param ignorePresent treat the entry as present
 */
export function lookUpPasid(
  ram: GuestRam,
  directory: number,
  pasid: number,
  format: PasidFormat,
  ignorePresent = false,
): PasidEntry | Blocked {
  const slot = directory + Math.floor(pasid / vtd.PASID_TABLE_ENTRIES) * vtd.PASID_DIR_ENTRY_BYTES;
  if (!ram.contains(slot, vtd.PASID_DIR_ENTRY_BYTES)) return blocked(vtd.FAULT.PASID_DIR_UNREADABLE);
  const low = ram.read32(slot);
  if ((low & vtd.PASID_DIR_P) === 0) return blocked(vtd.FAULT.PASID_DIR_NOT_PRESENT);
  const table = tablePointer(low, ram.read32(slot + 4));
  const entry = table + (pasid % vtd.PASID_TABLE_ENTRIES) * vtd.PASID_ENTRY_BYTES;
  if (!ram.contains(entry, vtd.PASID_ENTRY_BYTES)) return blocked(vtd.FAULT.PASID_TABLE_UNREADABLE);
  const fpd = (low & vtd.PASID_DIR_FPD) !== 0;
  return readEntry(ram, entry, fpd, format, ignorePresent);
}

function readEntry(
  ram: GuestRam,
  entry: number,
  fpd: boolean,
  format: PasidFormat,
  ignorePresent: boolean,
): PasidEntry | Blocked {
  const low = ram.read32(entry);
  const paging = ram.read32(entry + 16);
  const type = (low >>> vtd.PASID_PGTT_SHIFT) & 7;
  const width = widthOfAw((low >>> vtd.PASID_AW_SHIFT) & 7);
  const present = ignorePresent || (low & vtd.PASID_P) !== 0;
  const valid = isValid(type, width, (paging >>> vtd.PASID_FSPM_SHIFT) & 3, format);
  if (!present && (valid || !format.typeBeforePresent)) return blocked(vtd.FAULT.PASID_NOT_PRESENT);
  if (!valid) return blocked(vtd.FAULT.PASID_INVALID);
  const firstStage = type === vtd.PGTT_FIRST_STAGE;
  return {
    ok: true,
    type,
    domainId: ram.read32(entry + 8) & 0xffff,
    width,
    tables: firstStage
      ? tablePointer(paging, ram.read32(entry + 20))
      : tablePointer(low, ram.read32(entry + 4)),
    fpd: fpd || (low & vtd.PASID_FPD) !== 0,
  };
}

function isValid(type: number, width: number, pagingMode: number, format: PasidFormat): boolean {
  if (type === vtd.PGTT_PASS_THROUGH) return true;
  if (type === vtd.PGTT_FIRST_STAGE) return format.firstStage && pagingMode === 0;
  const widthSupported = width === 39 || (width === 48 && format.awBits === 48);
  return type === vtd.PGTT_SECOND_STAGE && format.secondStage && widthSupported;
}

/** AW 1 is 39 bits, AW 2 is 48. */
const widthOfAw = (aw: number): number => vtd.widthOfLevels(vtd.levelsOfAw(aw));
