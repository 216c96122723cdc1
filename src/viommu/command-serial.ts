import type { Completion } from '../platform/completion.ts';

/** A guest can have this many register commands waiting; a correct driver waits for each one. */
export const PENDING_COMMAND_LIMIT = 64;

/** Runs commands in order, each when its predecessor is complete: synchronously as long as nothing pends. */
export class CommandSerial {
  #tail: Promise<void> | undefined;
  #running = false;
  #waiting = 0;

  /** Commands that wait for another one. */
  get waiting(): number {
    return this.#waiting;
  }

  /** True until the last command is complete. */
  get busy(): boolean {
    return this.#running || this.#tail !== undefined;
  }

  /** A command that fails is reported to its own caller only; the next one runs all the same. */
  run(command: () => Completion): Completion {
    if (!this.#tail && !this.#running) {
      const work = this.#start(command);
      return work && this.#track(work);
    }
    this.#waiting++;
    const before = this.#tail ?? Promise.resolve();
    return this.#track(
      before.then(() => {
        this.#waiting--;
        return this.#start(command);
      }),
    );
  }

  #start(command: () => Completion): Completion {
    this.#running = true;
    try {
      return command();
    } finally {
      this.#running = false;
    }
  }

  #track(work: Promise<void>): Promise<void> {
    const settle = () => {
      if (this.#tail === settled) this.#tail = undefined;
    };
    const settled: Promise<void> = work.then(settle, settle);
    this.#tail = settled;
    return work;
  }
}
