/**
 * Reader of the PNG files of the tests: 8-bit RGB, lines with the filters None and Up.
 */
import { inflateSync } from 'node:zlib';

/** A picture: red, green and blue bytes. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly pixels: Buffer;
}

/** Decodes a PNG. @throws Error for a kind that encodePng does not make */
export function decodePng(png: Uint8Array): Picture {
  const bytes = Buffer.from(png);
  const data: Buffer[] = [];
  let [width, height] = [0, 0];
  for (let at = 8; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    const type = bytes.toString('latin1', at + 4, at + 8);
    const chunk = bytes.subarray(at + 8, at + 8 + length);
    if (type === 'IHDR') [width, height] = [chunk.readUInt32BE(0), chunk.readUInt32BE(4)];
    if (type === 'IDAT') data.push(chunk);
    at += 12 + length;
  }
  const lines = inflateSync(Buffer.concat(data));
  const stride = width * 3;
  const pixels = Buffer.alloc(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = lines[y * (stride + 1)] as number;
    if (filter !== 0 && filter !== 2) throw new Error(`PNG filter ${filter}; accepted: 0, 2`);
    for (let i = 0; i < stride; i++) {
      const above = filter === 2 && y > 0 ? (pixels[(y - 1) * stride + i] as number) : 0;
      pixels[y * stride + i] = (lines[y * (stride + 1) + 1 + i] as number) + above;
    }
  }
  return { width, height, pixels };
}
