/**
 * Serial execution of a vIOMMU's commands: register writes, queue runs and hypercalls.
 */
import type { Completion } from '../platform/completion.ts';

/** Maximum waiting commands of one guest. A correct driver waits for each command, so it never reaches the limit. */
export const PENDING_COMMAND_LIMIT = 64;

/** Runs commands in order, each when its predecessor is complete. A command runs synchronously if none is pending. */
export class CommandSerial {
  #tail: Promise<void> | undefined;
  #running = false;
  #waiting = 0;

  /** Count of commands that wait for their predecessor. */
  get waiting(): number {
    return this.#waiting;
  }

  /** True until all commands are complete. */
  get busy(): boolean {
    return this.#running || this.#tail !== undefined;
  }

  /** Queues a command. A failure is reported only to its own caller; the next command runs anyway. */
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
