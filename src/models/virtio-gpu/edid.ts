/**
 * EDID 1.4 (VESA E-EDID release A, revision 2) of a display with one mode at 60 Hz, with reduced blanking (CVT 1.2).
 */

const EDID_BYTES = 128;
const REFRESH_HZ = 60;
const H_BLANK = 160;
const H_FRONT = 48;
const H_SYNC = 32;
const V_FRONT = 3;
const V_SYNC = 6;
/** Shortest vertical blanking, in microseconds. */
const V_BLANK_US = 460;
const PIXELS_PER_CM = 38;

/** Returns the EDID of a display of that size in pixels. */
export function edidOf(width: number, height: number): Uint8Array {
  const bytes = new Uint8Array(EDID_BYTES);
  bytes.set([0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00]);
  // Manufacturer MDV, 5 bits a letter, big-endian; product 1; model year 2026.
  bytes.set([0x34, 0x96, 1, 0, 0, 0, 0, 0, 0xff, 2026 - 1990], 8);
  const [widthCm, heightCm] = [Math.round(width / PIXELS_PER_CM), Math.round(height / PIXELS_PER_CM)];
  // Version 1.4, digital with 8 bits a colour, size, gamma 2.2, sRGB and a preferred mode.
  bytes.set([1, 4, 0xa0, widthCm, heightCm, 120, 0x06], 18);
  // Chromaticity of sRGB.
  bytes.set([0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54], 25);
  // No standard timings.
  bytes.fill(0x01, 38, 54);
  bytes.set(detailedTiming(width, height, widthCm * 10, heightCm * 10), 54);
  bytes.set(textDescriptor('mdevsim'), 72);
  // Two unused descriptors.
  for (const at of [90, 108]) bytes[at + 3] = 0x10;
  bytes[127] = (256 - (bytes.reduce((sum, byte) => sum + byte, 0) & 0xff)) & 0xff;
  return bytes;
}

function detailedTiming(width: number, height: number, widthMm: number, heightMm: number): Uint8Array {
  const lineUs = (1e6 / REFRESH_HZ - V_BLANK_US) / height;
  const vBlank = Math.max(Math.floor(V_BLANK_US / lineUs) + 1, V_FRONT + V_SYNC + 6);
  const clock = Math.round(((width + H_BLANK) * (height + vBlank) * REFRESH_HZ) / 10_000);
  const high = (a: number, b: number) => ((a >>> 8) << 4) | (b >>> 8);
  return Uint8Array.of(
    clock & 0xff,
    clock >>> 8,
    width & 0xff,
    H_BLANK,
    high(width, H_BLANK),
    height & 0xff,
    vBlank & 0xff,
    high(height, vBlank),
    H_FRONT,
    H_SYNC,
    (V_FRONT << 4) | V_SYNC,
    0,
    widthMm & 0xff,
    heightMm & 0xff,
    high(widthMm, heightMm),
    0,
    0,
    // Digital separate sync, horizontal positive.
    0x1a,
  );
}

/** Returns a descriptor with the display's name. */
function textDescriptor(name: string): Uint8Array {
  const bytes = new Uint8Array(18).fill(0x20, 5);
  bytes[3] = 0xfc;
  bytes.set(
    [...`${name}\n`].map((letter) => letter.charCodeAt(0)),
    5,
  );
  return bytes;
}
