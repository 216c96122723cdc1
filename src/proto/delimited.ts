/**
 * Frames one after the other, each behind its length as a varint, as protobuf delimits messages: in trace files and in
 * the stream between two hosts.
 */
import protobuf from 'protobufjs/minimal.js';
import { FRAME_BYTES_LIMIT, FrameError } from './codec.ts';

/** What stands before a frame of so many bytes. */
export const lengthPrefix = (bytes: number): Uint8Array => protobuf.Writer.create().uint32(bytes).finish();

/**
 * Length of the frame at the start of `bytes`, and of its prefix, if it is there whole.
 * @param offset where `bytes` begins, for messages
 * @throws FrameError for one that is too long
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
