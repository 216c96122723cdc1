/**
 * The UNIX sockets between a run's host processes: in a directory of the run's own, gone when the run has ended.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export class HostSockets {
  /** One for each host process, by number. */
  readonly sockets: readonly string[];
  readonly #directory: string | undefined;

  /** For so many host processes; 0 for none. @throws the file system's own errors */
  constructor(hosts: number) {
    // Only its owner can enter a directory made so.
    this.#directory = hosts > 0 ? mkdtempSync(join(tmpdir(), 'mdevsim-')) : undefined;
    const directory = this.#directory ?? '';
    this.sockets = Array.from({ length: hosts }, (_, host) => join(directory, `${host}.sock`));
  }

  get exist(): boolean {
    return this.#directory !== undefined;
  }

  remove(): void {
    if (this.#directory) rmSync(this.#directory, { recursive: true, force: true });
  }
}
