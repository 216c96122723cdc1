/**
 * Where a host process takes VMs in, and how it reaches the others: UNIX sockets in a directory of the run's own.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { FrameSocket, type FrameSocketOwner } from '../../../channel/frame-socket.ts';
import { MigrationError } from '../../../guest/migration-settings.ts';

/** VMs that come at once; the next are refused. */
export const ARRIVALS_LIMIT = 64;

/** How long a source may take to hear that its VM is not taken. */
const DRAIN_MS = 5_000;

/** Tells a source that its VM is not taken, and why. Never rejects: it may be gone. */
export async function refuse(socket: FrameSocket, reason: string): Promise<void> {
  await socket.send('migrationFailed', { reason }).catch(() => {});
  await socket.drain(DRAIN_MS);
}

export class HostSocket {
  /** Number of this host process. */
  readonly process: number;
  readonly #sockets: readonly string[];
  #server: Server | undefined;
  #arrivals = 0;

  constructor(process: number, sockets: readonly string[]) {
    this.process = process;
    this.#sockets = sockets;
  }

  /** Host processes of the run. */
  get hosts(): number {
    return this.#sockets.length;
  }

  /** Takes VMs in: `serve` is given each connection, and resolves when it is done. Resolves when it listens. */
  listen(serve: (socket: FrameSocket) => Promise<void>, owner: FrameSocketOwner): Promise<void> {
    const server = createServer((socket) => {
      const stream = new FrameSocket(socket, owner);
      if (this.#arrivals >= ARRIVALS_LIMIT) {
        void refuse(stream, `${ARRIVALS_LIMIT} VMs are coming already; accepted: a try later`);
        return;
      }
      this.#arrivals++;
      void serve(stream).finally(() => this.#arrivals--);
    });
    this.#server = server;
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#sockets[this.process], resolve);
    });
  }

  /** @throws MigrationError if that host cannot be reached */
  connect(to: number, owner: FrameSocketOwner): Promise<FrameSocket> {
    const path = this.#sockets[to];
    if (path === undefined) throw new MigrationError(`host ${to}; accepted: 0 to ${this.hosts - 1}`);
    return new Promise((resolve, reject) => {
      const socket: Socket = connect(path, () => {
        socket.off('error', failed);
        resolve(new FrameSocket(socket, owner));
      });
      const failed = (error: Error) => reject(new MigrationError(`host ${to}: ${error.message}`));
      socket.once('error', failed);
    });
  }

  /** Takes no more in. */
  close(): void {
    this.#server?.close();
  }
}
