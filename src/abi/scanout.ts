/**
 * Scanout: the picture that a display shows, encoded as a header of four words and the lines.
 */

/** A picture of 32-bit pixels, little-endian XRGB8888: blue, green, red and an ignored byte. */
export interface Scanout {
  /** Pixels; each from 1 to SCANOUT_SIDE_MAX. */
  readonly width: number;
  readonly height: number;
  /** Bytes from one line to the next: at least 4 × width. */
  readonly stride: number;
  /** At least stride × height bytes, which may change while they are read. */
  readonly pixels: Uint8Array;
}

export const SCANOUT_SIDE_MAX = 4096;
/** DRM_FORMAT_XRGB8888. */
export const XRGB8888 = 0x3432_5258;
/** Bytes of a pixel. */
export const PIXEL_BYTES = 4;
/** Format, width, height and stride, 32 bits each. All are 0 while nothing is displayed. */
export const SCANOUT_HEADER_BYTES = 16;

/** @throws RangeError for an invalid scanout */
export function checkScanout(scanout: Scanout): void {
  checkShape(scanout);
  const { stride, height, pixels } = scanout;
  if (!(pixels instanceof Uint8Array && pixels.length >= stride * height))
    throw new RangeError(`${pixels?.length} bytes of pixels; accepted: ${stride * height} and more`);
}

function checkShape({ width, height, stride }: Omit<Scanout, 'pixels'>): void {
  for (const side of [width, height])
    if (!(Number.isInteger(side) && side >= 1 && side <= SCANOUT_SIDE_MAX))
      throw new RangeError(`a scanout of ${width} × ${height}; accepted: 1 to ${SCANOUT_SIDE_MAX} each`);
  const [least, most] = [width * PIXEL_BYTES, SCANOUT_SIDE_MAX * PIXEL_BYTES];
  if (!(Number.isInteger(stride) && stride >= least && stride <= most))
    throw new RangeError(`a stride of ${stride}; accepted: ${least} to ${most}`);
}

/** Returns the header of a scanout, or of no scanout. */
export function encodeScanoutHeader(scanout: Scanout | undefined): Uint8Array {
  const header = new Uint8Array(SCANOUT_HEADER_BYTES);
  const view = new DataView(header.buffer);
  const { width = 0, height = 0, stride = 0 } = scanout ?? {};
  const words = [scanout ? XRGB8888 : 0, width, height, stride];
  for (const [index, word] of words.entries()) view.setUint32(index * 4, word, true);
  return header;
}

/**
 * Returns a scanout with pixels still to be filled, or undefined if the header announces none.
 * @throws RangeError for an invalid header
 */
export function decodeScanoutHeader(header: Uint8Array): Scanout | undefined {
  const view = new DataView(header.buffer, header.byteOffset, SCANOUT_HEADER_BYTES);
  const [format, width, height, stride] = [0, 4, 8, 12].map((at) => view.getUint32(at, true)) as [
    number,
    number,
    number,
    number,
  ];
  if (format !== XRGB8888) return undefined;
  checkShape({ width, height, stride });
  return { width, height, stride, pixels: new Uint8Array(stride * height) };
}
