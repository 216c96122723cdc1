/**
 * Splits a block access into single accesses, each as wide as its alignment and the remaining length allow.
 */
const WIDEST = 8;

function widthAt(offset: number, left: number): number {
  let width = WIDEST;
  while (width > left || offset % width !== 0) width /= 2;
  return width;
}

/** Fills `bytes` by calls of `read` from `offset` on. */
export function readSplit(
  offset: number,
  bytes: Uint8Array,
  read: (offset: number, size: number) => bigint,
): void {
  for (let at = 0; at < bytes.length; ) {
    const width = widthAt(offset + at, bytes.length - at);
    const value = read(offset + at, width);
    for (let i = 0; i < width; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    at += width;
  }
}

/** Passes `bytes` to calls of `write` from `offset` on. */
export function writeSplit(
  offset: number,
  bytes: Uint8Array,
  write: (offset: number, size: number, value: bigint) => void,
): void {
  for (let at = 0; at < bytes.length; ) {
    const width = widthAt(offset + at, bytes.length - at);
    let value = 0n;
    for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i]!);
    write(offset + at, width, value);
    at += width;
  }
}
