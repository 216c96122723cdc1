/**
 * Registers of the virtio MMIO transport (virtio 1.3 section 4.2.2).
 */
import * as virtio from '../abi/virtio.ts';
import type { RegisterSpec } from '../registers/register-file.ts';

export type MmioRegister =
  | 'MAGIC'
  | 'VERSION'
  | 'DEVICE_ID'
  | 'VENDOR_ID'
  | 'DEVICE_FEATURES'
  | 'DEVICE_FEATURES_SEL'
  | 'DRIVER_FEATURES'
  | 'DRIVER_FEATURES_SEL'
  | 'QUEUE_SEL'
  | 'QUEUE_SIZE_MAX'
  | 'QUEUE_SIZE'
  | 'QUEUE_READY'
  | 'QUEUE_NOTIFY'
  | 'INTERRUPT_STATUS'
  | 'INTERRUPT_ACK'
  | 'STATUS'
  | 'QUEUE_DESC_LOW'
  | 'QUEUE_DESC_HIGH'
  | 'QUEUE_DRIVER_LOW'
  | 'QUEUE_DRIVER_HIGH'
  | 'QUEUE_DEVICE_LOW'
  | 'QUEUE_DEVICE_HIGH'
  | 'QUEUE_RESET'
  | 'CONFIG_GENERATION';

export const WORD = 0xffffffffn;

/** Status bits that only the device sets are kept. */
const STATUS_WRITABLE = 0xffn & ~BigInt(virtio.STATUS_NEEDS_RESET);

export function mmioRegisterTable(deviceId: number): RegisterSpec<MmioRegister>[] {
  const word = { size: 4, rw: WORD, spec: '4.2.2' } as const;
  const fixed = { size: 4, spec: '4.2.2' } as const;
  return [
    { name: 'MAGIC', offset: virtio.MAGIC_REG, reset: virtio.MMIO_MAGIC, ...fixed },
    { name: 'VERSION', offset: virtio.VERSION_REG, reset: virtio.MMIO_VERSION, ...fixed },
    { name: 'DEVICE_ID', offset: virtio.DEVICE_ID_REG, reset: BigInt(deviceId), ...fixed },
    { name: 'VENDOR_ID', offset: virtio.VENDOR_ID_REG, ...fixed },
    { name: 'DEVICE_FEATURES', offset: virtio.DEVICE_FEATURES_REG, ...fixed },
    { name: 'DEVICE_FEATURES_SEL', offset: virtio.DEVICE_FEATURES_SEL_REG, ...word },
    { name: 'DRIVER_FEATURES', offset: virtio.DRIVER_FEATURES_REG, ...word },
    { name: 'DRIVER_FEATURES_SEL', offset: virtio.DRIVER_FEATURES_SEL_REG, ...word },
    { name: 'QUEUE_SEL', offset: virtio.QUEUE_SEL_REG, ...word },
    { name: 'QUEUE_SIZE_MAX', offset: virtio.QUEUE_SIZE_MAX_REG, ...fixed },
    { name: 'QUEUE_SIZE', offset: virtio.QUEUE_SIZE_REG, ...word },
    { name: 'QUEUE_READY', offset: virtio.QUEUE_READY_REG, size: 4, rw: 1n, spec: '4.2.2' },
    { name: 'QUEUE_NOTIFY', offset: virtio.QUEUE_NOTIFY_REG, ...word },
    { name: 'INTERRUPT_STATUS', offset: virtio.INTERRUPT_STATUS_REG, ...fixed },
    { name: 'INTERRUPT_ACK', offset: virtio.INTERRUPT_ACK_REG, ...word },
    { name: 'STATUS', offset: virtio.STATUS_REG, size: 4, rw: STATUS_WRITABLE, spec: '2.1' },
    { name: 'QUEUE_DESC_LOW', offset: virtio.QUEUE_DESC_LOW_REG, ...word },
    { name: 'QUEUE_DESC_HIGH', offset: virtio.QUEUE_DESC_HIGH_REG, ...word },
    { name: 'QUEUE_DRIVER_LOW', offset: virtio.QUEUE_DRIVER_LOW_REG, ...word },
    { name: 'QUEUE_DRIVER_HIGH', offset: virtio.QUEUE_DRIVER_HIGH_REG, ...word },
    { name: 'QUEUE_DEVICE_LOW', offset: virtio.QUEUE_DEVICE_LOW_REG, ...word },
    { name: 'QUEUE_DEVICE_HIGH', offset: virtio.QUEUE_DEVICE_HIGH_REG, ...word },
    { name: 'QUEUE_RESET', offset: virtio.QUEUE_RESET_REG, ...word },
    { name: 'CONFIG_GENERATION', offset: virtio.CONFIG_GENERATION_REG, ...fixed },
  ];
}
