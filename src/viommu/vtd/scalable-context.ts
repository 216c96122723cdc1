/**
 * Scalable mode: lookup of a requester's PASID directory in root and context table. Specification sections 9.2 and 9.4.
 */

import * as vtd from '../../abi/vtd.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { aboveWidth, type Blocked, blocked, type ContextFormat, tablePointer } from './legacy-context.ts';

/** Bits 11:1 of each half of a root entry. */
const ROOT_RESERVED_LOW = 0xffe;
/** Bits 8:5 of the entry. */
const CONTEXT_RESERVED_LOW = 0x1e0;
/** Bits 31:21 of word 2. RID_PASID and RID_PRIV lie below. */
const CONTEXT_RESERVED_WORD_2 = 0xffe00000;
/** Words that are reserved entirely. */
const CONTEXT_RESERVED_WORDS = [3, 4, 5, 6, 7];

/** A valid scalable-mode context entry, with the GPA of its PASID directory. */
export interface ScalableContext {
  readonly ok: true;
  readonly pasidDirectory: number;
  readonly fpd: boolean;
}

/** Reads the scalable-mode context entry of `requesterId` below the root table at `root`. Checks are QEMU's. */
export function lookUpScalableContext(
  ram: GuestRam,
  root: number,
  requesterId: number,
  format: ContextFormat,
): ScalableContext | Blocked {
  const entry = root + (requesterId >>> 8) * vtd.ROOT_ENTRY_BYTES;
  if (!ram.contains(entry, vtd.ROOT_ENTRY_BYTES)) return blocked(vtd.FAULT.ROOT_UNREADABLE);
  const devfn = requesterId & 0xff;
  const half = entry + (devfn < vtd.SM_CONTEXT_ENTRIES ? 0 : vtd.SM_ROOT_HALF_BYTES);
  const low = ram.read32(half);
  if ((low & vtd.ROOT_P) === 0) return blocked(vtd.FAULT.ROOT_NOT_PRESENT);
  // Both halves are checked, whichever of them is used.
  const above = aboveWidth(format.awBits);
  const reserved =
    ((ram.read32(entry) | ram.read32(entry + vtd.SM_ROOT_HALF_BYTES)) & ROOT_RESERVED_LOW) |
    ((ram.read32(entry + 4) | ram.read32(entry + vtd.SM_ROOT_HALF_BYTES + 4)) & above);
  if (reserved !== 0) return blocked(vtd.FAULT.ROOT_RESERVED);
  const table = tablePointer(low, ram.read32(half + 4));
  return readContext(ram, table + (devfn % vtd.SM_CONTEXT_ENTRIES) * vtd.SM_CONTEXT_ENTRY_BYTES, format);
}

function readContext(ram: GuestRam, entry: number, format: ContextFormat): ScalableContext | Blocked {
  if (!ram.contains(entry, vtd.SM_CONTEXT_ENTRY_BYTES)) return blocked(vtd.FAULT.CONTEXT_UNREADABLE);
  const low = ram.read32(entry);
  const high = ram.read32(entry + 4);
  const fpd = (low & vtd.CONTEXT_FPD) !== 0;
  if ((low & vtd.CONTEXT_P) === 0) return blocked(vtd.FAULT.CONTEXT_NOT_PRESENT, fpd);
  let reserved =
    (low & CONTEXT_RESERVED_LOW) |
    (high & aboveWidth(format.awBits)) |
    (ram.read32(entry + 8) & CONTEXT_RESERVED_WORD_2);
  for (const word of CONTEXT_RESERVED_WORDS) reserved |= ram.read32(entry + 4 * word);
  if (reserved !== 0) return blocked(vtd.FAULT.CONTEXT_RESERVED, fpd);
  return { ok: true, pasidDirectory: tablePointer(low, high), fpd };
}
