/**
 * Keeps a sysfs tree on disk up to date and executes writes to it, until it is stopped.
 */
import { nowUs, sleep } from '#host';
import type { DiskWrite, SysfsDisk } from './sysfs-disk.ts';

/** Shortest interval between two polls of the files. */
const POLL_MS = 20;
/** Ratio of the pause after a poll to the poll's duration, which grows with the tree. */
const PAUSE_FACTOR = 10;
/** Longest pause between two polls. */
const PAUSE_MAX_MS = 500;

export class SysfsServer {
  readonly #disk: SysfsDisk;
  readonly #onWrite: (write: DiskWrite) => void;
  #running = true;

  /** `onWrite` is called for every write, executed or refused, because a plain file cannot return an errno. */
  constructor(disk: SysfsDisk, onWrite: (write: DiskWrite) => void) {
    this.#disk = disk;
    this.#onWrite = onWrite;
  }

  /** Serves until `stop`, then updates the tree once more and unlocks its folder. @throws SysfsDiskError, the file system's own errors */
  async run(): Promise<void> {
    try {
      while (this.#running) {
        const tookMs = this.#poll();
        await sleep(Math.min(PAUSE_MAX_MS, Math.max(POLL_MS, tookMs * PAUSE_FACTOR)));
      }
      this.#poll();
    } finally {
      this.#disk.close();
    }
  }

  stop(): void {
    this.#running = false;
  }

  /** Executes new writes and updates the tree. Returns the duration, ms. */
  #poll(): number {
    const since = nowUs();
    for (const write of this.#disk.poll()) this.#onWrite(write);
    return (nowUs() - since) / 1000;
  }
}

/** Maximum count of characters shown of a written text. */
const SHOWN_CHARACTERS = 60;

/** Returns one line about a write and its outcome. */
export function writeText({ path, text, error, blocks }: DiskWrite): string {
  const shown = JSON.stringify(text.slice(0, SHOWN_CHARACTERS));
  const outcome = error?.message ?? (blocks ? 'waits for the last close' : 'done');
  return `${shown} to ${path}: ${outcome}\n`;
}
