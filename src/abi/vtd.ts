/**
 * Formats of Intel VT-d (Virtualization Technology for Directed I/O, architecture specification rev. 4.1), under the
 * specification's names. The model and the guest's driver share them. The tables are complete, so that some constants
 * are unused.
 *
 * Registers are BigInt, because they are up to 64 bits wide. Entries of in-memory tables and descriptors are 32-bit
 * words, because the emulator walks tables by words.
 */

/** Register offsets, section 11.4. */
export const VER_REG = 0x00;
export const CAP_REG = 0x08;
export const ECAP_REG = 0x10;
export const GCMD_REG = 0x18;
export const GSTS_REG = 0x1c;
export const RTADDR_REG = 0x20;
export const CCMD_REG = 0x28;
export const FSTS_REG = 0x34;
export const FECTL_REG = 0x38;
export const FEDATA_REG = 0x3c;
export const FEADDR_REG = 0x40;
export const FEUADDR_REG = 0x44;
export const AFLOG_REG = 0x58;
export const PMEN_REG = 0x64;
export const PLMBASE_REG = 0x68;
export const PLMLIMIT_REG = 0x6c;
export const PHMBASE_REG = 0x70;
export const PHMLIMIT_REG = 0x78;
export const IQH_REG = 0x80;
export const IQT_REG = 0x88;
export const IQA_REG = 0x90;
export const ICS_REG = 0x9c;
export const IECTL_REG = 0xa0;
export const IEDATA_REG = 0xa4;
export const IEADDR_REG = 0xa8;
export const IEUADDR_REG = 0xac;
export const IQERCD_REG = 0xb0;
export const IRTA_REG = 0xb8;
/**
 * ECAP.IRO × 16 is the offset of the IOTLB registers, CAP.FRO × 16 that of the fault recording registers; as in QEMU.
 */
export const IVA_REG = 0xf0;
export const IOTLB_REG = 0xf8;
export const FRCD_LO_REG = 0x220;
export const FRCD_HI_REG = 0x228;

/** Architecture version 1.0, section 11.4.1. */
export const VER_1_0 = 0x10n;

/** Capability Register, section 11.4.2: bits, and the shifts and masks of its multi-bit fields. */
export const CAP = {
  /** Count of domains: 6 means 16-bit domain IDs. */
  ND_16BIT: 6n,
  CM: 1n << 7n,
  SAGAW_SHIFT: 8n,
  SAGAW_39: 1n << 9n,
  SAGAW_48: 1n << 10n,
  MGAW_SHIFT: 16n,
  MGAW_MASK: 0x3fn,
  FRO_SHIFT: 24n,
  FRO_MASK: 0x3ffn,
  SLLPS_2M: 1n << 34n,
  SLLPS_1G: 1n << 35n,
  PSI: 1n << 39n,
  NFR_SHIFT: 40n,
  MAMV_SHIFT: 48n,
  MAMV_MASK: 0x3fn,
  DWD: 1n << 54n,
  DRD: 1n << 55n,
  /** First-stage tables may have 1 GiB leaves. */
  FS1GP: 1n << 56n,
  ESRTPS: 1n << 63n,
} as const;

/** Extended Capability Register, section 11.4.3. */
export const ECAP = {
  QI: 1n << 1n,
  DT: 1n << 2n,
  IR: 1n << 3n,
  EIM: 1n << 4n,
  PT: 1n << 6n,
  SC: 1n << 7n,
  IRO_SHIFT: 8n,
  IRO_MASK: 0x3ffn,
  MHMV_SHIFT: 20n,
  /** Supervisor requests. */
  SRS: 1n << 31n,
  PSS_SHIFT: 35n,
  PASID: 1n << 40n,
  /** Scalable mode. */
  SMTS: 1n << 43n,
  /** Second-stage and first-stage translation in scalable mode. */
  SSTS: 1n << 46n,
  FSTS: 1n << 47n,
} as const;

/** Root Table Address Register, section 11.4.5: bits 11:10 select legacy mode (0) or scalable mode (1). */
export const RTADDR_TTM_MASK = 0xc00n;
export const RTADDR_TTM_SCALABLE = 0x400n;

/** Global Command and Status Registers, section 11.4.4: a status bit has the position of its command bit. */
export const GCMD_TE = 0x80000000;
export const GCMD_SRTP = 0x40000000;
export const GCMD_QIE = 0x04000000;
export const GCMD_IRE = 0x02000000;
export const GCMD_SIRTP = 0x01000000;
export const GCMD_CFI = 0x00800000;
/** Status bits of one-shot commands. Software masks them when it writes GSTS back to GCMD. */
export const GSTS_ONE_SHOT = 0x69000000;

/** Context Command Register, section 11.4.6.1. */
export const CCMD = {
  ICC: 1n << 63n,
  CIRG_SHIFT: 61n,
  CAIG_SHIFT: 59n,
  FM_SHIFT: 32n,
  SID_SHIFT: 16n,
} as const;

/** IOTLB Invalidate Register, section 11.4.6.2, and the Invalidate Address Register, 11.4.6.3. */
export const IOTLB = {
  IVT: 1n << 63n,
  IIRG_SHIFT: 60n,
  IAIG_SHIFT: 57n,
  DID_SHIFT: 32n,
} as const;
export const IVA_IH = 1n << 6n;
export const IVA_AM_MASK = 0x3fn;

/** Granularities of a context-cache invalidation: CCMD.CIRG and the descriptor's G. */
export const CC_GLOBAL = 1;
export const CC_DOMAIN = 2;
export const CC_DEVICE = 3;

/** Granularities of an IOTLB invalidation: IOTLB.IIRG and the descriptor's G. */
export const IOTLB_GLOBAL = 1;
export const IOTLB_DOMAIN = 2;
export const IOTLB_PAGE = 3;

/** Bits of the function number that FM = 0…3 excludes from the comparison, section 6.5.2.1. */
export const FUNCTION_MASKS: readonly number[] = [0, 4, 6, 7];

/** Fault Status Register, section 11.4.7.1. */
export const FSTS_PFO = 0x01;
export const FSTS_PPF = 0x02;
export const FSTS_IQE = 0x10;
export const FSTS_FRI_SHIFT = 8;

/** Fault and invalidation event control, sections 11.4.7.2 and 11.4.9.7: the same two bits. */
export const EVENT_IM = 0x80000000;
export const EVENT_IP = 0x40000000;

/** Invalidation Completion Status Register, section 11.4.9.6. */
export const ICS_IWC = 1;

/** Fault Recording Register, section 11.4.7.6: bits of the upper quadword. */
export const FRCD = {
  F: 1n << 63n,
  /** 1: the faulting request was a read. */
  T: 1n << 62n,
  REASON_SHIFT: 32n,
  REASON_MASK: 0xffn,
  SID_MASK: 0xffffn,
  /** Low half of an interrupt fault: the index of the entry. */
  INDEX_SHIFT: 48n,
} as const;
/** FRCD.F in the uppermost doubleword, where software clears it. */
export const FRCD_F_DWORD = 0x80000000;

/** Invalidation Queue Address Register, section 11.4.9.3. */
export const IQA_QS_MASK = 0x7n;
export const IQA_ADDRESS_MASK = ~0xfffn & 0xffff_ffff_ffff_ffffn;
/** DW: descriptors are 256 bits wide. */
export const IQA_DW = 0x800n;
/** IQH and IQT count bytes, sections 11.4.9.1 and 11.4.9.2. */
export const QI_DESCRIPTOR_BYTES = 16;
export const QI_WIDE_DESCRIPTOR_BYTES = 32;
export const IQT_MASK = 0x7fff0n;
/** Bytes of a queue with QS = 0: one page, for either descriptor width. */
export const QI_MIN_BYTES = 4096;

/** Descriptor types, section 6.5.2: bits 3:0, with bits 11:9 as the type's upper bits. */
export const QI_CONTEXT_CACHE = 1;
export const QI_IOTLB = 2;
export const QI_DEVICE_TLB = 3;
export const QI_INTERRUPT_ENTRY_CACHE = 4;
export const QI_WAIT = 5;
export const QI_PIOTLB = 6;
export const QI_PASID_CACHE = 7;
export const QI_DEVICE_PIOTLB = 8;

/** Granularities of a PASID-cache invalidation, section 6.5.2.2. */
export const PASID_CACHE_DOMAIN = 0;
export const PASID_CACHE_PASID = 1;
export const PASID_CACHE_GLOBAL = 3;
/** Granularities of a PASID-based IOTLB invalidation, section 6.5.2.4. */
export const PIOTLB_PASID = 2;
export const PIOTLB_PAGE = 3;

/** Invalidation Wait Descriptor, section 6.5.2.8: flags in its first word. */
export const WAIT_IF = 0x10;
export const WAIT_SW = 0x20;
export const WAIT_FN = 0x40;
/** IOTLB Invalidate Descriptor, section 6.5.2.3: drain writes and reads. */
export const QI_IOTLB_DW = 0x40;
export const QI_IOTLB_DR = 0x80;

/** Root entry, section 9.1: the present bit. The context-table pointer is bits HAW-1:12. */
export const ROOT_P = 0x1;
export const ROOT_ENTRY_BYTES = 16;

/** Context entry, section 9.3: fields of word 0. */
export const CONTEXT_P = 0x1;
export const CONTEXT_FPD = 0x2;
export const CONTEXT_TT_SHIFT = 2;
/** Fields of word 2: AW in bits 2:0, DID in bits 23:8. */
export const CONTEXT_AW_MASK = 0x7;
export const CONTEXT_DID_SHIFT = 8;
export const CONTEXT_ENTRY_BYTES = 16;

/** Translation types, section 9.3. */
export const TT_MULTI_LEVEL = 0;
export const TT_DEVICE_IOTLB = 1;
export const TT_PASS_THROUGH = 2;

/** Scalable mode, section 9.2: the halves of a root entry point to the context tables of devices 0–15 and 16–31. */
export const SM_ROOT_HALF_BYTES = 8;
/** Scalable-mode context entry, section 9.4: P and FPD as in legacy mode, PASID directory pointer in words 0 and 1. */
export const SM_CONTEXT_ENTRY_BYTES = 32;
/** Entries of a context table in scalable mode: half a bus. */
export const SM_CONTEXT_ENTRIES = 128;

/** PASID directory entry, section 9.5. */
export const PASID_DIR_P = 0x1;
export const PASID_DIR_FPD = 0x2;
export const PASID_DIR_ENTRY_BYTES = 8;
/** PASID table entry, section 9.6: fields of word 0. */
export const PASID_P = 0x1;
export const PASID_FPD = 0x2;
export const PASID_AW_SHIFT = 2;
export const PASID_PGTT_SHIFT = 6;
/** Field of word 4. */
export const PASID_FSPM_SHIFT = 2;
export const PASID_ENTRY_BYTES = 64;
export const PASID_TABLE_ENTRIES = 64;
/** PASID of requests without PASID. Without ECAP.RPS the context entry's RID_PASID is ignored. */
export const RID_PASID = 0;

/** PASID granular translation types, section 9.6. */
export const PGTT_FIRST_STAGE = 1;
export const PGTT_SECOND_STAGE = 2;
export const PGTT_PASS_THROUGH = 4;

/** First-stage paging entries, section 9.7. */
export const FS_P = 0x1;
export const FS_RW = 0x2;
export const FS_US = 0x4;
export const FS_A = 0x20;
export const FS_D = 0x40;
/** Levels of first-stage tables. The model supports FSPM = 0 only. */
export const FS_LEVELS = 4;

/** Second-stage paging entries, section 9.8. */
export const SL_R = 0x1;
export const SL_W = 0x2;
/** Page size: a leaf at levels 2 and 3. */
export const SL_PS = 0x80;
export const SL_ENTRY_BYTES = 8;
export const SL_ENTRIES = 512;

/** Returns the levels of tables for a context's AW: AW 1 is 39 bits and 3 levels, AW 2 is 48 bits and 4 levels. */
export const levelsOfAw = (aw: number): number => aw + 2;
/** Returns the address width of `levels` levels of tables. */
export const widthOfLevels = (levels: number): number => 12 + 9 * levels;
/** Returns the levels of tables for an address width. */
export const levelsOfWidth = (width: number): number => (width - 12) / 9;
/** Returns the bytes that one entry of a table at `level` (1 = lowest) covers. */
export const spanOfLevel = (level: number): number => SPANS[level] as number;

const SPANS = [0, 2 ** 12, 2 ** 21, 2 ** 30, 2 ** 39, 2 ** 48];

/** Interrupt address range, section 3.14: DMA writes to it are interrupt requests and are never translated. */
export const INTERRUPT_RANGE_START = 0xfee00000;
export const INTERRUPT_RANGE_END = 0xfef00000;

/** Fault reasons of legacy mode, section 7.1.3, and in the second group of scalable mode, section 7.1.4. */
export const FAULT = {
  ROOT_NOT_PRESENT: 0x1,
  CONTEXT_NOT_PRESENT: 0x2,
  CONTEXT_INVALID: 0x3,
  ADDRESS_BEYOND_MGAW: 0x4,
  WRITE: 0x5,
  READ: 0x6,
  PAGE_TABLE_UNREADABLE: 0x7,
  ROOT_UNREADABLE: 0x8,
  CONTEXT_UNREADABLE: 0x9,
  ROOT_RESERVED: 0xa,
  CONTEXT_RESERVED: 0xb,
  PAGE_TABLE_RESERVED: 0xc,
  INTERRUPT_RANGE: 0xe,

  MESSAGE_RESERVED: 0x20,
  INTERRUPT_INDEX: 0x21,
  IRTE_NOT_PRESENT: 0x22,
  INTERRUPT_TABLE_UNREADABLE: 0x23,
  IRTE_RESERVED: 0x24,
  COMPATIBILITY_BLOCKED: 0x25,
  INTERRUPT_SOURCE: 0x26,

  PASID_DIR_UNREADABLE: 0x50,
  PASID_DIR_NOT_PRESENT: 0x51,
  PASID_TABLE_UNREADABLE: 0x58,
  PASID_NOT_PRESENT: 0x59,
  PASID_INVALID: 0x5b,
  FS_TABLE_UNREADABLE: 0x70,
  FS_NOT_PRESENT: 0x71,
  FS_RESERVED: 0x72,
  FS_TOP_UNREADABLE: 0x73,
  FS_NON_CANONICAL: 0x80,
  FS_SUPERVISOR: 0x81,
  FS_WRITE: 0x85,
  SM_INTERRUPT_RANGE: 0x87,
} as const;

/** Text of each fault reason, and whether FPD suppresses its recording ("qualified", sections 7.1.3 and 7.1.4). */
const FAULTS: Readonly<Record<number, readonly [text: string, qualified: boolean]>> = {
  [FAULT.ROOT_NOT_PRESENT]: ['root entry not present', false],
  [FAULT.CONTEXT_NOT_PRESENT]: ['context entry not present', true],
  [FAULT.CONTEXT_INVALID]: ['context entry invalid: address width, translation type or table pointer', true],
  [FAULT.ADDRESS_BEYOND_MGAW]: ['address beyond the guest address width', true],
  [FAULT.WRITE]: ['no write permission', true],
  [FAULT.READ]: ['no read permission, or not mapped', true],
  [FAULT.PAGE_TABLE_UNREADABLE]: ['page table unreadable', true],
  [FAULT.ROOT_UNREADABLE]: ['root table unreadable', false],
  [FAULT.CONTEXT_UNREADABLE]: ['context table unreadable', false],
  [FAULT.ROOT_RESERVED]: ['reserved bit set in root entry', false],
  [FAULT.CONTEXT_RESERVED]: ['reserved bit set in context entry', false],
  [FAULT.PAGE_TABLE_RESERVED]: ['reserved bit set in page-table entry', true],
  [FAULT.INTERRUPT_RANGE]: ['translated into the interrupt address range', true],
  [FAULT.MESSAGE_RESERVED]: ['reserved bit set in an interrupt message', false],
  [FAULT.INTERRUPT_INDEX]: ['interrupt index beyond the remapping table', false],
  [FAULT.IRTE_NOT_PRESENT]: ['interrupt remapping entry not present', true],
  [FAULT.INTERRUPT_TABLE_UNREADABLE]: ['interrupt remapping table unreadable', false],
  [FAULT.IRTE_RESERVED]: ['reserved bit set in interrupt remapping entry', true],
  [FAULT.COMPATIBILITY_BLOCKED]: ['compatibility-format interrupt blocked', false],
  [FAULT.INTERRUPT_SOURCE]: ['interrupt of a source that the entry does not admit', true],
  [FAULT.PASID_DIR_UNREADABLE]: ['PASID directory unreadable', false],
  [FAULT.PASID_DIR_NOT_PRESENT]: ['PASID directory entry not present', true],
  [FAULT.PASID_TABLE_UNREADABLE]: ['PASID table unreadable', false],
  [FAULT.PASID_NOT_PRESENT]: ['PASID table entry not present', true],
  [FAULT.PASID_INVALID]: ['PASID table entry invalid: translation type, address width or paging mode', true],
  [FAULT.FS_TABLE_UNREADABLE]: ['first-stage page table unreadable', true],
  [FAULT.FS_NOT_PRESENT]: ['first-stage entry not present', true],
  [FAULT.FS_RESERVED]: ['reserved bit set in first-stage entry', true],
  [FAULT.FS_TOP_UNREADABLE]: ['top first-stage page table unreadable', true],
  [FAULT.FS_NON_CANONICAL]: ['address not canonical', true],
  [FAULT.FS_SUPERVISOR]: ['first-stage entry for supervisor requests only', true],
  [FAULT.FS_WRITE]: ['no write permission in first-stage entry', true],
  [FAULT.SM_INTERRUPT_RANGE]: ['translated into the interrupt address range', true],
};

/** Returns the text of a fault reason. */
export const faultText = (reason: number): string => FAULTS[reason]?.[0] ?? `fault reason ${reason}`;

/** Returns true for a fault reason whose recording an FPD bit suppresses. */
export const isQualifiedFault = (reason: number): boolean => FAULTS[reason]?.[1] ?? false;
