/**
 * Connections between the host processes of a run: each listens on its UNIX socket for VMs that migrate to it, and
 * connects to those of the others.
 */
import { connect, createServer, type Server } from 'node:net';
import { nowUs, sleep } from '#host';
import { FrameSocket, type FrameSocketOwner } from '../../../channel/frame-socket.ts';
import { MigrationError } from '../../../guest/migration-settings.ts';

/** Maximum count of VMs that arrive at the same time; further ones are refused. */
export const ARRIVALS_LIMIT = 64;

/** Time limit for a source to read that its VM was refused. */
const DRAIN_MS = 5_000;

/** Time for which a source tries to reach a host that does not listen, and the interval of its attempts. */
const CONNECT_TIMEOUT_MS = 10_000;
const CONNECT_RETRY_MS = 50;

/** Errors of a connection to a host that does not listen yet, or whose queue of connections is full. */
const RETRIED: ReadonlySet<string | undefined> = new Set(['ENOENT', 'ECONNREFUSED', 'EAGAIN']);

/** Sends a source the reason why its VM is refused. Never rejects, because the source may be gone. */
export async function refuse(socket: FrameSocket, reason: string): Promise<void> {
  await socket.send('migrationFailed', { reason }).catch(() => {});
  await socket.drain(DRAIN_MS);
}

/** The host that listens. */
interface ListeningHost extends FrameSocketOwner {
  /** Handles one connection; resolves at its end. */
  serve(socket: FrameSocket): Promise<void>;
  /** Called with an error that ends one connection, or of the server itself. Both concern no VM that runs here. */
  failed(error: Error): void;
}

export class HostSocket {
  /** Number of this host process. */
  readonly process: number;
  readonly #sockets: readonly string[];
  readonly #connectTimeoutMs: number;
  #server: Server | undefined;
  #arrivals = 0;

  constructor(process: number, sockets: readonly string[], connectTimeoutMs: number = CONNECT_TIMEOUT_MS) {
    this.process = process;
    this.#sockets = sockets;
    this.#connectTimeoutMs = connectTimeoutMs;
  }

  /** Count of the run's host processes. */
  get hostCount(): number {
    return this.#sockets.length;
  }

  /** Listens for arriving VMs; resolves when it does. */
  listen(host: ListeningHost): Promise<void> {
    const server = createServer((socket) => {
      this.#serve(new FrameSocket(socket, host), host).catch(host.failed);
    });
    this.#server = server;
    return new Promise((resolve, reject) => {
      server.once('listening', () => {
        server.off('error', reject);
        server.on('error', host.failed);
        resolve();
      });
      server.once('error', reject);
      server.listen(this.#sockets[this.process]);
    });
  }

  async #serve(stream: FrameSocket, host: ListeningHost): Promise<void> {
    if (this.#arrivals >= ARRIVALS_LIMIT)
      return refuse(stream, `${ARRIVALS_LIMIT} VMs are arriving already; accepted: a retry later`);
    this.#arrivals++;
    try {
      await host.serve(stream);
    } finally {
      this.#arrivals--;
    }
  }

  /**
   * Connects to a host process. Repeats the attempt while the host does not listen, because it may still be starting;
   * at most for CONNECT_TIMEOUT_MS, and while `isWanted` returns true.
   * @throws MigrationError if it cannot be reached
   */
  async connect(to: number, owner: FrameSocketOwner, isWanted = () => true): Promise<FrameSocket> {
    const path = this.#sockets[to];
    if (path === undefined) throw new MigrationError(`host ${to}; accepted: 0 to ${this.hostCount - 1}`);
    const deadline = nowUs() + this.#connectTimeoutMs * 1000;
    for (;;) {
      const result = await attempt(path, owner);
      if (result instanceof FrameSocket) return result;
      const isLate = nowUs() >= deadline;
      if (isLate || !isWanted() || !RETRIED.has(result.code)) {
        const tried = isLate ? `, tried for ${this.#connectTimeoutMs} ms` : '';
        throw new MigrationError(`host ${to}: ${result.message}${tried}`);
      }
      await sleep(CONNECT_RETRY_MS);
    }
  }

  /** Stops listening. */
  close(): void {
    this.#server?.close();
  }
}

/** Resolves to a connection, or to the error. */
function attempt(path: string, owner: FrameSocketOwner): Promise<FrameSocket | NodeJS.ErrnoException> {
  return new Promise((resolve) => {
    const socket = connect(path, () => {
      resolve(new FrameSocket(socket, owner));
      socket.off('error', resolve);
    });
    socket.on('error', resolve);
  });
}
