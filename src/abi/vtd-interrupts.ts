/**
 * Formats of VT-d's interrupt remapping (specification sections 5.1 and 9.9): interrupt messages, and entries of the
 * remapping table as 32-bit words, the lowest first.
 */

/** IRTA: entries are 2^(S+1), section 11.4.10. */
export const IRTA_S_MASK = 0xfn;
export const IRTA_EIME = 1n << 11n;
export const IRTA_ADDRESS_MASK = ~0xfffn;
export const IRTE_BYTES = 16;

/** Address of an interrupt message: 0xfeexxxxx. */
export const MESSAGE_REMAPPABLE = 1 << 4;
export const MESSAGE_SHV = 1 << 3;
export const MESSAGE_HANDLE_15 = 1 << 2;
export const MESSAGE_HANDLE_SHIFT = 5;
export const MESSAGE_HANDLE_MASK = 0x7fff;
/** Compatibility format. */
export const COMPATIBILITY_DEST_SHIFT = 12;

/** Word 0 of an entry. */
export const IRTE_P = 1 << 0;
export const IRTE_FPD = 1 << 1;
export const IRTE_DM_SHIFT = 2;
export const IRTE_RH_SHIFT = 3;
export const IRTE_TM_SHIFT = 4;
export const IRTE_DLM_SHIFT = 5;
export const IRTE_IM = 1 << 15;
export const IRTE_VECTOR_SHIFT = 16;
export const IRTE_RESERVED_0 = 0xff00_7000;
/** Word 1: the destination. In xAPIC format only bits 15:8 are not reserved. */
export const IRTE_XAPIC_DEST_SHIFT = 8;
export const IRTE_XAPIC_RESERVED = 0xffff_00ff;
/** Word 2: SID in bits 15:0, SQ and SVT. */
export const IRTE_SQ_SHIFT = 16;
export const IRTE_SVT_SHIFT = 18;
export const IRTE_RESERVED_2 = 0xfff0_0000;
export const SVT_NONE = 0;
export const SVT_SOURCE = 1;
export const SVT_BUS = 2;
/** Bits of the source ID that are compared, by SQ. */
export const SQ_MASKS = [0xffff, 0xfffb, 0xfff9, 0xfff8] as const;
