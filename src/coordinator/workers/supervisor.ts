/**
 * Device workers: started a few at a time through Piscina, watched, and ended by force when they must be.
 */
import type { Worker } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { after, sleep } from '#host';
import type { DeviceTask } from '../../device/runtime.ts';

/** The device model of a run that names none. */
export const DEFAULT_MODEL = 'vgpu';
/** How long a model may be busy with one call, unless the run says otherwise. A call takes microseconds. */
export const DEVICE_TIMEOUT_MS = 20_000;

/** Workers that start at once: all together, the first message of the last would take minutes. */
export const START_CONCURRENCY = 4;
/** A worker that has not said it is ready by then has failed. */
export const START_TIMEOUT_MS = 60_000;
/** How long V8 may take to tell a thread's memory. */
const MEMORY_ANSWER_MS = 200;
/** How long an ended thread may take to be gone. */
const EXIT_TIMEOUT_MS = 5_000;

/** Per-worker V8 limits. They bound a runaway model; they are not reserved. */
export const WORKER_LIMITS = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 1, stackSizeMb: 1 };

/** One device's worker, from its start to its end. */
export interface DeviceRun {
  /** Resolves when the worker's function returned, or rejects with why it did not. */
  readonly ended: Promise<void>;
  /** Called when the device has said that it is ready. */
  ready(threadId: number): void;
  /**
   * Bytes of buffers that the thread holds outside V8's heap, told by V8 even while it runs a loop; undefined if it
   * has ended or V8 does not answer in time.
   */
  bufferBytes(): Promise<number | undefined>;
  /** Ends the thread; resolves when it can run no more code. */
  terminate(): Promise<void>;
}

export class DeviceSupervisor {
  readonly #pool: Piscina;
  readonly #waiting: (() => void)[] = [];
  #starting = 0;

  /** `entry` is the device worker's module; `capacity` the most devices alive at once. */
  constructor(entry: URL, capacity: number) {
    this.#pool = new Piscina({
      filename: entry.href,
      minThreads: 0,
      maxThreads: Math.max(1, capacity),
      concurrentTasksPerWorker: 1,
      idleTimeout: 0,
      // Piscina's own waiting would block the event loop of an idle worker.
      atomics: 'disabled',
      resourceLimits: WORKER_LIMITS,
      recordTiming: false,
    });
    // A worker may throw when nobody waits for it: after its device has stopped, or at its heap limit while it is being
    // ended. An 'error' event without a listener would end the process, and every VM in it.
    this.#pool.on('error', () => {});
  }

  /** Starts a device when its turn comes; resolves as soon as the worker has been given its task. */
  async start(task: DeviceTask): Promise<DeviceRun> {
    if (this.#starting >= START_CONCURRENCY)
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    this.#starting++;
    return this.#run(task);
  }

  async close(): Promise<void> {
    await this.#pool.destroy();
  }

  #run(task: DeviceTask): DeviceRun {
    const abort = new AbortController();
    let thread: Worker | undefined;
    let startDone = () => {
      startDone = () => {};
      cancelTimeout();
      this.#starting--;
      this.#waiting.shift()?.();
    };
    let isLate = false;
    const cancelTimeout = after(START_TIMEOUT_MS, () => {
      isLate = true;
      abort.abort();
    });
    const ended = this.#pool
      .run(task, { signal: abort.signal })
      .catch((error: Error) => {
        throw isLate ? new Error(`did not start within ${START_TIMEOUT_MS} ms`) : error;
      })
      .finally(() => startDone()) as Promise<void>;
    ended.catch(() => {}); // the owner attaches its own handlers; this one keeps an early end from being unhandled
    return {
      ended,
      ready: (threadId) => {
        thread = this.#pool.threads.find((candidate) => candidate.threadId === threadId);
        startDone();
      },
      bufferBytes: async () => {
        if (!thread || thread.threadId === -1) return undefined;
        const told = thread.getHeapStatistics().then(
          (heap) => heap.external_memory,
          () => undefined,
        );
        return Promise.race([told, sleep(MEMORY_ANSWER_MS).then(() => undefined)]);
      },
      terminate: async () => {
        const gone = thread && exitOf(thread);
        abort.abort();
        await gone;
        await ended.catch(() => {});
      },
    };
  }
}

/** Resolves when the thread has exited: from then on it cannot touch memory. Bounded, since `terminate` is too. */
function exitOf(thread: Worker): Promise<void> {
  if (thread.threadId === -1) return Promise.resolve();
  return new Promise((resolve) => {
    const cancel = after(EXIT_TIMEOUT_MS, resolve);
    thread.once('exit', () => {
      cancel();
      resolve();
    });
  });
}
