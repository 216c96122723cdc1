/**
 * Format of virtio-iommu (virtio 1.3 section 5.13): features, configuration, requests, events. The tables are
 * complete, so that some constants are unused.
 */
import { F_EVENT_IDX, F_INDIRECT_DESC, F_RING_RESET, F_VERSION_1 } from './virtio.ts';

export const VIRTIO_IOMMU_DEVICE_ID = 23;
export const REQUEST_QUEUE = 0;
export const EVENT_QUEUE = 1;

// Features, 5.13.3.
export const F_INPUT_RANGE = 1n << 0n;
export const F_DOMAIN_RANGE = 1n << 1n;
export const F_MAP_UNMAP = 1n << 2n;
export const F_PROBE = 1n << 4n;
export const F_MMIO = 1n << 5n;
export const F_BYPASS_CONFIG = 1n << 6n;

/** Features that a driver can use: all of the device's and VERSION_1. */
export const IOMMU_FEATURES =
  F_INPUT_RANGE | F_DOMAIN_RANGE | F_MAP_UNMAP | F_PROBE | F_MMIO | F_BYPASS_CONFIG | F_VERSION_1;
/** Features that the device offers: those of QEMU 11.1.3. */
export const OFFERED_FEATURES = IOMMU_FEATURES | F_INDIRECT_DESC | F_EVENT_IDX | F_RING_RESET;

// Offsets in the configuration space, 5.13.4.
export const CONFIG_BYTES = 40;
export const CONFIG_PAGE_SIZE_MASK = 0;
export const CONFIG_INPUT_START = 8;
export const CONFIG_INPUT_END = 16;
export const CONFIG_DOMAIN_START = 24;
export const CONFIG_DOMAIN_END = 28;
export const CONFIG_PROBE_SIZE = 32;
export const CONFIG_BYPASS = 36;
export const CONFIG_RESERVED = 37;

// Request types, 5.13.6.
export const T_ATTACH = 1;
export const T_DETACH = 2;
export const T_MAP = 3;
export const T_UNMAP = 4;
export const T_PROBE = 5;

/** Bytes of the head of every request and of the tail of every answer. */
export const HEAD_BYTES = 4;
export const TAIL_BYTES = 4;
/** Device-readable bytes of each request, with its head. */
export const ATTACH_BYTES = 20;
export const DETACH_BYTES = 20;
export const MAP_BYTES = 36;
export const UNMAP_BYTES = 28;
export const PROBE_BYTES = 72;

export const S_OK = 0;
export const S_IOERR = 1;
export const S_UNSUPP = 2;
export const S_DEVERR = 3;
export const S_INVAL = 4;
export const S_RANGE = 5;
export const S_NOENT = 6;
export const S_FAULT = 7;
export const S_NOMEM = 8;

/** Names of the status codes, by value. */
export const STATUS_NAMES = ['OK', 'IOERR', 'UNSUPP', 'DEVERR', 'INVAL', 'RANGE', 'NOENT', 'FAULT', 'NOMEM'];

export const ATTACH_F_BYPASS = 1;
export const MAP_F_READ = 1;
export const MAP_F_WRITE = 2;
export const MAP_F_MMIO = 4;

// Properties of PROBE, 5.13.6.7.
export const PROBE_T_RESV_MEM = 1;
export const PROBE_RESV_MEM_BYTES = 20;
export const RESV_MEM_T_RESERVED = 0;
export const RESV_MEM_T_MSI = 1;

// Fault events, 5.13.6.9.
export const EVENT_BYTES = 24;
export const FAULT_UNKNOWN = 0;
export const FAULT_DOMAIN = 1;
export const FAULT_MAPPING = 2;
export const FAULT_NAMES = ['UNKNOWN', 'DOMAIN', 'MAPPING'];
export const FAULT_F_READ = 1;
export const FAULT_F_WRITE = 2;
export const FAULT_F_EXEC = 4;
export const FAULT_F_ADDRESS = 0x100;
