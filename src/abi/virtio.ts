/**
 * Constants of virtio 1.3 for all devices: status bits, features, the split virtqueue, the registers of the MMIO
 * transport, capabilities of the PCI transport. The tables are complete, so that some constants are unused.
 */

// Device status, 2.1.
export const STATUS_ACKNOWLEDGE = 0x01;
export const STATUS_DRIVER = 0x02;
export const STATUS_DRIVER_OK = 0x04;
export const STATUS_FEATURES_OK = 0x08;
export const STATUS_NEEDS_RESET = 0x40;
export const STATUS_FAILED = 0x80;

// Features that are not device-specific, 6.
export const F_INDIRECT_DESC = 1n << 28n;
export const F_EVENT_IDX = 1n << 29n;
export const F_VERSION_1 = 1n << 32n;
export const F_ACCESS_PLATFORM = 1n << 33n;
export const F_RING_RESET = 1n << 40n;

// Split virtqueue, 2.7.
export const DESCRIPTOR_BYTES = 16;
export const DESC_F_NEXT = 1;
export const DESC_F_WRITE = 2;
export const DESC_F_INDIRECT = 4;
export const AVAIL_F_NO_INTERRUPT = 1;
/** Flags and index, before the entries of either ring. */
export const RING_HEADER_BYTES = 4;
export const AVAIL_ENTRY_BYTES = 2;
export const USED_ENTRY_BYTES = 8;
/** Most entries of a split virtqueue. */
export const QUEUE_SIZE_LIMIT = 32768;

/** Returns the bytes of the available ring with its trailing `used_event`. */
export const availBytes = (entries: number): number => RING_HEADER_BYTES + AVAIL_ENTRY_BYTES * entries + 2;
/** Returns the bytes of the used ring with its trailing `avail_event`. */
export const usedBytes = (entries: number): number => RING_HEADER_BYTES + USED_ENTRY_BYTES * entries + 2;

// Registers of the MMIO transport, 4.2.2.
export const MMIO_MAGIC = 0x74726976n;
export const MMIO_VERSION = 2n;
export const MAGIC_REG = 0x000;
export const VERSION_REG = 0x004;
export const DEVICE_ID_REG = 0x008;
export const VENDOR_ID_REG = 0x00c;
export const DEVICE_FEATURES_REG = 0x010;
export const DEVICE_FEATURES_SEL_REG = 0x014;
export const DRIVER_FEATURES_REG = 0x020;
export const DRIVER_FEATURES_SEL_REG = 0x024;
export const QUEUE_SEL_REG = 0x030;
export const QUEUE_SIZE_MAX_REG = 0x034;
export const QUEUE_SIZE_REG = 0x038;
export const QUEUE_READY_REG = 0x044;
export const QUEUE_NOTIFY_REG = 0x050;
export const INTERRUPT_STATUS_REG = 0x060;
export const INTERRUPT_ACK_REG = 0x064;
export const STATUS_REG = 0x070;
export const QUEUE_DESC_LOW_REG = 0x080;
export const QUEUE_DESC_HIGH_REG = 0x084;
export const QUEUE_DRIVER_LOW_REG = 0x090;
export const QUEUE_DRIVER_HIGH_REG = 0x094;
export const QUEUE_DEVICE_LOW_REG = 0x0a0;
export const QUEUE_DEVICE_HIGH_REG = 0x0a4;
export const QUEUE_RESET_REG = 0x0c0;
export const CONFIG_GENERATION_REG = 0x0fc;
/** Start of the device-specific configuration space. */
export const CONFIG_REG = 0x100;

export const INTERRUPT_USED = 1;
export const INTERRUPT_CONFIG = 2;

// PCI transport, 4.1. Device IDs begin at 0x1040 plus the number of the device.
export const PCI_VENDOR_ID = 0x1af4;
export const PCI_DEVICE_ID = 0x1040;
/** Vector of an interrupt that is not delivered. */
export const NO_VECTOR = 0xffff;
export const CAP_COMMON = 1;
export const CAP_NOTIFY = 2;
export const CAP_ISR = 3;
export const CAP_DEVICE = 4;
export const CAP_WINDOW = 5;
