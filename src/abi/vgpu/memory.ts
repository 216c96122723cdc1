/**
 * Memory of the vgpu: VRAM and its aperture, GPU page tables in guest memory, context descriptors, and the global
 * table in BAR 4. All addresses in them are IOVAs (R1), except those of pages with GPU_PTE_VRAM, which are offsets in
 * VRAM.
 *
 * An entry is a little-endian 64-bit word: GPU_PTE_* flags and, in bits 47:12, an IOVA. A table has 512 entries.
 * Entries of the lowest level map pages of 4 KiB. Sixteen aligned, equal entries with GPU_PTE_64K map a page of 64
 * KiB with an aligned IOVA. One level up, an entry with GPU_PTE_2M maps a page of 2 MiB instead of pointing to a
 * table.
 */
import { PAGE_2M, PAGE_SIZE } from '../../memory/address.ts';

export const GPU_PTE_PRESENT = 1;
/** In entries of pages only: upper levels do not restrict access. */
export const GPU_PTE_WRITABLE = 2;
/** In entries of pages only: the address is an offset in the vGPU's VRAM. An offset beyond VramSize faults. */
export const GPU_PTE_VRAM = 1 << 2;
export const GPU_PTE_2M = 1 << 7;
export const GPU_PTE_64K = 1 << 11;

export const GPU_TABLE_ENTRIES = 512;
/** Size of a 64 KiB GPU page, in bytes. */
export const GPU_PAGE_64K: number = 16 * PAGE_SIZE;

/** Flags of a root pointer, which also has the IOVA of the top table: three levels instead of two; present. */
export const GPU_ROOT_LEVELS_3 = 1;
export const GPU_ROOT_PRESENT = 2;

/** End of the GPU virtual addresses of two levels. */
export const GPU_VA_LIMIT: number = 2 ** 30;
/** End of the GPU virtual addresses of three levels. */
export const GPU_VA_LIMIT_3: number = 2 ** 39;

/** Bytes of a root pointer in the table at ContextTableBase. Context 0 uses PageTableBase instead. */
export const CONTEXT_ROOT_BYTES = 8;
/** Most contexts of a vGPU, with context 0. */
export const CONTEXTS_LIMIT = 64;

/** Context of addresses that the global table translates. */
export const GLOBAL_CONTEXT = 0xffff_ffff;
/** BAR of the global table, whose entries map 4 KiB pages. The guest writes them like registers. */
export const GLOBAL_TABLE_BAR = 4;
export const GLOBAL_TABLE_ENTRIES = 2048;
export const GLOBAL_TABLE_BYTES: number = GLOBAL_TABLE_ENTRIES * 8;
export const GLOBAL_VA_LIMIT: number = GLOBAL_TABLE_ENTRIES * PAGE_SIZE;

/** BAR of the aperture, which shows APERTURE_BYTES of VRAM from ApertureBase on. */
export const APERTURE_BAR = 2;
export const APERTURE_BYTES: number = 16 * 2 ** 20;

/** Returns the bytes of a page with these flags. */
export const gpuPageBytes = (flags: number): number =>
  flags & GPU_PTE_2M ? PAGE_2M : flags & GPU_PTE_64K ? GPU_PAGE_64K : PAGE_SIZE;

/** Returns the IOVA of an entry or root pointer, given as two 32-bit halves. */
export const gpuEntryIova = (low: number, high: number): number =>
  (high & 0xffff) * 2 ** 32 + ((low & 0xffff_f000) >>> 0);
