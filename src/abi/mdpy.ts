/**
 * Programming interface of the kernel's `mdpy` sample (samples/vfio-mdev/mdpy.c): a framebuffer behind BAR 0, with its
 * format and size in a vendor-specific capability.
 */
import type { PciIdentity } from '../pci/config-space.ts';
import { PIXEL_BYTES, XRGB8888 } from './scanout.ts';

/** Size of the framebuffer. */
export interface MdpyMode {
  /** Pixels. */
  readonly width: number;
  readonly height: number;
}

/** Modes by mdev type name, as in the driver. */
export const MDPY_MODES: Readonly<Record<string, MdpyMode>> = {
  'mdpy-vga': { width: 640, height: 480 },
  'mdpy-xga': { width: 1024, height: 768 },
  'mdpy-hd': { width: 1920, height: 1080 },
};

const CAPABILITY_VENDOR = 0x09;
export const MDPY_CAPABILITY = 0x40;
/** Format, width and height of the framebuffer, 32 bits each. */
export const MDPY_FORMAT = 0x44;
export const MDPY_WIDTH = 0x48;
export const MDPY_HEIGHT = 0x4c;
const CAPABILITY_BYTES = 16n;

const BRIGHTEST = 255;

/** Returns the size of the framebuffer's BAR, a power of two. */
export const mdpyBarBytes = ({ width, height }: MdpyMode): number =>
  2 ** Math.ceil(Math.log2(width * height * PIXEL_BYTES));

/** Returns the display's identity. */
export const mdpyIdentity = (mode: MdpyMode): PciIdentity => ({
  vendorId: 0x1b36,
  deviceId: 0x000f,
  subsystemVendorId: 0x1af4,
  subsystemId: 0x1100,
  revision: 1,
  classCode: 0x03_80_00, // display controller
  bar0Bytes: mdpyBarBytes(mode),
  prefetchableBars: [0],
  msiVectors: 0,
  capabilities: [
    {
      offset: MDPY_CAPABILITY,
      id: CAPABILITY_VENDOR,
      registers: [
        { name: 'VendorLength', offset: MDPY_CAPABILITY + 2, size: 1, reset: CAPABILITY_BYTES },
        { name: 'Format', offset: MDPY_FORMAT, size: 4, reset: BigInt(XRGB8888) },
        { name: 'Width', offset: MDPY_WIDTH, size: 4, reset: BigInt(mode.width) },
        { name: 'Height', offset: MDPY_HEIGHT, size: 4, reset: BigInt(mode.height) },
      ],
    },
  ],
  command: 0x0003,
  interruptPin: 0,
});

/** Draws the picture that a display shows after reset: a grey gradient from top to bottom. */
export function drawGradient(memory: Uint8Array, { width, height }: MdpyMode): void {
  const stride = width * PIXEL_BYTES;
  for (let line = 0; line < height; line++)
    memory.fill(Math.floor((line * BRIGHTEST) / height), line * stride, (line + 1) * stride);
}
