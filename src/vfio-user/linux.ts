/**
 * Calls of the C library: sockets with descriptors, mappings, memory files, event counters. This is the only file that
 * uses a foreign function interface.
 *
 * Structures for calls are written into memory outside JavaScript's heap, whose address is known. Each call is
 * synchronous. A thread that blocks in one cannot be terminated, so every wait has a time-out.
 */
import { constants } from 'node:os';
import koffi from 'koffi';
import type { ResourceLedger } from './resource-ledger.ts';
import { SystemCallError } from './system-call-error.ts';

const libc = koffi.load('libc.so.6');

const calls = {
  socket: libc.func('int socket(int domain, int type, int protocol)'),
  bind: libc.func('int bind(int fd, void *address, uint32_t length)'),
  listen: libc.func('int listen(int fd, int backlog)'),
  connect: libc.func('int connect(int fd, void *address, uint32_t length)'),
  accept4: libc.func('int accept4(int fd, void *address, void *length, int flags)'),
  recvmsg: libc.func('int64_t recvmsg(int fd, void *message, int flags)'),
  sendmsg: libc.func('int64_t sendmsg(int fd, void *message, int flags)'),
  setsockopt: libc.func('int setsockopt(int fd, int level, int name, void *value, uint32_t length)'),
  poll: libc.func('int poll(void *fds, uint64_t count, int timeout)'),
  mmap: libc.func(
    'void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)',
  ),
  munmap: libc.func('int munmap(void *address, size_t length)'),
  memfdCreate: libc.func('int memfd_create(const char *name, uint32_t flags)'),
  eventfd: libc.func('int eventfd(uint32_t count, int flags)'),
  statx: libc.func('int statx(int fd, void *path, int flags, uint32_t mask, void *status)'),
  close: libc.func('int close(int fd)'),
  fcntl: libc.func('int fcntl(int fd, int command, int argument)'),
};

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const POLLIN = 1;
const POLLOUT = 4;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_FAILED = 2n ** 64n - 1n;
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const EFD_CLOEXEC = 0o2000000;
const F_GETFL = 3;
const F_DUPFD_CLOEXEC = 1030;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
/** The file cannot become smaller. */
export const SEAL_SHRINK = 2;

/** Most characters of a socket's path (sun_path). */
export const SOCKET_PATH_BYTES = 107;
/** Most descriptors of one message (SCM_MAX_FD). */
const FDS_MAX = 253;
/** Up to this length a loop copies faster than a call. */
const SMALL_BYTES = 96;
/** Bytes received or sent by one call. */
const BUFFER_BYTES = 65_536;
/** Clients that may wait for a connection. */
const BACKLOG = 8;

function checked(result: number, syscall: string, detail = ''): number {
  if (result < 0) throw new SystemCallError(syscall, koffi.errno(), detail);
  return result;
}

/** Ledger of what this thread holds, if its supervisor keeps one. */
let ledger: ResourceLedger | undefined;

/** Notes from now on what this thread holds. */
export function keepLedger(kept: ResourceLedger): void {
  ledger = kept;
  for (const { address, bytes } of [statusArena, pollArena])
    ledger.reserved({ address, length: bytes.length });
}

/** Frees what a thread that has ended still holds. */
export function freeAll({ fds, ranges }: ResourceLedger): void {
  for (const fd of fds) calls.close(fd);
  for (const { address, length } of ranges) calls.munmap(address, length);
}

/** Notes a descriptor that this thread has got from another call. Returns it. */
export function own(fd: number): number {
  ledger?.opened(fd);
  return fd;
}

/** Memory outside the heap, with its address. */
interface NativeBytes {
  readonly address: bigint;
  readonly bytes: Buffer;
}

/** Reserves address space. Pages cost nothing until they are touched. @throws SystemCallError */
export function reserve(length: number): { readonly address: bigint; readonly buffer: ArrayBuffer } {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const address = calls.mmap(null, length, PROT_READ_WRITE, flags, -1, 0) as bigint;
  if (address === MAP_FAILED) throw new SystemCallError('mmap', koffi.errno(), `of ${length} bytes`);
  ledger?.reserved({ address, length });
  return { address, buffer: koffi.view(address, length) as ArrayBuffer };
}

/** Gives reserved address space back. Nobody may use a view of it afterwards. */
export function release(address: bigint, length: number): void {
  ledger?.releasing(address);
  checked(calls.munmap(address, length), 'munmap');
}

function allocate(length: number): NativeBytes {
  const { address, buffer } = reserve(length);
  return { address, bytes: Buffer.from(buffer) };
}

function viewOf({ buffer, byteOffset, length }: Buffer): DataView {
  return new DataView(buffer, byteOffset, length);
}

/** Maps a file over reserved address space, readable and writable. Returns false if its mode or seals do not allow it. */
export function mapFile(address: bigint, length: number, fd: number): boolean {
  return calls.mmap(address, length, PROT_READ_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !== MAP_FAILED;
}

/** Replaces mapped files by empty memory. An access through a stale address then meets no file. */
export function unmapFile(address: bigint, length: number): void {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  const result = calls.mmap(address, length, PROT_READ_WRITE, flags, -1, 0) as bigint;
  if (result === MAP_FAILED) throw new SystemCallError('mmap', koffi.errno());
}

/** Returns the seals of a file; 0 for a file that has none. */
export const sealsOf = (fd: number): number => Math.max(0, calls.fcntl(fd, F_GET_SEALS, 0));

/** Seals a memory file. @throws SystemCallError */
export const addSeals = (fd: number, seals: number): void =>
  void checked(calls.fcntl(fd, F_ADD_SEALS, seals), 'fcntl');

const AT_EMPTY_PATH = 0x1000;
const STATX_BASIC = 0x7ff;
/** Offsets in an arena: an empty path, and struct statx behind it. */
const STATX = 8;

/** Memory for the structure of statx(). One per thread. */
const statusArena = allocate(4096);
const statusView = viewOf(statusArena.bytes);

/** The parts of a file's status that identify it. */
export interface FileStatus {
  readonly isRegular: boolean;
  readonly size: number;
  readonly inode: number;
  /** Numbers of its device. */
  readonly major: number;
  readonly minor: number;
}

/** Returns the status of an open file, in a tenth of the time of Node's call. @throws SystemCallError */
export function fileStatus(fd: number): FileStatus {
  const { address } = statusArena;
  const status = address + BigInt(STATX);
  checked(calls.statx(fd, address, AT_EMPTY_PATH, STATX_BASIC, status), 'statx');
  const wide = (at: number) =>
    statusView.getUint32(STATX + at, true) + statusView.getUint32(STATX + at + 4, true) * 2 ** 32;
  return {
    isRegular: (statusView.getUint16(STATX + 28, true) & 0o170000) === 0o100000,
    inode: wide(32),
    size: wide(40),
    major: statusView.getUint32(STATX + 136, true),
    minor: statusView.getUint32(STATX + 140, true),
  };
}

/** Closes a descriptor, in a fraction of the time of Node's call. */
export function closeFile(fd: number): void {
  ledger?.closing(fd);
  calls.close(fd);
}

/** Returns the status flags of an open file. @throws SystemCallError */
export const fileFlags = (fd: number): number => checked(calls.fcntl(fd, F_GETFL, 0), 'fcntl');

/** Returns another descriptor of the same open file. @throws SystemCallError */
export const duplicate = (fd: number): number => own(checked(calls.fcntl(fd, F_DUPFD_CLOEXEC, 0), 'fcntl'));

/** Creates an empty memory file that can be sealed. @throws SystemCallError */
export const memoryFile = (name: string): number =>
  own(checked(calls.memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), 'memfd_create'));

/** Creates an event counter. @throws SystemCallError */
export const eventFile = (): number => own(checked(calls.eventfd(0, EFD_CLOEXEC), 'eventfd'));

/** Memory for the structures of poll(). One per thread. */
const pollArena = allocate(4096);

/** Waits for the first of `fds` that can be read. Returns a bit for each that can, lowest first; 0 after `timeoutMs`. */
export function waitReadable(fds: readonly number[], timeoutMs: number): number {
  const { bytes, address } = pollArena;
  for (const [i, fd] of fds.entries()) {
    bytes.writeInt32LE(fd, i * 8);
    bytes.writeUInt32LE(POLLIN, i * 8 + 4);
  }
  const ready = calls.poll(address, fds.length, Math.ceil(timeoutMs)) as number;
  let bits = 0;
  if (ready > 0) for (let i = 0; i < fds.length; i++) if (bytes.readUInt16LE(i * 8 + 6) !== 0) bits |= 1 << i;
  return bits;
}

/** Waits until a file can be written. Returns false after `timeoutMs`. */
export function waitWritable(fd: number, timeoutMs: number): boolean {
  const { bytes, address } = pollArena;
  bytes.writeInt32LE(fd, 0);
  bytes.writeUInt32LE(POLLOUT, 4);
  return calls.poll(address, 1, timeoutMs) > 0 && (bytes.readUInt16LE(6) & POLLOUT) !== 0;
}

function socketAddress(path: string): { readonly arena: NativeBytes; readonly length: number } {
  const name = Buffer.from(path);
  if (name.length > SOCKET_PATH_BYTES)
    throw new RangeError(
      `socket path of ${name.length} bytes; accepted: up to ${SOCKET_PATH_BYTES}: ${path}`,
    );
  const { bytes } = pollArena;
  bytes.fill(0, 0, SOCKET_PATH_BYTES + 3);
  bytes.writeUInt16LE(AF_UNIX, 0);
  name.copy(bytes, 2);
  return { arena: pollArena, length: 2 + name.length + 1 };
}

const unixSocket = (): number => own(checked(calls.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), 'socket'));

/** Listens at a path. @throws SystemCallError, RangeError for a path that is too long */
export function listenAt(path: string): number {
  const { arena, length } = socketAddress(path);
  return closedOnError(unixSocket(), (fd) => {
    checked(calls.bind(fd, arena.address, length), 'bind', path);
    checked(calls.listen(fd, BACKLOG), 'listen', path);
  });
}

/** Connects to a path. @throws SystemCallError, RangeError */
export function connectTo(path: string): number {
  const { arena, length } = socketAddress(path);
  return closedOnError(unixSocket(), (fd) => {
    checked(calls.connect(fd, arena.address, length), 'connect', path);
  });
}

/** Returns `fd` when `work` is done; closes it if that fails. */
function closedOnError(fd: number, work: (fd: number) => void): number {
  try {
    work(fd);
    return fd;
  } catch (error) {
    closeFile(fd);
    throw error;
  }
}

/** Accepts a waiting connection. @throws SystemCallError */
export const acceptOne = (fd: number): number =>
  own(checked(calls.accept4(fd, null, null, SOCK_CLOEXEC), 'accept4'));

// Offsets in an arena: struct msghdr, struct iovec, control data, and the bytes themselves.
const MSG_IOV = 16;
const MSG_IOV_COUNT = 24;
const MSG_CONTROL = 32;
const MSG_CONTROL_BYTES = 40;
const IOVEC = 64;
const CONTROL = 128;
const CONTROL_BYTES = 16 + FDS_MAX * 4 + 4;
const DATA = 2048;

/** Bytes and descriptors received by one call. The bytes are valid until the next call. */
interface Received {
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
}

const NO_FDS: readonly number[] = [];

/** Message calls on one stream socket. */
export class MessageSocket {
  readonly fd: number;
  readonly #receive = messageArena();
  readonly #send = messageArena();
  readonly #receiveView = viewOf(this.#receive.bytes);
  readonly #sendView = viewOf(this.#send.bytes);
  /** Control data are set in the structure of the last message sent. */
  #hasControl = true;

  /** A blocking call ends after `waitMs`. */
  constructor(fd: number, waitMs: number) {
    this.fd = fd;
    const { address, bytes } = this.#send;
    bytes.writeBigInt64LE(BigInt(Math.floor(waitMs / 1000)), DATA);
    bytes.writeBigInt64LE(BigInt(waitMs % 1000) * 1000n, DATA + 8);
    checked(calls.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, address + BigInt(DATA), 16), 'setsockopt');
  }

  /**
   * Receives what is there, or with `blocks` what comes in time. Returns undefined if there is nothing. At the end of the
   * stream there are no bytes.
   */
  receive(blocks = false): Received | undefined {
    const { address, bytes } = this.#receive;
    // The kernel has replaced it by the length that it has written. The upper half is always 0.
    this.#receiveView.setUint32(MSG_CONTROL_BYTES, CONTROL_BYTES, true);
    const flags = blocks ? MSG_CMSG_CLOEXEC : MSG_DONTWAIT | MSG_CMSG_CLOEXEC;
    const count = calls.recvmsg(this.fd, address, flags) as number;
    if (count < 0)
      return isTemporary(koffi.errno()) ? undefined : { bytes: bytes.subarray(0, 0), fds: NO_FDS };
    return { bytes: bytes.subarray(DATA, DATA + count), fds: this.#descriptors() };
  }

  /**
   * Sends bytes, with descriptors beside the first. Returns the count of bytes sent; 0 if there is no room now.
   * @throws SystemCallError
   */
  send(source: Uint8Array, from: number, fds: readonly number[]): number {
    const { address, bytes } = this.#send;
    const length = Math.min(BUFFER_BYTES, source.length - from);
    if (from === 0 && length <= SMALL_BYTES)
      for (let i = 0; i < length; i++) bytes[DATA + i] = source[i] as number;
    else bytes.set(source.subarray(from, from + length), DATA);
    this.#sendView.setUint32(IOVEC + 8, length, true);
    if (fds.length > 0 || this.#hasControl) this.#writeDescriptors(fds);
    const count = calls.sendmsg(this.fd, address, MSG_DONTWAIT | MSG_NOSIGNAL) as number;
    if (count >= 0) return count;
    const errno = koffi.errno();
    if (isTemporary(errno)) return 0;
    throw new SystemCallError('sendmsg', errno);
  }

  /** Frees the memory of its structures. The descriptor stays open. */
  free(): void {
    for (const { address } of [this.#receive, this.#send]) release(address, DATA + BUFFER_BYTES);
  }

  #descriptors(): readonly number[] {
    const { bytes } = this.#receive;
    const end = CONTROL + this.#receiveView.getUint32(MSG_CONTROL_BYTES, true);
    if (end < CONTROL + 16) return NO_FDS;
    const fds: number[] = [];
    for (let at = CONTROL; at + 16 <= end; ) {
      const length = Number(bytes.readBigUInt64LE(at));
      if (length < 16) break;
      if (bytes.readInt32LE(at + 8) === SOL_SOCKET && bytes.readInt32LE(at + 12) === SCM_RIGHTS)
        for (let i = at + 16; i + 4 <= Math.min(end, at + length); i += 4)
          fds.push(own(bytes.readInt32LE(i)));
      at += Math.ceil(length / 8) * 8;
    }
    return fds;
  }

  #writeDescriptors(fds: readonly number[]): void {
    const { bytes, address } = this.#send;
    this.#hasControl = fds.length > 0;
    const length = fds.length === 0 ? 0 : 16 + Math.ceil(fds.length / 2) * 8;
    bytes.writeBigUInt64LE(length === 0 ? 0n : address + BigInt(CONTROL), MSG_CONTROL);
    bytes.writeBigUInt64LE(BigInt(length), MSG_CONTROL_BYTES);
    if (length === 0) return;
    bytes.writeBigUInt64LE(BigInt(16 + fds.length * 4), CONTROL);
    bytes.writeInt32LE(SOL_SOCKET, CONTROL + 8);
    bytes.writeInt32LE(SCM_RIGHTS, CONTROL + 12);
    for (const [i, fd] of fds.entries()) bytes.writeInt32LE(fd, CONTROL + 16 + i * 4);
  }
}

function messageArena(): NativeBytes {
  const arena = allocate(DATA + BUFFER_BYTES);
  const { bytes, address } = arena;
  bytes.writeBigUInt64LE(address + BigInt(IOVEC), MSG_IOV);
  bytes.writeBigUInt64LE(1n, MSG_IOV_COUNT);
  bytes.writeBigUInt64LE(address + BigInt(CONTROL), MSG_CONTROL);
  bytes.writeBigUInt64LE(address + BigInt(DATA), IOVEC);
  bytes.writeBigUInt64LE(BigInt(BUFFER_BYTES), IOVEC + 8);
  return arena;
}

const isTemporary = (errno: number): boolean =>
  errno === constants.errno.EAGAIN || errno === constants.errno.EINTR;
