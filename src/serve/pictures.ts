/**
 * PNG files of the served devices' displays, taken on demand: NAME-1.png, NAME-2.png, …
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ServedWorker } from './serve.ts';

/** Writer of pictures into one folder. */
export class Pictures {
  readonly #folder: string;
  readonly #workers: readonly ServedWorker[];
  #taken = 0;

  constructor(folder: string, workers: readonly ServedWorker[]) {
    [this.#folder, this.#workers] = [folder, workers];
  }

  /** Writes the picture of each device that displays one. Resolves to the files. @throws an error of the file system */
  async take(): Promise<readonly string[]> {
    const index = ++this.#taken;
    const pictures = await Promise.all(this.#workers.map((worker) => worker.picture()));
    const files: string[] = [];
    for (const [i, png] of pictures.entries()) {
      if (!png) continue;
      mkdirSync(this.#folder, { recursive: true });
      const file = join(this.#folder, `${this.#workers[i]?.name}-${index}.png`);
      writeFileSync(file, png);
      files.push(file);
    }
    return files;
  }
}
