/**
 * Registers of the virtio PCI transport (virtio 1.3 section 4.1.4): the capabilities that locate them, and the BAR that
 * holds the common configuration, the interrupt status, the device configuration and the notifications.
 */
import * as virtio from '../abi/virtio.ts';
import type { BarNumber, PciCapability } from '../pci/capability.ts';
import type { MsixPlace } from '../pci/msix-format.ts';
import type { RegisterSpec } from '../registers/register-file.ts';

/** BAR with the structures, and their places in it. */
export const VIRTIO_BAR: BarNumber = 0;
export const VIRTIO_BAR_BYTES = 0x4000;
const COMMON_AT = 0x0000;
const ISR_AT = 0x1000;
const DEVICE_AT = 0x2000;
const NOTIFY_AT = 0x3000;
const STRUCTURE_BYTES = 0x1000;
/** Bytes between the notification registers of two queues. */
const NOTIFY_STRIDE = 4;
/** BAR with the vectors, alone, because a VMM traps it. */
const MSIX_BAR: BarNumber = 1;
export const MSIX_BAR_BYTES = 0x1000;
const MSIX_PENDING_AT = 0x800;

/** Offsets of the capabilities in configuration space. MSI-X is at 0x60. */
const CAPABILITY_COMMON = 0x40;
const CAPABILITY_ISR = 0x50;
const CAPABILITY_NOTIFY = 0x80;
const CAPABILITY_DEVICE = 0x94;
const CAPABILITY_WINDOW = 0xa4;

const VENDOR_SPECIFIC = 0x09;
const STRUCTURE_CAPABILITY_BYTES = 16;
const WORD = 0xffff_ffffn;
const HALF = 0xffffn;
const WIDE = 0xffff_ffff_ffff_ffffn;

/** Registers of the common configuration structure. */
export type CommonRegister =
  | 'DeviceFeatureSelect'
  | 'DeviceFeature'
  | 'DriverFeatureSelect'
  | 'DriverFeature'
  | 'ConfigVector'
  | 'QueueCount'
  | 'DeviceStatus'
  | 'ConfigGeneration'
  | 'QueueSelect'
  | 'QueueSize'
  | 'QueueVector'
  | 'QueueEnable'
  | 'QueueNotifyOffset'
  | 'QueueDesc'
  | 'QueueDriver'
  | 'QueueDevice'
  | 'QueueNotifyData'
  | 'QueueReset';

/** Status bits that only the device sets are kept. */
const STATUS_WRITABLE = 0xffn & ~BigInt(virtio.STATUS_NEEDS_RESET);

const COMMON: readonly RegisterSpec<CommonRegister>[] = [
  { name: 'DeviceFeatureSelect', offset: 0x00, size: 4, rw: WORD },
  { name: 'DeviceFeature', offset: 0x04, size: 4 },
  { name: 'DriverFeatureSelect', offset: 0x08, size: 4, rw: WORD },
  { name: 'DriverFeature', offset: 0x0c, size: 4, rw: WORD },
  { name: 'ConfigVector', offset: 0x10, size: 2, rw: HALF, reset: BigInt(virtio.NO_VECTOR) },
  { name: 'QueueCount', offset: 0x12, size: 2 },
  { name: 'DeviceStatus', offset: 0x14, size: 1, rw: STATUS_WRITABLE },
  { name: 'ConfigGeneration', offset: 0x15, size: 1 },
  { name: 'QueueSelect', offset: 0x16, size: 2, rw: HALF },
  { name: 'QueueSize', offset: 0x18, size: 2, rw: HALF },
  { name: 'QueueVector', offset: 0x1a, size: 2, rw: HALF, reset: BigInt(virtio.NO_VECTOR) },
  { name: 'QueueEnable', offset: 0x1c, size: 2, rw: HALF },
  { name: 'QueueNotifyOffset', offset: 0x1e, size: 2 },
  { name: 'QueueDesc', offset: 0x20, size: 8, rw: WIDE },
  { name: 'QueueDriver', offset: 0x28, size: 8, rw: WIDE },
  { name: 'QueueDevice', offset: 0x30, size: 8, rw: WIDE },
  { name: 'QueueNotifyData', offset: 0x38, size: 2 },
  { name: 'QueueReset', offset: 0x3a, size: 2, rw: HALF },
];

export const ISR_REGISTER = 'InterruptStatus';

/** Returns the name of a queue's notification register. */
export const notifyRegister = (queue: number): string => `Notify${queue}`;

/** Returns the registers of the BAR. `device` are those of the device configuration, from offset 0. */
export function virtioRegisters(queues: number, device: readonly RegisterSpec[]): readonly RegisterSpec[] {
  const moved = <T extends RegisterSpec>(table: readonly T[], by: number): RegisterSpec[] =>
    table.map((spec) => ({ ...spec, offset: spec.offset + by, spec: '4.1.4' }));
  return [
    ...moved(COMMON, COMMON_AT),
    { name: ISR_REGISTER, offset: ISR_AT, size: 1, spec: '4.1.4.5' },
    ...moved(device, DEVICE_AT),
    ...Array.from({ length: queues }, (_, queue): RegisterSpec => {
      const offset = NOTIFY_AT + queue * NOTIFY_STRIDE;
      return { name: notifyRegister(queue), offset, size: 2, rw: HALF, spec: '4.1.4.4' };
    }),
  ];
}

/** Returns the place of the vectors: one for changes of the configuration, one for each queue. */
export const virtioVectors = (queues: number): MsixPlace => ({
  vectors: queues + 1,
  bar: MSIX_BAR,
  table: 0,
  pending: MSIX_PENDING_AT,
});

/** Names of the window's registers in configuration space (4.1.4.9). */
export const WINDOW = {
  bar: 'VirtioWindowBar',
  offset: 'VirtioWindowOffset',
  length: 'VirtioWindowLength',
  data: 'VirtioWindowData',
} as const;

/** Returns the capabilities in the order of the specification's types. */
export function virtioCapabilities(): readonly PciCapability[] {
  const at = CAPABILITY_WINDOW;
  return [
    structure('Common', CAPABILITY_COMMON, virtio.CAP_COMMON, COMMON_AT),
    {
      ...structure('Notify', CAPABILITY_NOTIFY, virtio.CAP_NOTIFY, NOTIFY_AT, [
        {
          name: 'VirtioNotifyStride',
          offset: CAPABILITY_NOTIFY + STRUCTURE_CAPABILITY_BYTES,
          size: 4,
          reset: BigInt(NOTIFY_STRIDE),
        },
      ]),
    },
    structure('Isr', CAPABILITY_ISR, virtio.CAP_ISR, ISR_AT),
    structure('Device', CAPABILITY_DEVICE, virtio.CAP_DEVICE, DEVICE_AT),
    {
      offset: at,
      id: VENDOR_SPECIFIC,
      registers: [
        { name: 'VirtioWindowSize', offset: at + 2, size: 1, reset: BigInt(STRUCTURE_CAPABILITY_BYTES + 4) },
        { name: 'VirtioWindowType', offset: at + 3, size: 1, reset: BigInt(virtio.CAP_WINDOW) },
        { name: WINDOW.bar, offset: at + 4, size: 1, rw: 0xffn },
        { name: WINDOW.offset, offset: at + 8, size: 4, rw: WORD },
        { name: WINDOW.length, offset: at + 12, size: 4, rw: WORD },
        { name: WINDOW.data, offset: at + 16, size: 4, rw: WORD },
      ],
    },
  ];
}

/** Returns the capability of a structure in the BAR (4.1.4). */
function structure(
  name: string,
  at: number,
  type: number,
  place: number,
  more: readonly RegisterSpec[] = [],
): PciCapability {
  const size = STRUCTURE_CAPABILITY_BYTES + 4 * more.length;
  return {
    offset: at,
    id: VENDOR_SPECIFIC,
    registers: [
      { name: `Virtio${name}Size`, offset: at + 2, size: 1, reset: BigInt(size) },
      { name: `Virtio${name}Type`, offset: at + 3, size: 1, reset: BigInt(type) },
      { name: `Virtio${name}Bar`, offset: at + 4, size: 1, reset: BigInt(VIRTIO_BAR) },
      { name: `Virtio${name}Offset`, offset: at + 8, size: 4, reset: BigInt(place) },
      { name: `Virtio${name}Length`, offset: at + 12, size: 4, reset: BigInt(STRUCTURE_BYTES) },
      ...more,
    ],
  };
}
