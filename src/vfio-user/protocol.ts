/**
 * The vfio-user protocol, version 0.x: commands, flags, limits and message layouts.
 *
 * The names and numbers are those of the vfio-user specification and of `linux/vfio.h`. A payload follows the header.
 */
import { Layout } from './layout.ts';

/** The version that the server speaks. A client of the same major version gets the lower of both minor versions. */
export const VERSION_MAJOR = 0;
export const VERSION_MINOR = 1;

export const Command = {
  VERSION: 1,
  DMA_MAP: 2,
  DMA_UNMAP: 3,
  DEVICE_GET_INFO: 4,
  DEVICE_GET_REGION_INFO: 5,
  DEVICE_GET_REGION_IO_FDS: 6,
  DEVICE_GET_IRQ_INFO: 7,
  DEVICE_SET_IRQS: 8,
  REGION_READ: 9,
  REGION_WRITE: 10,
  /** Sent by the server. */
  DMA_READ: 11,
  /** Sent by the server. */
  DMA_WRITE: 12,
  DEVICE_RESET: 13,
  REGION_WRITE_MULTI: 15,
  DEVICE_FEATURE: 16,
  MIG_DATA_READ: 17,
  MIG_DATA_WRITE: 18,
} as const;
export type Command = (typeof Command)[keyof typeof Command];

/** Header flags. Bits 3:0 are the type of the message. */
export const TYPE_MASK = 0xf;
export const TYPE_COMMAND = 0;
export const TYPE_REPLY = 1;
export const FLAG_NO_REPLY = 0x10;
export const FLAG_ERROR = 0x20;

export const HEADER = new Layout('header', 16, {
  id: [0, 'u16'],
  command: [2, 'u16'],
  size: [4, 'u32'],
  flags: [8, 'u32'],
  error: [12, 'u32'],
});

/** Most data bytes of one read or write in either direction (max_data_xfer_size), and the peer's by default. */
export const DATA_BYTES_MAX = 2 ** 20;
/** Most bytes of one message: the largest transfer, its header and the fixed part of its payload. */
export const MESSAGE_BYTES_MAX: number = DATA_BYTES_MAX + 4096;
/** Most descriptors that the server accepts with one message (max_msg_fds). */
export const MESSAGE_FDS_MAX = 8;
/** Descriptors that a client accepts with one message if it does not say. */
export const CLIENT_FDS_DEFAULT = 1;
/** DMA maps that a client may have if it does not say. */
export const DMA_MAPS_DEFAULT = 65_535;

export const VERSION = new Layout('version', 4, { major: [0, 'u16'], minor: [2, 'u16'] });

/** The flags of a map are its permissions: 1 readable, 2 writable. */
export const DMA_MAP = new Layout('DMA_MAP', 32, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  offset: [8, 'u64'],
  address: [16, 'u64'],
  size: [24, 'u64'],
});

/** Unmaps everything; address and size are 0. */
export const UNMAP_FLAG_ALL = 2;
export const DMA_UNMAP = new Layout('DMA_UNMAP', 24, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  address: [8, 'u64'],
  size: [16, 'u64'],
});

export const DEVICE_FLAG_RESET = 1;
export const DEVICE_FLAG_PCI = 2;
export const DEVICE_INFO = new Layout('DEVICE_GET_INFO', 16, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  regions: [8, 'u32'],
  irqs: [12, 'u32'],
});

/** Regions of a PCI device: six BARs, the expansion ROM, configuration space, VGA. */
export const REGIONS = 9;
export const REGION_INDEX_CONFIG = 7;
export const REGION_FLAG_READ = 1;
export const REGION_FLAG_WRITE = 2;
export const REGION_FLAG_MMAP = 4;
export const REGION_FLAG_CAPS = 8;
export const REGION_INFO = new Layout('DEVICE_GET_REGION_INFO', 32, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  index: [8, 'u32'],
  capOffset: [12, 'u32'],
  size: [16, 'u64'],
  offset: [24, 'u64'],
});

export const CAP_SPARSE_MMAP = 1;
export const SPARSE_MMAP = new Layout('sparse mmap capability', 16, {
  id: [0, 'u16'],
  version: [2, 'u16'],
  next: [4, 'u32'],
  areas: [8, 'u32'],
  reserved: [12, 'u32'],
});
export const SPARSE_AREA = new Layout('sparse mmap area', 16, { offset: [0, 'u64'], size: [8, 'u64'] });

export const REGION_IO_FDS = new Layout('DEVICE_GET_REGION_IO_FDS', 16, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  index: [8, 'u32'],
  count: [12, 'u32'],
});

export const IRQ_INFO = new Layout('DEVICE_GET_IRQ_INFO', 16, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  index: [8, 'u32'],
  count: [12, 'u32'],
});
export const SET_IRQS = new Layout('DEVICE_SET_IRQS', 20, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  index: [8, 'u32'],
  start: [12, 'u32'],
  count: [16, 'u32'],
});

/** Header of REGION_READ and REGION_WRITE; the data follow. */
export const REGION_ACCESS = new Layout('REGION_READ', 16, {
  offset: [0, 'u64'],
  region: [8, 'u32'],
  count: [12, 'u32'],
});
export const WRITE_MULTI = new Layout('REGION_WRITE_MULTI', 8, { count: [0, 'u64'] });
/** Data bytes of one write of REGION_WRITE_MULTI. Each takes an access header and these bytes. */
export const WRITE_MULTI_DATA_BYTES = 8;

/** Header of DMA_READ and DMA_WRITE; the data follow. */
export const DMA_ACCESS = new Layout('DMA_READ', 16, { address: [0, 'u64'], count: [8, 'u64'] });

export const FEATURE_MASK = 0xffff;
export const FEATURE_GET = 1 << 16;
export const FEATURE_SET = 1 << 17;
export const FEATURE_PROBE = 1 << 18;
export const Feature = {
  MIGRATION: 1,
  MIG_DEVICE_STATE: 2,
  DMA_LOGGING_START: 6,
  DMA_LOGGING_STOP: 7,
  DMA_LOGGING_REPORT: 8,
} as const;
export const DEVICE_FEATURE = new Layout('DEVICE_FEATURE', 8, { argsz: [0, 'u32'], flags: [4, 'u32'] });

export const MIGRATION_STOP_COPY = 1n;
export const MIGRATION_PRE_COPY = 4n;
export const MIGRATION = new Layout('MIGRATION', 8, { flags: [0, 'u64'] });
export const MIG_STATE = new Layout('MIG_DEVICE_STATE', 8, { state: [0, 'u32'], dataFd: [4, 'u32'] });
export const MIG_DATA = new Layout('MIG_DATA_READ', 8, { argsz: [0, 'u32'], size: [4, 'u32'] });

export const LOGGING_CONTROL = new Layout('DMA_LOGGING_START', 16, {
  pageSize: [0, 'u64'],
  ranges: [8, 'u32'],
  reserved: [12, 'u32'],
});
export const LOGGING_RANGE = new Layout('DMA logging range', 16, { iova: [0, 'u64'], length: [8, 'u64'] });
export const LOGGING_REPORT = new Layout('DMA_LOGGING_REPORT', 24, {
  iova: [0, 'u64'],
  length: [8, 'u64'],
  pageSize: [16, 'u64'],
});
