/**
 * Length-delimited frames: each follows its length as a varint, as protobuf delimits messages. Trace files and the
 * stream between two hosts have this form.
 */
import protobuf from 'protobufjs/minimal.js';
import { FRAME_BYTES_LIMIT, FrameError } from './codec.ts';

/** Returns the prefix of a frame of `bytes` bytes. */
export const lengthPrefix = (bytes: number): Uint8Array => protobuf.Writer.create().uint32(bytes).finish();

/**
 * Returns the lengths of the frame at the start of `bytes` and of its prefix, or undefined if it is incomplete.
 * @param offset of `bytes` in the stream, for messages
 * @throws FrameError if the frame is too long
 */
export function delimited(bytes: Uint8Array, offset: number): { prefix: number; size: number } | undefined {
  let size = 0;
  for (let prefix = 0; prefix < bytes.length; prefix++) {
    const byte = bytes[prefix] as number;
    size += (byte & 0x7f) * 2 ** (7 * prefix);
    if (size > FRAME_BYTES_LIMIT)
      throw new FrameError(
        `frame of ${size} bytes at offset ${offset}; accepted: up to ${FRAME_BYTES_LIMIT}`,
      );
    if (byte < 0x80) return prefix + 1 + size <= bytes.length ? { prefix: prefix + 1, size } : undefined;
  }
  return undefined;
}
