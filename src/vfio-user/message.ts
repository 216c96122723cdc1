/**
 * Messages, and their assembly from a stream of bytes. A stream comes in pieces of any size; descriptors come with a
 * piece.
 */
import { FLAG_ERROR, HEADER, MESSAGE_BYTES_MAX, TYPE_MASK, TYPE_REPLY } from './protocol.ts';

/** One whole message. Its bytes are valid until the next message is received. */
export interface Message {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly error: number;
  readonly payload: Uint8Array;
  /** Received descriptors. A taker replaces its entry by -1; the others are closed after the message is handled. */
  readonly fds: number[];
}

/** Returns true for the reply to a command of the server. */
export const isReply = ({ flags }: Message): boolean => (flags & TYPE_MASK) === TYPE_REPLY;

/** Thrown when a connection has ended: its peer is gone, or has sent what cannot be a message. */
export class ConnectionClosedError extends Error {
  override name = 'ConnectionClosedError';
}

/** Most descriptors that may come with one message. The kernel sends at most 253 at once. */
const FDS_LIMIT = 253;

/** Returns the bytes of a message. */
export function encodeMessage(
  id: number,
  command: number,
  flags: number,
  payload: Uint8Array,
  error = 0,
): Uint8Array {
  const bytes = new Uint8Array(HEADER.size + payload.length);
  writeHeader(bytes, id, command, flags, error);
  bytes.set(payload, HEADER.size);
  return bytes;
}

/** Writes the header of a message that fills `bytes`. The layout's own writer takes four times as long. */
function writeHeader(bytes: Uint8Array, id: number, command: number, flags: number, error: number): void {
  putWord(bytes, 0, id | (command << 16));
  putWord(bytes, 4, bytes.length);
  putWord(bytes, 8, flags);
  putWord(bytes, 12, error);
}

function putWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value & 0xff;
  bytes[at + 1] = (value >>> 8) & 0xff;
  bytes[at + 2] = (value >>> 16) & 0xff;
  bytes[at + 3] = value >>> 24;
}

/** Writes the header of a reply that fills `bytes`. */
export const writeReplyHeader = ({ id, command }: Message, bytes: Uint8Array): void =>
  writeHeader(bytes, id, command, TYPE_REPLY, 0);

const NO_BYTES = new Uint8Array();

/** Returns the reply to a message; with an error number it has a header alone. */
export const encodeReply = ({ id, command }: Message, payload: Uint8Array, error = 0): Uint8Array =>
  error === 0
    ? encodeMessage(id, command, TYPE_REPLY, payload)
    : encodeMessage(id, command, TYPE_REPLY | FLAG_ERROR, NO_BYTES, error);

/**
 * Assembles messages. Descriptors belong to the last message that has begun when they arrive: the kernel ends a read
 * behind the bytes that carry descriptors.
 */
export class MessageReader {
  readonly #ready: Message[] = [];
  readonly #closeFd: (fd: number) => void;
  /** Bytes of the message that has begun but is not complete. */
  #partial = NO_BYTES;
  #filled = 0;
  #fds: number[] = [];

  constructor(closeFd: (fd: number) => void) {
    this.#closeFd = closeFd;
  }

  /** Takes the bytes of one read. @throws ConnectionClosedError for a header that cannot be one; fds are closed */
  feed(bytes: Uint8Array, fds: readonly number[]): void {
    const before = this.#ready.length;
    let at = 0;
    try {
      while (at < bytes.length) at += this.#take(bytes, at);
      if (this.#fds.length + fds.length > FDS_LIMIT)
        throw new ConnectionClosedError(`more than ${FDS_LIMIT} descriptors with one message`);
    } catch (error) {
      for (const fd of fds) this.#closeFd(fd);
      throw error;
    }
    const last = this.#filled === 0 && this.#ready.length > before ? this.#ready.at(-1)!.fds : this.#fds;
    last.push(...fds);
  }

  /** Count of whole messages. */
  get ready(): number {
    return this.#ready.length;
  }

  next(): Message | undefined {
    return this.#ready.shift();
  }

  /** Closes the descriptors of every message that nobody has taken. */
  close(): void {
    for (const { fds } of this.#ready) for (const fd of fds) this.#closeFd(fd);
    for (const fd of this.#fds) this.#closeFd(fd);
    this.#ready.length = 0;
    this.#fds = [];
    this.#filled = 0;
  }

  /** Takes one message, or a part of one, from `at` on. Returns the count of bytes. */
  #take(bytes: Uint8Array, at: number): number {
    const left = bytes.length - at;
    if (this.#filled === 0 && left >= HEADER.size) {
      const size = sizeOf(bytes, at);
      if (size <= left) {
        this.#push(bytes.subarray(at, at + size));
        return size;
      }
    }
    return this.#takePart(bytes, at, left);
  }

  #takePart(bytes: Uint8Array, at: number, left: number): number {
    if (this.#filled === 0) this.#partial = new Uint8Array(HEADER.size);
    const taken = Math.min(left, this.#partial.length - this.#filled);
    this.#partial.set(bytes.subarray(at, at + taken), this.#filled);
    this.#filled += taken;
    if (this.#filled < this.#partial.length) return taken;
    const size = sizeOf(this.#partial, 0);
    if (size > this.#filled) {
      const whole = new Uint8Array(size);
      whole.set(this.#partial);
      this.#partial = whole;
    } else {
      this.#push(this.#partial);
      this.#filled = 0;
    }
    return taken;
  }

  #push(bytes: Uint8Array): void {
    const low = word(bytes, 0);
    this.#ready.push({
      id: low & 0xffff,
      command: low >>> 16,
      flags: word(bytes, 8),
      error: word(bytes, 12),
      payload: bytes.subarray(HEADER.size),
      fds: this.#fds,
    });
    this.#fds = [];
  }
}

/** Returns 32 bits, little-endian. */
export const word = (bytes: Uint8Array, at: number): number =>
  ((bytes[at] as number) |
    ((bytes[at + 1] as number) << 8) |
    ((bytes[at + 2] as number) << 16) |
    ((bytes[at + 3] as number) << 24)) >>>
  0;

/** Returns the size of the message whose header is at `at`. @throws ConnectionClosedError */
function sizeOf(bytes: Uint8Array, at: number): number {
  const size = word(bytes, at + 4);
  if (size < HEADER.size || size > MESSAGE_BYTES_MAX)
    throw new ConnectionClosedError(
      `a message of ${size} bytes; accepted: ${HEADER.size} to ${MESSAGE_BYTES_MAX}`,
    );
  return size;
}
