/**
 * The programming interface of the `vgpu` device: what its model implements and its guest driver uses.
 */
import type { PciIdentity } from './config-space.ts';
import { APERTURE_BAR, APERTURE_BYTES, GLOBAL_TABLE_BAR, GLOBAL_TABLE_BYTES } from './gpu-memory.ts';
import type { MsixPlace } from './msix-format.ts';
import type { RegisterSpec } from './registers.ts';

export * from './gpu-memory.ts';

/** In BAR 0, behind the registers, as many GPUs have them. */
export const VGPU_MSIX: MsixPlace = { vectors: 3, bar: 0, table: 0x800, pending: 0xc00 };

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
export const VGPU_VERSION = 1;

export const CONTROL_ENABLE = 1;
export const CONTROL_RESET = 2;
/** Ends the command that runs, or hangs, with the status `hung`, and goes on with the next. Reads as 0. */
export const CONTROL_ENGINE_RESET = 4;
export const STATUS_RUNNING = 1;
/** The engine stopped because its ring or its completions could not be reached; a reset clears it. */
export const STATUS_HALTED = 2;
/** A command has used HangLimitUs of engine time and is stopped; an engine reset ends it. */
export const STATUS_HUNG = 4;
export const INTERRUPT_COMPLETION = 1;
export const INTERRUPT_FAULT = 2;
export const INTERRUPT_HALTED = 4;
export const INTERRUPT_HUNG = 8;
/** A frame of the display has ended; a flip has taken effect. */
export const INTERRUPT_VBLANK = 16;
export const INTERRUPT_FLIP = 32;

/** MSI-X vectors. With MSI, which has one, they are all vector 0. */
export const VECTOR_COMPLETION = 0;
export const VECTOR_TROUBLE = 1;
export const VECTOR_DISPLAY = 2;
/** The causes of each vector. */
export const VECTOR_CAUSES: readonly number[] = [
  INTERRUPT_COMPLETION,
  INTERRUPT_FAULT | INTERRUPT_HALTED | INTERRUPT_HUNG,
  INTERRUPT_VBLANK | INTERRUPT_FLIP,
];

export const DISPLAY_ENABLE = 1;
/** It is scanning out. */
export const DISPLAY_ON = 1;
/** It is enabled, but its mode or its base cannot be: nothing is scanned out. */
export const DISPLAY_BAD_MODE = 2;
/** DisplayBase is not shown yet: it will be, from the next frame on. */
export const DISPLAY_FLIP_PENDING = 4;
/** Frames a second. */
export const DISPLAY_HZ = 60;
/** Most bytes of a picture, stride × height: 2048 lines of 2048 pixels. */
export const DISPLAY_BYTES_LIMIT: number = 16 * 2 ** 20;

/** Engine time that one command may use, unless the guest sets another limit. */
export const HANG_LIMIT_US = 100_000;

export type VgpuRegister =
  | 'Id'
  | 'Version'
  | 'Status'
  | 'Control'
  | 'RingBase'
  | 'RingEntries'
  | 'RingHead'
  | 'RingTail'
  | 'CompletionBase'
  | 'PageTableBase'
  | 'TlbInvalidate'
  | 'InterruptStatus'
  | 'InterruptMask'
  | 'FaultAddress'
  | 'FaultAddressHigh'
  | 'FaultIova'
  | 'FaultContext'
  | 'ContextTableBase'
  | 'ContextCount'
  | 'HangLimitUs'
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
/** Offsets of pages in VRAM. */
const VRAM_PAGES = 0xffff_ffff_f000n;
const CAUSES = 0x3fn;
/** A guest that wants interrupts of the display asks for them. */
const MASK_RESET: bigint = BigInt(INTERRUPT_VBLANK | INTERRUPT_FLIP);

/** BAR 0. All addresses that the device is given are IOVAs (R1). */
export const VGPU_REGISTERS: readonly RegisterSpec<VgpuRegister>[] = [
  { name: 'Id', offset: 0x00, size: 4, reset: BigInt(VGPU_ID) },
  { name: 'Version', offset: 0x04, size: 4, reset: BigInt(VGPU_VERSION) },
  { name: 'Status', offset: 0x08, size: 4 },
  { name: 'Control', offset: 0x0c, size: 4, rw: 7n },
  { name: 'RingBase', offset: 0x10, size: 8, rw: ALL64 },
  { name: 'RingEntries', offset: 0x18, size: 4, rw: ALL32 },
  { name: 'RingHead', offset: 0x1c, size: 4 },
  { name: 'RingTail', offset: 0x20, size: 4, rw: ALL32 },
  { name: 'CompletionBase', offset: 0x28, size: 8, rw: ALL64 },
  { name: 'PageTableBase', offset: 0x30, size: 8, rw: ALL64 },
  { name: 'TlbInvalidate', offset: 0x38, size: 4, rw: ALL32 },
  { name: 'InterruptStatus', offset: 0x40, size: 4, w1c: CAUSES },
  { name: 'InterruptMask', offset: 0x44, size: 4, reset: MASK_RESET, rw: CAUSES },
  { name: 'FaultAddress', offset: 0x48, size: 4 },
  { name: 'FaultAddressHigh', offset: 0x4c, size: 4 },
  { name: 'FaultIova', offset: 0x50, size: 8 },
  { name: 'FaultContext', offset: 0x58, size: 4 },
  { name: 'ContextCount', offset: 0x5c, size: 4, rw: ALL32 },
  { name: 'ContextTableBase', offset: 0x60, size: 8, rw: ALL64 },
  { name: 'HangLimitUs', offset: 0x68, size: 4, reset: BigInt(HANG_LIMIT_US), rw: ALL32 },
  // Its value is the instance's: bytes of VRAM that it has.
  { name: 'VramSize', offset: 0x70, size: 8 },
  { name: 'ApertureBase', offset: 0x78, size: 8, rw: VRAM_PAGES },
  { name: 'DisplayControl', offset: 0x80, size: 4, rw: BigInt(DISPLAY_ENABLE) },
  { name: 'DisplayStatus', offset: 0x84, size: 4 },
  { name: 'DisplayWidth', offset: 0x88, size: 4, rw: ALL32 },
  { name: 'DisplayHeight', offset: 0x8c, size: 4, rw: ALL32 },
  { name: 'DisplayStride', offset: 0x90, size: 4, rw: ALL32 },
  { name: 'DisplayFormat', offset: 0x94, size: 4, rw: ALL32 },
  { name: 'DisplayBase', offset: 0x98, size: 8, rw: VRAM_PAGES },
  // What is shown now, and how many frames there have been.
  { name: 'DisplaySurface', offset: 0xa0, size: 8 },
  { name: 'DisplayFrame', offset: 0xa8, size: 4 },
];

/** BAR 0 offset of each register. */
export const VGPU_OFFSET = Object.fromEntries(
  VGPU_REGISTERS.map((spec) => [spec.name, spec.offset]),
) as Readonly<Record<VgpuRegister, number>>;

/** A ring has a power of two entries in this range; head and tail are indices modulo that number. */
export const RING_ENTRIES_MIN = 2;
export const RING_ENTRIES_MAX = 4096;

/** A ring entry: 16 little-endian words. Target and source are GPU virtual addresses of one context. */
export const COMMAND_BYTES = 64;
export const CommandWord = {
  opcode: 0,
  sequence: 1,
  target: 4,
  source: 5,
  length: 6,
  value: 7,
  targetHigh: 8,
  sourceHigh: 9,
  context: 10,
  scalar: 11,
} as const;

/**
 * `updatePtes` writes the page table entries of [target, target + length): value has the flags, and with them the page
 * size, source is the IOVA of the first page; what was shadowed there is forgotten. The tables above must be there.
 */
export const Opcode = { nop: 0, fill: 1, copy: 2, checksum: 3, updatePtes: 4, compute: 5 } as const;
/** What `compute` runs, by its value: y (target) = scalar x (source) + y; a sum; a hash; a loop without an end. */
export const Kernel = { saxpy: 1, sum: 2, fnv1a: 3, spin: 4 } as const;
export type Opcode = (typeof Opcode)[keyof typeof Opcode];

/** Most bytes one command may move. */
export const COMMAND_LENGTH_LIMIT = 16 * 1024 * 1024;

/**
 * A completion record per ring slot: words status, result (of a checksum or kernel), 0, sequence. The sequence is
 * written last, after the rest is visible.
 */
export const COMPLETION_BYTES = 16;
export const CompletionWord = { status: 0, result: 1, sequence: 3 } as const;
export const CompletionStatus = { ok: 0, fault: 1, badCommand: 2, hung: 3 } as const;
