/**
 * PNG files (W3C PNG, third edition) of a display: 8-bit RGB, every line with the filter Up.
 */
import { constants, crc32, deflateSync } from 'node:zlib';
import { checkScanout, PIXEL_BYTES, type Scanout } from '../abi/scanout.ts';

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const BIT_DEPTH = 8;
const COLOUR_TYPE_RGB = 2;
const SAMPLES = 3;
const FILTER_UP = 2;
const HEADER_BYTES = 13;

/** Encodes a scanout; the same picture gives the same bytes. @throws RangeError for an invalid scanout */
export function encodePng(scanout: Scanout): Uint8Array {
  checkScanout(scanout);
  // Z_RLE uses no hash, unlike zlib's other strategies; their hash, and so their output, depends on the processor.
  const options = { level: 9, memLevel: 8, strategy: constants.Z_RLE };
  return Buffer.concat([
    SIGNATURE,
    chunk('IHDR', header(scanout)),
    chunk('IDAT', deflateSync(filteredLines(scanout), options)),
    chunk('IEND', new Uint8Array()),
  ]);
}

function header({ width, height }: Scanout): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  // Compression method, filter method and interlace method stay 0.
  bytes.set([BIT_DEPTH, COLOUR_TYPE_RGB], 8);
  return bytes;
}

function chunk(type: string, data: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(12 + data.length);
  bytes.writeUInt32BE(data.length);
  bytes.write(type, 4, 'latin1');
  bytes.set(data, 8);
  bytes.writeUInt32BE(crc32(bytes.subarray(4, 8 + data.length)), 8 + data.length);
  return bytes;
}

/** Returns each line as its filter type and the differences of its samples to the line above. */
function filteredLines({ width, height, stride, pixels }: Scanout): Uint8Array {
  const lineBytes = 1 + width * SAMPLES;
  const lines = new Uint8Array(lineBytes * height);
  const line = new Uint8Array(width * SAMPLES);
  const above = new Uint8Array(width * SAMPLES);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * stride + x * PIXEL_BYTES;
      for (let sample = 0; sample < SAMPLES; sample++)
        line[x * SAMPLES + sample] = pixels[at + SAMPLES - 1 - sample]!;
    }
    const to = y * lineBytes;
    lines[to] = FILTER_UP;
    for (let i = 0; i < line.length; i++) lines[to + 1 + i] = line[i]! - above[i]!;
    above.set(line);
  }
  return lines;
}
