/**
 * Trace files: every control frame, length-delimited (see delimited.ts).
 */
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { decodeFrame, FRAME_BYTES_LIMIT, type Frame, FrameError } from './codec.ts';
import { delimited, lengthPrefix } from './delimited.ts';

/** Largest size of a trace file. Frames that do not fit are counted. */
const TRACE_BYTES_LIMIT = 1024 * 1024 * 1024;
const BUFFER_BYTES = 256 * 1024;

/** Returns the path of one host process's trace, in a run with several. */
export const tracePath = (path: string, process: number): string => `${path}.${process}`;

/**
 * Appends frames to a file through a buffer. An error of the file, such as a full disk, ends the trace and nothing else:
 * the file keeps the whole frames before it, and the frames that are missing are counted.
 */
export class TraceWriter {
  /** Count of frames in the file and in the buffer. */
  frames = 0;
  /** Count of frames left out: the file has reached its limit, or an error has ended the trace. */
  dropped = 0;
  /** The error that has ended the trace; empty if none has. */
  error = '';
  readonly #limit: number;
  readonly #buffer = Buffer.alloc(BUFFER_BYTES);
  #file: number | undefined;
  #used = 0;
  #buffered = 0;
  /** Bytes in the file; #size also counts those in the buffer. */
  #written = 0;
  #size = 0;

  /** Creates `path` or truncates it. If that fails, all frames are dropped. */
  constructor(path: string, limit = TRACE_BYTES_LIMIT) {
    this.#limit = limit;
    try {
      this.#file = openSync(path, 'w');
    } catch (error) {
      this.error = errorText(error);
    }
  }

  append(frame: Uint8Array): void {
    const prefix = lengthPrefix(frame.length);
    const size = prefix.length + frame.length;
    if (this.#used + size > BUFFER_BYTES) this.flush();
    const fits = frame.length <= FRAME_BYTES_LIMIT && this.#size + size <= this.#limit;
    if (this.#file === undefined || !fits) {
      this.dropped++;
      return;
    }
    this.frames++;
    this.#buffered++;
    this.#size += size;
    if (size > BUFFER_BYTES) {
      this.#write(Buffer.concat([prefix, frame]));
      return;
    }
    this.#buffer.set(prefix, this.#used);
    this.#buffer.set(frame, this.#used + prefix.length);
    this.#used += size;
  }

  flush(): void {
    if (this.#used > 0) this.#write(this.#buffer.subarray(0, this.#used));
  }

  close(): void {
    this.flush();
    this.#close();
  }

  /** Writes the buffered frames. The file system may take them in pieces. */
  #write(bytes: Uint8Array): void {
    const file = this.#file;
    this.#used = 0;
    if (file === undefined) return;
    let done = 0;
    try {
      while (done < bytes.length) {
        const taken = writeSync(file, bytes, done);
        if (taken === 0) throw new Error('the file takes no more bytes');
        done += taken;
      }
      this.#written += done;
      this.#buffered = 0;
    } catch (error) {
      this.error = errorText(error);
      this.#end(file, bytes.subarray(0, done));
    }
  }

  /** Ends the trace after an error: cuts the file behind its last whole frame. */
  #end(file: number, taken: Uint8Array): void {
    let [whole, left] = [0, this.#buffered];
    for (let next = delimited(taken, 0); next; next = delimited(taken.subarray(whole), 0)) {
      whole += next.prefix + next.size;
      left--;
    }
    this.frames -= left;
    this.dropped += left;
    try {
      ftruncateSync(file, this.#written + whole);
    } catch {
      // Not a regular file. A reader finds the cut frame and says so.
    }
    this.#close();
  }

  #close(): void {
    const file = this.#file;
    this.#file = undefined;
    try {
      if (file !== undefined) closeSync(file);
    } catch (error) {
      // Network file systems report a full disk here.
      this.error ||= errorText(error);
    }
  }
}

const errorText = (error: unknown): string => (error instanceof Error ? error.message : String(error));

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
    throw new FrameError(`at offset ${offset}: ${errorText(error)}`);
  }
}
