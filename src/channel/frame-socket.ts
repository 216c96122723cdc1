/**
 * Frames over a stream socket in both directions, between two host processes.
 */
import type { Socket } from 'node:net';
import { after, sleep } from '#host';
import {
  decodeFrame,
  encodeFrame,
  type Frame,
  FrameError,
  type FrameHeader,
  type FrameKind,
} from '../proto/codec.ts';
import { delimited, lengthPrefix } from '../proto/delimited.ts';
import type { FrameBodies } from '../proto/schema.ts';

/** Default time that the peer has to answer. */
const ANSWER_TIMEOUT_MS = 60_000;

/** Thrown if the peer has gone, is silent, or ends inside a frame. */
export class FrameSocketError extends Error {
  override name = 'FrameSocketError';
}

/** Functions that a socket needs of its owner. */
export interface FrameSocketOwner {
  /** Returns the header of a frame to send. */
  header(device: number): FrameHeader;
  /** Receives every frame that is sent, except bulk data. */
  sent?(frame: Uint8Array): void;
}

/** Frames that carry memory and states. A trace has no space for them. */
const BULK: ReadonlySet<FrameKind> = new Set([
  'ramPages',
  'zeroPages',
  'deviceStream',
  'iommuState',
  'guestState',
]);

export class FrameSocket {
  bytesSent = 0;
  readonly #socket: Socket;
  readonly #owner: FrameSocketOwner;
  readonly #frames: AsyncGenerator<Frame>;
  #failure: Error | undefined;

  constructor(socket: Socket, owner: FrameSocketOwner) {
    this.#socket = socket;
    this.#owner = owner;
    this.#frames = this.#read();
    // Pending reads and writes report the error. Without a listener it would end the process.
    socket.on('error', (error) => {
      this.#failure ??= error;
    });
  }

  /**
   * Sends a frame. Resolves when the socket accepts more. A caller that awaits each frame has bounded data in flight.
   * @throws FrameSocketError if the peer has gone
   */
  async send<K extends FrameKind>(kind: K, body: FrameBodies[K], device = -1): Promise<void> {
    if (this.#socket.destroyed || !this.#socket.writable) throw this.#gone();
    const frame = encodeFrame(this.#owner.header(device), kind, body);
    if (!BULK.has(kind)) this.#owner.sent?.(frame);
    const prefix = lengthPrefix(frame.length);
    this.bytesSent += prefix.length + frame.length;
    this.#socket.cork();
    this.#socket.write(prefix);
    const hasSpace = this.#socket.write(frame);
    this.#socket.uncork();
    if (!hasSpace) await this.#drained();
  }

  /**
   * Returns the next frame from the peer.
   * @throws FrameSocketError if the peer has gone or is silent, FrameError for an invalid frame
   */
  async next(timeoutMs = ANSWER_TIMEOUT_MS): Promise<Frame> {
    let cancel = () => {};
    const silence = new Promise<never>((_, reject) => {
      cancel = after(timeoutMs, () =>
        reject(new FrameSocketError(`the other host has sent nothing for ${timeoutMs} ms`)),
      );
    });
    try {
      const { value, done } = await Promise.race([this.#frames.next(), silence]);
      if (done) throw this.#gone();
      return value;
    } finally {
      cancel();
    }
  }

  /** Closes the connection after all sent data has left. */
  close(): void {
    this.#socket.end();
    this.#socket.destroySoon();
  }

  /**
   * Sends no more. Receives and drops the peer's data until the peer ends, at most for `ms`. A connection that is
   * closed with unread data is reset, and the peer then loses the last frame sent here.
   */
  async drain(ms: number): Promise<void> {
    const socket = this.#socket;
    if (!socket.destroyed) {
      const ended = new Promise<void>((resolve) => {
        socket.once('end', resolve).once('close', resolve);
      });
      socket.end();
      // Not awaited: it waits for a pending read, whose frame may never come.
      this.#frames.return(undefined).then(
        () => socket.resume(),
        () => socket.destroy(),
      );
      await Promise.race([ended, sleep(ms)]);
    }
    socket.destroy();
  }

  #gone(): FrameSocketError {
    return new FrameSocketError(
      `the other host has gone${this.#failure ? `: ${this.#failure.message}` : ''}`,
    );
  }

  #drained(): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (act: () => void) => {
        this.#socket.off('drain', drained).off('close', closed);
        act();
      };
      const drained = () => done(resolve);
      const closed = () => done(() => reject(this.#gone()));
      this.#socket.on('drain', drained).on('close', closed);
    });
  }

  async *#read(): AsyncGenerator<Frame> {
    let pending: Buffer = Buffer.alloc(0);
    let offset = 0;
    try {
      // An invalid frame does not close the socket: the peer must be told.
      const chunks = this.#socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
      for await (const chunk of chunks) {
        pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
        for (let found = delimited(pending, offset); found; found = delimited(pending, offset)) {
          const end = found.prefix + found.size;
          yield decodeFrame(pending.subarray(found.prefix, end));
          pending = pending.subarray(end);
          offset += end;
        }
      }
    } catch (error) {
      if (error instanceof FrameError) throw error;
      this.#failure ??= error as Error;
      throw this.#gone();
    }
    if (pending.length > 0)
      throw new FrameSocketError(`the other host ended inside a frame, at offset ${offset}`);
  }
}
