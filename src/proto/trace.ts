/**
 * Trace files: every control frame, length-delimited (see delimited.ts).
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { decodeFrame, type Frame, FrameError } from './codec.ts';
import { delimited, lengthPrefix } from './delimited.ts';

/** Largest size of a trace file. Frames that do not fit are counted. */
const TRACE_BYTES_LIMIT = 1024 * 1024 * 1024;
const BUFFER_BYTES = 256 * 1024;

/** Appends frames to a file through a buffer. */
export class TraceWriter {
  frames = 0;
  /** Count of frames left out because the file is full. */
  dropped = 0;
  readonly #file: number;
  readonly #limit: number;
  readonly #buffer = Buffer.alloc(BUFFER_BYTES);
  #used = 0;
  #written = 0;

  /** Creates `path` or truncates it. @throws the error of `open` */
  constructor(path: string, limit = TRACE_BYTES_LIMIT) {
    this.#file = openSync(path, 'w');
    this.#limit = limit;
  }

  append(frame: Uint8Array): void {
    const prefix = lengthPrefix(frame.length);
    const size = prefix.length + frame.length;
    if (this.#written + size > this.#limit) {
      this.dropped++;
      return;
    }
    this.frames++;
    this.#written += size;
    if (this.#used + size > BUFFER_BYTES) this.flush();
    if (size > BUFFER_BYTES) {
      writeSync(this.#file, prefix);
      writeSync(this.#file, frame);
      return;
    }
    this.#buffer.set(prefix, this.#used);
    this.#buffer.set(frame, this.#used + prefix.length);
    this.#used += size;
  }

  flush(): void {
    if (this.#used > 0) writeSync(this.#file, this.#buffer, 0, this.#used);
    this.#used = 0;
  }

  close(): void {
    this.flush();
    closeSync(this.#file);
  }
}

/** Yields the frames of a trace file in order. @throws FrameError with the byte offset of an invalid frame */
export function* readTrace(path: string): Generator<Frame> {
  const file = openSync(path, 'r');
  try {
    let pending: Buffer = Buffer.alloc(0);
    let offset = 0;
    const chunk = Buffer.alloc(BUFFER_BYTES);
    for (;;) {
      const got = readSync(file, chunk);
      pending = Buffer.concat([pending, chunk.subarray(0, got)]);
      for (;;) {
        const length = delimited(pending, offset);
        if (!length) break;
        yield decodeAt(pending.subarray(length.prefix, length.prefix + length.size), offset);
        pending = pending.subarray(length.prefix + length.size);
        offset += length.prefix + length.size;
      }
      if (got > 0) continue;
      if (pending.length > 0)
        throw new FrameError(`trace ends inside a frame: ${pending.length} bytes left at offset ${offset}`);
      return;
    }
  } finally {
    closeSync(file);
  }
}

function decodeAt(bytes: Uint8Array, offset: number): Frame {
  try {
    return decodeFrame(bytes);
  } catch (error) {
    throw new FrameError(`at offset ${offset}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
