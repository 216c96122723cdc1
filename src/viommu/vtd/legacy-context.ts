/**
 * Legacy mode: lookup of a requester's context entry in root and context table. Specification sections 9.1 and 9.3.
 */

import * as vtd from '../../abi/vtd.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';

/** Bits 11:1 of the low half. The whole high half is reserved too. */
const ROOT_RESERVED_LOW = 0xffe;
/** Bits 11:4. */
const CONTEXT_RESERVED_LOW = 0xff0;
/** Bits 71 and 95:88 of the entry; 70:67 are ignored. */
const CONTEXT_RESERVED_WORD_2 = 0xff000080;

/** A blocked request. `fpd`: the context entry disables the recording of qualified faults. */
export interface Blocked {
  readonly ok: false;
  readonly reason: number;
  readonly fpd: boolean;
}

/** A valid context entry. `tables` is the GPA of the top second-level table, `levels` 3 or 4. */
export interface Context {
  readonly ok: true;
  readonly passThrough: boolean;
  readonly domainId: number;
  readonly levels: number;
  readonly tables: number;
  readonly fpd: boolean;
}

export interface ContextFormat {
  readonly awBits: 39 | 48;
  readonly deviceIotlb: boolean;
}

export const blocked = (reason: number, fpd = false): Blocked => ({ ok: false, reason, fpd });

/** Returns the bits of a high word at or above the host address width. */
export const aboveWidth = (awBits: number): number => (0xffffffff << (awBits - 32)) >>> 0;

/** Returns a table's GPA from the two words of its entry. Both are non-negative. */
export const tablePointer = (low: number, high: number): number => high * 2 ** 32 + (low - (low % 4096));

/** Reads the context entry of `requesterId` below the root table at `root`. The checks run in QEMU's order. */
export function lookUpContext(
  ram: GuestRam,
  root: number,
  requesterId: number,
  format: ContextFormat,
): Context | Blocked {
  const entry = root + (requesterId >>> 8) * vtd.ROOT_ENTRY_BYTES;
  if (!ram.contains(entry, vtd.ROOT_ENTRY_BYTES)) return blocked(vtd.FAULT.ROOT_UNREADABLE);
  const low = ram.read32(entry);
  const high = ram.read32(entry + 4);
  if ((low & vtd.ROOT_P) === 0) return blocked(vtd.FAULT.ROOT_NOT_PRESENT);
  const reserved =
    (low & ROOT_RESERVED_LOW) |
    (high & aboveWidth(format.awBits)) |
    ram.read32(entry + 8) |
    ram.read32(entry + 12);
  if (reserved !== 0) return blocked(vtd.FAULT.ROOT_RESERVED);
  return readContext(ram, tablePointer(low, high) + (requesterId & 0xff) * vtd.CONTEXT_ENTRY_BYTES, format);
}

function readContext(ram: GuestRam, entry: number, format: ContextFormat): Context | Blocked {
  if (!ram.contains(entry, vtd.CONTEXT_ENTRY_BYTES)) return blocked(vtd.FAULT.CONTEXT_UNREADABLE);
  const low = ram.read32(entry);
  const high = ram.read32(entry + 4);
  const word2 = ram.read32(entry + 8);
  const fpd = (low & vtd.CONTEXT_FPD) !== 0;
  if ((low & vtd.CONTEXT_P) === 0) return blocked(vtd.FAULT.CONTEXT_NOT_PRESENT, fpd);
  const reserved =
    (low & CONTEXT_RESERVED_LOW) |
    (high & aboveWidth(format.awBits)) |
    (word2 & CONTEXT_RESERVED_WORD_2) |
    ram.read32(entry + 12);
  if (reserved !== 0) return blocked(vtd.FAULT.CONTEXT_RESERVED, fpd);
  const type = (low >>> vtd.CONTEXT_TT_SHIFT) & 3;
  const levels = vtd.levelsOfAw(word2 & vtd.CONTEXT_AW_MASK);
  if (levels < 3 || vtd.widthOfLevels(levels) > format.awBits || !typeSupported(type, format))
    return blocked(vtd.FAULT.CONTEXT_INVALID, fpd);
  return {
    ok: true,
    passThrough: type === vtd.TT_PASS_THROUGH,
    domainId: (word2 >>> vtd.CONTEXT_DID_SHIFT) & 0xffff,
    levels,
    tables: tablePointer(low, high),
    fpd,
  };
}

/** Type 1 needs ECAP.DT. It then translates untranslated requests like type 0. */
const typeSupported = (type: number, format: ContextFormat): boolean =>
  type === vtd.TT_MULTI_LEVEL ||
  type === vtd.TT_PASS_THROUGH ||
  (type === vtd.TT_DEVICE_IOTLB && format.deviceIotlb);
