/**
 * The vgpu's memory: VRAM and its aperture; GPU page tables in guest memory, context descriptors, and the global table in
 * BAR 4. Every address in them is an IOVA (R1), but for pages with GPU_PTE_VRAM: theirs are offsets in VRAM.
 *
 * An entry is a little-endian 64-bit word: GPU_PTE_* flags and, in bits 12–47, an IOVA. A table has 512 entries. The lowest
 * level maps pages of 4 KiB; sixteen equal entries with GPU_PTE_64K, aligned, are a page of 64 KiB, whose IOVA is aligned
 * too. One level up an entry with GPU_PTE_2M is a page of 2 MiB instead of a table.
 */
import { PAGE_2M, PAGE_SIZE } from '../../memory/address.ts';

export const GPU_PTE_PRESENT = 1;
/** Pages only: the levels above do not restrict. */
export const GPU_PTE_WRITABLE = 2;
/** Pages only: the address is an offset in the vGPU's VRAM. One beyond VramSize faults. */
export const GPU_PTE_VRAM = 1 << 2;
export const GPU_PTE_2M = 1 << 7;
export const GPU_PTE_64K = 1 << 11;

export const GPU_TABLE_ENTRIES = 512;
export const GPU_PAGE_64K: number = 16 * PAGE_SIZE;

/** A root pointer's flags, beside the IOVA of the top table: three levels instead of two, and whether there is one. */
export const GPU_ROOT_LEVELS_3 = 1;
export const GPU_ROOT_PRESENT = 2;

/** First GPU virtual address beyond tables of two levels. */
export const GPU_VA_LIMIT: number = 2 ** 30;
/** … and of three. */
export const GPU_VA_LIMIT_3: number = 2 ** 39;

/** Context 0 is that of PageTableBase; 1 and up have root pointers of 8 bytes each in the table at ContextTableBase. */
export const CONTEXT_ROOT_BYTES = 8;
/** Contexts a vGPU has at most, context 0 included. */
export const CONTEXTS_LIMIT = 64;

/** The context of addresses that the global table translates. */
export const GLOBAL_CONTEXT = 0xffff_ffff;
/** BAR of the global table: entries of 4 KiB pages, written by the guest like registers. */
export const GLOBAL_TABLE_BAR = 4;
export const GLOBAL_TABLE_ENTRIES = 2048;
export const GLOBAL_TABLE_BYTES: number = GLOBAL_TABLE_ENTRIES * 8;
export const GLOBAL_VA_LIMIT: number = GLOBAL_TABLE_ENTRIES * PAGE_SIZE;

/** BAR of the aperture: APERTURE_BYTES of VRAM, from ApertureBase on. */
export const APERTURE_BAR = 2;
export const APERTURE_BYTES: number = 16 * 2 ** 20;

/** Bytes that an entry with these flags maps. */
export const gpuPageBytes = (flags: number): number =>
  flags & GPU_PTE_2M ? PAGE_2M : flags & GPU_PTE_64K ? GPU_PAGE_64K : PAGE_SIZE;

/** IOVA of an entry or root pointer that is given in two halves. */
export const gpuEntryIova = (low: number, high: number): number =>
  (high & 0xffff) * 2 ** 32 + ((low & 0xffff_f000) >>> 0);
