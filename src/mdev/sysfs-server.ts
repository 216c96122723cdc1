/**
 * Keeps a tree on disk true, and acts on what is written to it, until it is told to stop.
 */
import { nowUs, sleep } from '#host';
import type { DiskWrite, SysfsDisk } from './sysfs-disk.ts';

/** How often the files are looked at. */
export const POLL_MS = 20;
/** A look at a large tree takes its time: between two looks there is so many times what the last one took. */
const REST_FACTOR = 10;
/** And never more than this, milliseconds. */
const REST_MAX_MS = 500;

export class SysfsServer {
  readonly #disk: SysfsDisk;
  readonly #onWrite: (write: DiskWrite) => void;
  #running = true;

  /** `onWrite` hears of every write, done or refused: a plain file cannot return an errno. */
  constructor(disk: SysfsDisk, onWrite: (write: DiskWrite) => void) {
    this.#disk = disk;
    this.#onWrite = onWrite;
  }

  /** Resolves after `stop`, the tree being true once more. @throws SysfsDiskError, the file system's own errors */
  async run(): Promise<void> {
    while (this.#running) {
      const tookMs = this.#look();
      await sleep(Math.min(REST_MAX_MS, Math.max(POLL_MS, tookMs * REST_FACTOR)));
    }
    this.#look();
  }

  stop(): void {
    this.#running = false;
  }

  /** @returns how long it took, milliseconds */
  #look(): number {
    const since = nowUs();
    for (const write of this.#disk.poll()) this.#onWrite(write);
    return (nowUs() - since) / 1000;
  }
}

/** Of a text that somebody wrote, so much is shown. */
const SHOWN_CHARACTERS = 60;

/** One line for what was done or refused. */
export function writeText({ path, text, error, blocks }: DiskWrite): string {
  const shown = JSON.stringify(text.slice(0, SHOWN_CHARACTERS));
  const outcome = error?.message ?? (blocks ? 'waits for the last close' : 'done');
  return `${shown} to ${path}: ${outcome}\n`;
}
