/**
 * Programming interface of the `vgpu` device, which its model implements and its guest driver uses.
 */
import type { PciIdentity } from '../../pci/config-space.ts';
import type { MsixPlace } from '../../pci/msix-format.ts';
import type { RegisterSpec } from '../../registers/register-file.ts';
import {
  type EngineRegisterName,
  engineCauses,
  engineRegisters,
  GPU_ENGINE_NAMES,
  INTERRUPT_COMPLETION,
  INTERRUPT_FAULT,
  INTERRUPT_HALTED,
  INTERRUPT_HUNG,
} from './engines.ts';
import { APERTURE_BAR, APERTURE_BYTES, GLOBAL_TABLE_BAR, GLOBAL_TABLE_BYTES } from './memory.ts';

export * from './engines.ts';
export * from './memory.ts';

/** MSI-X vectors, in BAR 0 after the registers, as on many GPUs. */
export const VGPU_MSIX: MsixPlace = { vectors: 4, bar: 0, table: 0x800, pending: 0xc00 };

export const VGPU_IDENTITY: PciIdentity = {
  vendorId: 0x1234,
  deviceId: 0x6d64,
  subsystemVendorId: 0x1234,
  subsystemId: 0x0001,
  revision: 1,
  classCode: 0x03_02_00, // 3D controller
  bar0Bytes: 0x1000,
  barBytes: { [APERTURE_BAR]: APERTURE_BYTES, [GLOBAL_TABLE_BAR]: GLOBAL_TABLE_BYTES },
  prefetchableBars: [APERTURE_BAR],
  wideBars: [APERTURE_BAR],
  msix: VGPU_MSIX,
  express: true,
};

export const VGPU_ID = 0x4756_444d; // 'MDVG'
export const VGPU_VERSION = 2;

/** Causes of the display in InterruptStatus: a frame has ended; a flip has taken effect. */
export const INTERRUPT_VBLANK = 16;
export const INTERRUPT_FLIP = 32;

/** MSI-X vectors. With MSI, all of them are vector 0. VECTOR_ERROR is that of all engines. */
export const VECTOR_COMPLETION = 0;
export const VECTOR_ERROR = 1;
export const VECTOR_DISPLAY = 2;
export const VECTOR_COMPUTE = 3;

const ERRORS = INTERRUPT_FAULT | INTERRUPT_HALTED | INTERRUPT_HUNG;

/** Causes of each vector. */
export const VECTOR_CAUSES: readonly number[] = [
  INTERRUPT_COMPLETION,
  engineCauses('copy', ERRORS) | engineCauses('compute', ERRORS),
  INTERRUPT_VBLANK | INTERRUPT_FLIP,
  engineCauses('compute', INTERRUPT_COMPLETION),
];

export const DISPLAY_ENABLE = 1;
/** The display is scanning out. */
export const DISPLAY_ON = 1;
/** The display is enabled, but its mode or its base is invalid, so that nothing is scanned out. */
export const DISPLAY_BAD_MODE = 2;
/** DisplayBase takes effect with the next frame. */
export const DISPLAY_FLIP_PENDING = 4;
/** Frames per second. */
export const DISPLAY_HZ = 60;
/** Most bytes of a picture (stride × height): 2048 lines of 2048 pixels. */
export const DISPLAY_BYTES_LIMIT: number = 16 * 2 ** 20;

export type VgpuRegister =
  | EngineRegisterName
  | 'Id'
  | 'Version'
  | 'PageTableBase'
  | 'TlbInvalidate'
  | 'InterruptStatus'
  | 'InterruptMask'
  | 'ContextTableBase'
  | 'ContextCount'
  | 'VramSize'
  | 'ApertureBase'
  | 'DisplayControl'
  | 'DisplayStatus'
  | 'DisplayWidth'
  | 'DisplayHeight'
  | 'DisplayStride'
  | 'DisplayFormat'
  | 'DisplayBase'
  | 'DisplaySurface'
  | 'DisplayFrame';

const ALL32 = 0xffff_ffffn;
const ALL64 = 0xffff_ffff_ffff_ffffn;
/** Writable bits of a page's offset in VRAM. */
const VRAM_PAGES = 0xffff_ffff_f000n;
const CAUSES: bigint = BigInt(VECTOR_CAUSES.reduce((all, causes) => all | causes));
/** Interrupts of the display are masked at reset. */
const MASK_RESET: bigint = BigInt(INTERRUPT_VBLANK | INTERRUPT_FLIP);

/** Registers that the engines share, and those of the display. Addresses of guest memory are IOVAs (R1). */
const SHARED_REGISTERS: readonly RegisterSpec<VgpuRegister>[] = [
  { name: 'Id', offset: 0x00, size: 4, reset: BigInt(VGPU_ID) },
  { name: 'Version', offset: 0x04, size: 4, reset: BigInt(VGPU_VERSION) },
  { name: 'PageTableBase', offset: 0x30, size: 8, rw: ALL64 },
  { name: 'TlbInvalidate', offset: 0x38, size: 4, rw: ALL32 },
  { name: 'InterruptStatus', offset: 0x40, size: 4, w1c: CAUSES },
  { name: 'InterruptMask', offset: 0x44, size: 4, reset: MASK_RESET, rw: CAUSES },
  { name: 'ContextCount', offset: 0x5c, size: 4, rw: ALL32 },
  { name: 'ContextTableBase', offset: 0x60, size: 8, rw: ALL64 },
  // Bytes of VRAM of the instance.
  { name: 'VramSize', offset: 0x70, size: 8 },
  { name: 'ApertureBase', offset: 0x78, size: 8, rw: VRAM_PAGES },
  { name: 'DisplayControl', offset: 0x80, size: 4, rw: BigInt(DISPLAY_ENABLE) },
  { name: 'DisplayStatus', offset: 0x84, size: 4 },
  { name: 'DisplayWidth', offset: 0x88, size: 4, rw: ALL32 },
  { name: 'DisplayHeight', offset: 0x8c, size: 4, rw: ALL32 },
  { name: 'DisplayStride', offset: 0x90, size: 4, rw: ALL32 },
  { name: 'DisplayFormat', offset: 0x94, size: 4, rw: ALL32 },
  { name: 'DisplayBase', offset: 0x98, size: 8, rw: VRAM_PAGES },
  // Offset of the surface that is shown now, and the count of frames.
  { name: 'DisplaySurface', offset: 0xa0, size: 8 },
  { name: 'DisplayFrame', offset: 0xa8, size: 4 },
];

/** Registers of BAR 0. */
export const VGPU_REGISTERS: readonly RegisterSpec<VgpuRegister>[] = [
  ...SHARED_REGISTERS,
  ...GPU_ENGINE_NAMES.flatMap(engineRegisters),
];

/** BAR 0 offset of each register. */
export const VGPU_OFFSET = Object.fromEntries(
  VGPU_REGISTERS.map((spec) => [spec.name, spec.offset]),
) as Readonly<Record<VgpuRegister, number>>;
