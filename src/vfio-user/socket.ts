/**
 * Transport over a UNIX stream socket, with descriptors. Both directions are bounded: a message has a largest size, and
 * a peer that does not read loses its connection.
 */
import { chmodSync, lstatSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  acceptOne,
  closeFile,
  connectTo,
  listenAt,
  MessageSocket,
  SOCKET_PATH_BYTES,
  waitReadable,
  waitWritable,
} from './linux.ts';
import { ConnectionClosedError, type Message, MessageReader } from './message.ts';
import { SystemCallError } from './system-call-error.ts';
import type { Transport } from './transport.ts';

/** Time for which a peer may keep its side of the socket full. A client counts a server as dead after about as long. */
const SEND_TIMEOUT_MS = 5_000;

/** Longest wait of a call for a client that has just sent a message. */
const HOT_WAIT_MS = 20;

/** One connection of a UNIX socket. */
export class SocketTransport implements Transport {
  readonly fd: number;
  readonly #socket: MessageSocket;
  readonly #reader = new MessageReader(closeFile);
  #open = true;

  /** Owns the descriptor. */
  constructor(fd: number) {
    this.fd = fd;
    this.#socket = new MessageSocket(fd, HOT_WAIT_MS);
  }

  /** True if a message can be received without a call. */
  get buffered(): boolean {
    return this.#reader.ready > 0;
  }

  receive(timeoutMs: number): Message | undefined {
    for (let wait = timeoutMs; ; wait = 0) {
      const message = this.#reader.next();
      if (message) return message;
      if (!this.#open) throw new ConnectionClosedError('the connection is closed');
      // A zero wait needs no poll: the receiving call does not block.
      if (wait > 0 && waitReadable([this.fd], wait) === 0) return undefined;
      if (!this.#fill(false)) return undefined;
    }
  }

  /** Receives like {@link receive}, in one call that waits HOT_WAIT_MS: for a client that waits for each reply. */
  receiveSoon(): Message | undefined {
    const message = this.#reader.next();
    if (message) return message;
    return this.#fill(true) ? this.#reader.next() : undefined;
  }

  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    // The memory of the calls' structures is given back.
    if (!this.#open) throw new ConnectionClosedError('the connection is closed');
    try {
      for (let at = 0; at < bytes.length; ) {
        const sent = this.#socket.send(bytes, at, at === 0 ? fds : []);
        at += sent;
        if (sent === 0 && !waitWritable(this.fd, SEND_TIMEOUT_MS))
          throw new ConnectionClosedError(`the client has not read for ${SEND_TIMEOUT_MS} ms`);
      }
    } catch (error) {
      throw error instanceof SystemCallError ? new ConnectionClosedError(error.message) : error;
    }
  }

  /** Receives bytes. Returns false if there are none. */
  #fill(blocks: boolean): boolean {
    const received = this.#socket.receive(blocks);
    if (!received) return false;
    if (received.bytes.length === 0) throw new ConnectionClosedError('the client has disconnected');
    this.#reader.feed(received.bytes, received.fds);
    return true;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#reader.close();
    closeFile(this.fd);
    this.#socket.free();
  }
}

/** Thrown for a socket path that cannot be used. */
export class SocketPathError extends Error {
  override name = 'SocketPathError';
}

/** A socket that clients connect to, one at a time. */
export class SocketListener {
  readonly fd: number;
  readonly path: string;

  /**
   * Listens at `path`, for this user alone: the socket has mode 0600. A directory that does not exist is created with
   * mode 0700. A socket that a dead server has left is replaced.
   * @throws SocketPathError
   */
  constructor(path: string) {
    this.path = path;
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      checkFree(path);
      this.fd = listenPrivately(path);
    } catch (error) {
      if (error instanceof SocketPathError) throw error;
      throw new SocketPathError(error instanceof Error ? error.message : String(error));
    }
  }

  accept(): SocketTransport {
    return new SocketTransport(acceptOne(this.fd));
  }

  close(): void {
    closeFile(this.fd);
    rmSync(this.path, { force: true });
  }
}

/** @throws SocketPathError for a path that is too long, a socket that has a server, and any other file */
function checkFree(path: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes > SOCKET_PATH_BYTES)
    throw new SocketPathError(`socket path of ${bytes} bytes; accepted: up to ${SOCKET_PATH_BYTES}: ${path}`);
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket()) throw new SocketPathError(`${path} exists; accepted: a free path, or a socket`);
  try {
    closeFile(connectTo(path));
  } catch {
    return;
  }
  throw new SocketPathError(`${path} is in use by another server`);
}

/** Listens at a path in a directory of its own, and moves the socket when its mode is set. */
function listenPrivately(path: string): number {
  const folder = mkdtempSync(join(dirname(path), '.s'));
  try {
    const hidden = join(folder, 's');
    const fd = listenAt(hidden);
    chmodSync(hidden, 0o600);
    renameSync(hidden, path);
    return fd;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
