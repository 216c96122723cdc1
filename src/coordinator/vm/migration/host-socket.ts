/**
 * Connections between the host processes of a run: each listens on its UNIX socket for VMs that migrate to it, and
 * connects to those of the others.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { FrameSocket, type FrameSocketOwner } from '../../../channel/frame-socket.ts';
import { MigrationError } from '../../../guest/migration-settings.ts';

/** Maximum count of VMs that arrive at the same time; further ones are refused. */
export const ARRIVALS_LIMIT = 64;

/** How long a source may take to read that its VM was refused. */
const DRAIN_MS = 5_000;

/** Sends a source the reason why its VM is refused. Never rejects, because the source may be gone. */
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

  /** Count of the run's host processes. */
  get hostCount(): number {
    return this.#sockets.length;
  }

  /** Listens for arriving VMs; resolves when it does. `serve` handles one connection and resolves at its end. */
  listen(serve: (socket: FrameSocket) => Promise<void>, owner: FrameSocketOwner): Promise<void> {
    const server = createServer((socket) => {
      const stream = new FrameSocket(socket, owner);
      if (this.#arrivals >= ARRIVALS_LIMIT) {
        void refuse(stream, `${ARRIVALS_LIMIT} VMs are arriving already; accepted: a retry later`);
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

  /** Connects to a host process. @throws MigrationError if it cannot be reached */
  connect(to: number, owner: FrameSocketOwner): Promise<FrameSocket> {
    const path = this.#sockets[to];
    if (path === undefined) throw new MigrationError(`host ${to}; accepted: 0 to ${this.hostCount - 1}`);
    return new Promise((resolve, reject) => {
      const socket: Socket = connect(path, () => {
        socket.off('error', failed);
        resolve(new FrameSocket(socket, owner));
      });
      const failed = (error: Error) => reject(new MigrationError(`host ${to}: ${error.message}`));
      socket.once('error', failed);
    });
  }

  /** Stops listening. */
  close(): void {
    this.#server?.close();
  }
}
