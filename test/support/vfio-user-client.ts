/**
 * A small vfio-user client, written from the specification and without the server's declarations. Its calls block, and
 * it answers the server's DMA messages while it waits for a reply.
 */
import { closeSync } from 'node:fs';
import { connectTo, MessageSocket, waitReadable } from '../../src/vfio-user/linux.ts';

const HEADER_BYTES = 16;
/** Longest wait of a client for a reply. */
const REPLY_TIMEOUT_MS = 20_000;
const REPLY = 1;
const NO_REPLY = 0x10;
const ERROR = 0x20;

/** A connection of bytes and descriptors. */
export interface ClientWire {
  send(bytes: Uint8Array, fds?: readonly number[]): void;
  /** Returns received bytes; undefined after `timeoutMs`, and no bytes at the end of the stream. */
  receive(timeoutMs: number): { readonly bytes: Uint8Array; readonly fds: readonly number[] } | undefined;
  close(): void;
}

/** A wire over a UNIX socket. */
class SocketWire implements ClientWire {
  readonly #fd: number;
  readonly #socket: MessageSocket;

  constructor(path: string) {
    this.#fd = connectTo(path);
    this.#socket = new MessageSocket(this.#fd, 1000);
  }

  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    for (let at = 0; at < bytes.length; ) at += this.#socket.send(bytes, at, at === 0 ? fds : []);
  }

  receive(timeoutMs: number): ReturnType<ClientWire['receive']> {
    if (timeoutMs > 0 && waitReadable([this.#fd], timeoutMs) === 0) return undefined;
    const received = this.#socket.receive();
    return received && { bytes: received.bytes.slice(), fds: received.fds };
  }

  close(): void {
    closeSync(this.#fd);
    this.#socket.free();
  }
}

/** Thrown for an error reply, and for a connection that the server has closed. */
export class ReplyError extends Error {
  /** Errno of the reply; -1 for a closed connection. */
  readonly errno: number;
  constructor(errno: number, what: string) {
    super(errno < 0 ? `the server has closed the connection: ${what}` : `errno ${errno}: ${what}`);
    this.name = 'ReplyError';
    this.errno = errno;
  }
}

/** A received message. */
export interface WireMessage {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly error: number;
  readonly payload: Buffer;
  readonly fds: readonly number[];
}

/** Memory that the client reads and writes for the server. */
export type ServedMemory = (address: number, count: number) => Buffer | undefined;

export class VfioUserClient {
  readonly wire: ClientWire;
  /** DMA messages of the server, in order. */
  readonly dmaMessages: { readonly write: boolean; readonly address: number; readonly count: number }[] = [];
  /** Answers DMA messages; without it, and where it has no memory, the answer is ENXIO. */
  memory: ServedMemory | undefined;
  #buffer = Buffer.alloc(0);
  #fds: number[] = [];
  #id = 100;

  constructor(wire: ClientWire) {
    this.wire = wire;
  }

  static connect(path: string): VfioUserClient {
    return new VfioUserClient(new SocketWire(path));
  }

  close(): void {
    this.wire.close();
  }

  /** Sends a command and returns the payload of its reply. @throws ReplyError */
  request(command: number, payload: Uint8Array, fds: readonly number[] = []): Buffer {
    return this.requestWhole(command, payload, fds).payload;
  }

  /** Sends a command and returns its reply. @throws ReplyError */
  requestWhole(command: number, payload: Uint8Array, fds: readonly number[] = []): WireMessage {
    const id = this.send(command, payload, fds);
    const reply = this.next(REPLY_TIMEOUT_MS);
    if (!reply) throw new Error(`no reply to command ${command} within ${REPLY_TIMEOUT_MS} ms`);
    if (reply.id !== id || reply.command !== command)
      throw new Error(`reply ${reply.id} to command ${reply.command}; expected ${id} to ${command}`);
    if ((reply.flags & ERROR) !== 0) throw new ReplyError(reply.error, `command ${command}`);
    return reply;
  }

  /** Sends a command whose reply is not wanted. */
  post(command: number, payload: Uint8Array): void {
    this.send(command, payload, [], NO_REPLY);
  }

  /** Sends a command. Returns its message ID. */
  send(command: number, payload: Uint8Array, fds: readonly number[] = [], flags = 0): number {
    this.#id = (this.#id + 1) & 0xffff;
    this.wire.send(message(this.#id, command, flags, payload), fds);
    return this.#id;
  }

  /** Returns the next reply, and answers DMA messages before it; undefined after `timeoutMs`. @throws ReplyError */
  next(timeoutMs: number): WireMessage | undefined {
    for (const deadline = performance.now() + timeoutMs; ; ) {
      const found = this.#take();
      if (found && (found.flags & 0xf) === REPLY) return found;
      if (found) this.#answer(found);
      else if (!this.#receive(deadline - performance.now())) return undefined;
    }
  }

  /** Answers DMA messages until there are `count` of them, at most `timeoutMs`. */
  serveDma(count: number, timeoutMs = REPLY_TIMEOUT_MS): void {
    for (const deadline = performance.now() + timeoutMs; this.dmaMessages.length < count; ) {
      const found = this.#take();
      if (found) this.#answer(found);
      else if (!this.#receive(deadline - performance.now()))
        throw new Error(`${this.dmaMessages.length} DMA messages within ${timeoutMs} ms; expected ${count}`);
    }
  }

  /** Returns true if the server closes the connection within a time. */
  isClosed(timeoutMs = REPLY_TIMEOUT_MS): boolean {
    try {
      this.next(timeoutMs);
      return false;
    } catch (error) {
      return error instanceof ReplyError && error.errno < 0;
    }
  }

  #receive(timeoutMs: number): boolean {
    if (timeoutMs <= 0) return false;
    const received = this.wire.receive(timeoutMs);
    if (!received) return false;
    if (received.bytes.length === 0) throw new ReplyError(-1, 'end of stream');
    this.#buffer = Buffer.concat([this.#buffer, received.bytes]);
    this.#fds.push(...received.fds);
    return true;
  }

  #take(): WireMessage | undefined {
    const bytes = this.#buffer;
    if (bytes.length < HEADER_BYTES) return undefined;
    const size = bytes.readUInt32LE(4);
    if (bytes.length < size) return undefined;
    this.#buffer = bytes.subarray(size);
    const fds = this.#fds;
    this.#fds = [];
    return {
      id: bytes.readUInt16LE(0),
      command: bytes.readUInt16LE(2),
      flags: bytes.readUInt32LE(8),
      error: bytes.readUInt32LE(12),
      payload: bytes.subarray(HEADER_BYTES, size),
      fds,
    };
  }

  #answer({ id, command, payload }: WireMessage): void {
    const write = command === 12;
    const [address, count] = [Number(payload.readBigUInt64LE(0)), Number(payload.readBigUInt64LE(8))];
    this.dmaMessages.push({ write, address, count });
    const memory = this.memory?.(address, count);
    if (!memory) {
      this.wire.send(message(id, command, REPLY | ERROR, Buffer.alloc(0), 6));
      return;
    }
    if (write) payload.copy(memory, 0, 16);
    const head = payload.subarray(0, 16);
    this.wire.send(message(id, command, REPLY, write ? head : Buffer.concat([head, memory])));
  }
}

/** Returns the bytes of a message. */
export function message(id: number, command: number, flags: number, payload: Uint8Array, error = 0): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt16LE(id, 0);
  header.writeUInt16LE(command, 2);
  header.writeUInt32LE(HEADER_BYTES + payload.length, 4);
  header.writeUInt32LE(flags, 8);
  header.writeUInt32LE(error, 12);
  return Buffer.concat([header, payload]);
}

/** Returns little-endian words of 32 bits. */
export function words(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [i, value] of values.entries()) bytes.writeUInt32LE(value >>> 0, i * 4);
  return bytes;
}

/** Returns little-endian words of 64 bits. */
export function quads(...values: readonly (number | bigint)[]): Buffer {
  const bytes = Buffer.alloc(values.length * 8);
  for (const [i, value] of values.entries()) bytes.writeBigUInt64LE(BigInt(value), i * 8);
  return bytes;
}

/** Returns version data: the version, and capabilities as NUL-terminated JSON. */
export function versionData(major: number, minor: number, capabilities?: object): Buffer {
  const version = Buffer.alloc(4);
  version.writeUInt16LE(major, 0);
  version.writeUInt16LE(minor, 2);
  const text = capabilities === undefined ? '' : `${JSON.stringify({ capabilities })}\0`;
  return Buffer.concat([version, Buffer.from(text)]);
}

/** Numbers of the specification. */
export const VfioUser = {
  VERSION: 1,
  DMA_MAP: 2,
  DMA_UNMAP: 3,
  GET_INFO: 4,
  GET_REGION_INFO: 5,
  GET_REGION_IO_FDS: 6,
  GET_IRQ_INFO: 7,
  SET_IRQS: 8,
  REGION_READ: 9,
  REGION_WRITE: 10,
  DEVICE_RESET: 13,
  REGION_WRITE_MULTI: 15,
  DEVICE_FEATURE: 16,
  MIG_DATA_READ: 17,
  MIG_DATA_WRITE: 18,
} as const;

/** Requests of the specification, one method each. */
export class VfioUserRequests {
  readonly client: VfioUserClient;

  constructor(client: VfioUserClient) {
    this.client = client;
  }

  /** Negotiates version 0.0. Returns the server's capabilities. */
  negotiate(capabilities: object = { max_msg_fds: 8, max_data_xfer_size: 1024 }): Record<string, unknown> {
    const reply = this.client.request(VfioUser.VERSION, versionData(0, 0, capabilities));
    return JSON.parse(reply.subarray(4, -1).toString()).capabilities;
  }

  map(
    address: number | bigint,
    size: number | bigint,
    offset: number | bigint = 0,
    fd?: number,
    flags = 3,
  ): void {
    const payload = Buffer.concat([words(32, flags), quads(offset, address, size)]);
    this.client.request(VfioUser.DMA_MAP, payload, fd === undefined ? [] : [fd]);
  }

  unmap(address: number | bigint, size: number | bigint, flags = 0): Buffer {
    return this.client.request(VfioUser.DMA_UNMAP, Buffer.concat([words(24, flags), quads(address, size)]));
  }

  read(region: number, offset: number | bigint, count: number): Buffer {
    const payload = Buffer.concat([quads(offset), words(region, count)]);
    return this.client.request(VfioUser.REGION_READ, payload).subarray(16);
  }

  write(region: number, offset: number | bigint, data: Uint8Array): void {
    const payload = Buffer.concat([quads(offset), words(region, data.length), data]);
    this.client.request(VfioUser.REGION_WRITE, payload);
  }

  regionInfo(index: number, argsz = 32): WireMessage {
    const payload = Buffer.concat([words(argsz, 0, index, 0), quads(0, 0)]);
    return this.client.requestWhole(VfioUser.GET_REGION_INFO, payload);
  }

  setIrqs(
    flags: number,
    index: number,
    start: number,
    count: number,
    fds: readonly number[] = [],
    data = '',
  ): void {
    const payload = Buffer.concat([
      words(20 + data.length, flags, index, start, count),
      Buffer.from(data, 'latin1'),
    ]);
    this.client.request(VfioUser.SET_IRQS, payload, fds);
  }

  reset(): void {
    this.client.request(VfioUser.DEVICE_RESET, Buffer.alloc(0));
  }

  /** Performs DEVICE_FEATURE. Returns the payload of the reply. */
  feature(flags: number, data: Uint8Array = Buffer.alloc(0), argsz = 8 + data.length): Buffer {
    return this.client.request(VfioUser.DEVICE_FEATURE, Buffer.concat([words(argsz, flags), data]));
  }

  setState(state: number): void {
    this.feature(0x2_0002, words(state, 0xffff_ffff));
  }

  migrationRead(size: number): Buffer {
    const reply = this.client.request(VfioUser.MIG_DATA_READ, words(8 + size, size));
    return reply.subarray(8, 8 + reply.readUInt32LE(4));
  }

  migrationWrite(data: Uint8Array): void {
    this.client.request(VfioUser.MIG_DATA_WRITE, Buffer.concat([words(8 + data.length, data.length), data]));
  }
}
