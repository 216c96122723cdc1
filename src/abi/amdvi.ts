/**
 * Formats of AMD's I/O Virtualization Technology (IOMMU) Specification, document 48882, under the specification's names.
 * The model and the guest's driver share them. The tables are complete, so that some constants are unused.
 *
 * Registers are BigInt, because they are 64 bits wide. Entries of in-memory tables, commands and events are 32-bit words,
 * the lowest first, because the emulator walks tables by words.
 */

/** Size of the register page, section 3.4. */
export const REGISTER_BYTES = 0x4000;

/**
 * Offset of the configuration space of the IOMMU's PCI function, behind its registers. In the emulated machine the function
 * has no other place.
 */
export const CONFIG_OFFSET = 0x4000;

/** Register offsets, section 3.4. */
export const DEVICE_TABLE_REG = 0x0000;
export const COMMAND_BASE_REG = 0x0008;
export const EVENT_BASE_REG = 0x0010;
export const CONTROL_REG = 0x0018;
export const EXCLUSION_BASE_REG = 0x0020;
export const EXCLUSION_LIMIT_REG = 0x0028;
export const EXTENDED_FEATURE_REG = 0x0030;
export const PPR_BASE_REG = 0x0038;
export const GENERAL_INTERRUPT_REG = 0x0170;
export const COMMAND_HEAD_REG = 0x2000;
export const COMMAND_TAIL_REG = 0x2008;
export const EVENT_HEAD_REG = 0x2010;
export const EVENT_TAIL_REG = 0x2018;
export const STATUS_REG = 0x2020;
export const PPR_HEAD_REG = 0x2030;
export const PPR_TAIL_REG = 0x2038;

/** Address bits of a base register. */
export const BASE_ADDRESS_MASK = 0x000f_ffff_ffff_f000n;
/** Size of the device table in pages of 4 KiB, minus 1. */
export const DEVICE_TABLE_SIZE_MASK = 0x1ffn;
/** Length of a command buffer or log: 2^length entries. */
export const BUFFER_LENGTH_SHIFT = 56n;
export const BUFFER_LENGTH_MASK = 0xfn;
/** Smallest length of a command buffer or log: 256 entries, one page. */
export const BUFFER_LENGTH_MIN = 8n;
/** Offset bits of a head or tail register. */
export const POINTER_MASK = 0x7_fff0;

/** Control register, section 3.4.3. */
export const CONTROL = {
  IOMMU_EN: 1n << 0n,
  EVENT_LOG_EN: 1n << 2n,
  EVENT_INT_EN: 1n << 3n,
  COM_WAIT_INT_EN: 1n << 4n,
  CMD_BUF_EN: 1n << 12n,
  XT_EN: 1n << 50n,
  INT_CAP_XT_EN: 1n << 51n,
} as const;

/** Exclusion base register, section 3.4.4. */
export const EXCLUSION_ENABLE = 1n << 0n;
/** The range applies to all devices, not only to those with EX in their entry. */
export const EXCLUSION_ALLOW = 1n << 1n;

/** Status register, section 3.4.12. */
export const STATUS = {
  EVENT_OVERFLOW: 1n << 0n,
  EVENT_LOG_INT: 1n << 1n,
  COM_WAIT_INT: 1n << 2n,
  EVENT_LOG_RUN: 1n << 3n,
  CMD_BUF_RUN: 1n << 4n,
  PPR_OVERFLOW: 1n << 5n,
  PPR_INT: 1n << 6n,
  PPR_RUN: 1n << 7n,
} as const;

/** Extended feature register, section 3.4.6. */
export const FEATURE = {
  PREFETCH: 1n << 0n,
  PPR: 1n << 1n,
  XT: 1n << 2n,
  GUEST_TRANSLATION: 1n << 4n,
  INVALIDATE_ALL: 1n << 6n,
  GUEST_APIC: 1n << 7n,
  HARDWARE_ERROR: 1n << 8n,
  /** Levels of host page tables: 0 to 2 mean 4 to 6; 3 means none. */
  HATS_SHIFT: 10n,
  HATS_MASK: 3n,
  HATS_6_LEVELS: 2n,
  HATS_NONE: 3n,
  GATS_6_LEVELS: 2n << 12n,
} as const;

/** Configuration space of the IOMMU's PCI function, section 3.2: the capability block. */
export const CAPABILITY = {
  HEADER: 0x40,
  BASE_LOW: 0x44,
  BASE_HIGH: 0x48,
  RANGE: 0x4c,
  MISC: 0x50,
  ID: 0x0f,
  /** Software must invalidate when an entry becomes present. */
  NP_CACHE: 1 << 26,
} as const;

/** Device table entry, section 2.2.2.1. */
export const DTE_BYTES = 32;
export const DTES_PER_PAGE = 128;
/** Word 0. */
export const DTE_V = 1 << 0;
export const DTE_TV = 1 << 1;
export const DTE_RESERVED_LOW = 0x7c;
export const MODE_SHIFT = 9;
export const MODE_MASK = 7;
/** Word 1. IR and IW are in the same place in page table entries. */
export const IR = 1 << 29;
export const IW = 1 << 30;
export const PERM_SHIFT = 29;
export const DTE_RESERVED_HIGH = 0x8000_0000;
/** Word 2: bits 15:0. */
export const DTE_DOMAIN_MASK = 0xffff;
/** Word 3: suppression of events, and the exclusion range. */
export const DTE_SE = 1 << 1;
export const DTE_SA = 1 << 2;
export const DTE_EX = 1 << 7;
/** Page modes without a fixed count of levels. */
export const MODE_NONE = 0;
export const MODE_MAX_LEVELS = 6;

/** Page table entry, sections 2.2.3 and 2.2.5. Word 0. */
export const PTE_BYTES = 8;
export const PTES = 512;
export const PTE_PR = 1 << 0;
export const NEXT_LEVEL_SHIFT = 9;
export const NEXT_LEVEL_MASK = 7;
/** NextLevel of a leaf with its level's default size, and of one with an encoded size. */
export const NEXT_LEVEL_PAGE = 0;
export const NEXT_LEVEL_SIZED = 7;
/** Word 1: address bits 51:32, and the reserved bits of a leaf and of a directory entry. */
export const HIGH_ADDRESS = 0xf_ffff;
export const LEAF_RESERVED = 0x07f0_0000;
export const DIRECTORY_RESERVED = 0x1ff0_0000;

/** By level, also for the one above the highest: a walk reads it for each entry. */
const SPANS: readonly number[] = Array.from({ length: 8 }, (_, level) => 2 ** (12 + 9 * (level - 1)));
/** Returns the bytes that one entry of a table at `level` covers; level 1 is the lowest. */
export const spanOfLevel = (level: number): number => SPANS[level] as number;
/** Returns the count of IOVA bits that `levels` levels translate, at most 64. */
export const widthOfLevels = (levels: number): number => Math.min(64, 12 + 9 * levels);

/** Commands, section 2.4: opcodes in bits 63:60. */
export const COMMAND_BYTES = 16;
export const OPCODE_SHIFT = 28;
export const COMPLETION_WAIT = 1;
export const INVALIDATE_DEVTAB_ENTRY = 2;
export const INVALIDATE_IOMMU_PAGES = 3;
export const INVALIDATE_IOTLB_PAGES = 4;
export const INVALIDATE_INTERRUPT_TABLE = 5;
export const PREFETCH_IOMMU_PAGES = 6;
export const COMPLETE_PPR_REQUEST = 7;
export const INVALIDATE_IOMMU_ALL = 8;
/** COMPLETION_WAIT, word 0. */
export const WAIT_S = 1 << 0;
export const WAIT_I = 1 << 1;
export const WAIT_F = 1 << 2;
/** INVALIDATE_IOMMU_PAGES, word 2. */
export const PAGES_S = 1 << 0;
export const PAGES_PDE = 1 << 1;
export const PAGES_GN = 1 << 2;

/** Events, section 2.5: codes in bits 63:60, and flags of word 1. */
export const EVENT_BYTES = 16;
export const EVENT = {
  ILLEGAL_DEV_TABLE_ENTRY: 1,
  IO_PAGE_FAULT: 2,
  DEV_TAB_HARDWARE_ERROR: 3,
  PAGE_TAB_HARDWARE_ERROR: 4,
  ILLEGAL_COMMAND_ERROR: 5,
  COMMAND_HARDWARE_ERROR: 6,
} as const;
export const EVENT_GN = 1 << 16;
export const EVENT_NX = 1 << 17;
export const EVENT_I = 1 << 19;
export const EVENT_PR = 1 << 20;
export const EVENT_RW = 1 << 21;
export const EVENT_PE = 1 << 22;
export const EVENT_RZ = 1 << 23;

/** IOVAs of interrupt messages, section 2.1.2: writes to them are never translated. */
export const INTERRUPT_RANGE_START = 0xfee0_0000;
export const INTERRUPT_RANGE_END = 0xfef0_0000;
