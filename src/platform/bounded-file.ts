/**
 * Reads a user's file whole, within a limit, and never waits for one that has no end: a FIFO, a device.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';

/** Thrown for a file that is not read. The message does not name the file. */
export class FileRefusedError extends Error {
  override name = 'FileRefusedError';
}

/** Returns the bytes of a regular file. @throws FileRefusedError, the file system's own errors */
export function readBounded(path: string, limit: number): Buffer {
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) throw new FileRefusedError('not a regular file');
    if (stat.size > limit) throw new FileRefusedError(`${stat.size} bytes; accepted: up to ${limit}`);
    return readUpTo(file, stat.size, limit);
  } finally {
    closeSync(file);
  }
}

/** Reads to the end of the file, which may have grown since its size was taken, and may be of /proc and have size 0. */
function readUpTo(file: number, expected: number, limit: number): Buffer {
  const chunks: Buffer[] = [];
  let total = 0;
  for (;;) {
    const chunk = Buffer.allocUnsafe(Math.max(expected - total, CHUNK_BYTES));
    const length = readSync(file, chunk);
    if (length === 0) return Buffer.concat(chunks, total);
    total += length;
    if (total > limit) throw new FileRefusedError(`more than ${limit} bytes`);
    chunks.push(chunk.subarray(0, length));
  }
}

/** Bytes read at a time beyond the expected size. */
const CHUNK_BYTES = 64 * 1024;
