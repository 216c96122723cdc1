/**
 * The directory of the UNIX sockets between a run's host processes. Each run has its own, and removes it at its end.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export class SocketDirectory {
  /** Paths of the sockets, by number of host process. */
  readonly sockets: readonly string[];
  readonly #path: string;
  /** The command may end anywhere: by an error, or by a second signal. */
  readonly #onExit = () => this.remove();

  /** Makes a directory for the sockets of `hosts` host processes. @throws the file system's own errors */
  constructor(hosts: number) {
    // Only its owner can enter a directory that mkdtemp makes.
    const path = mkdtempSync(join(tmpdir(), 'mdevsim-'));
    this.#path = path;
    process.on('exit', this.#onExit);
    this.sockets = Array.from({ length: hosts }, (_, host) => join(path, `${host}.sock`));
  }

  remove(): void {
    process.off('exit', this.#onExit);
    rmSync(this.#path, { recursive: true, force: true });
  }
}
