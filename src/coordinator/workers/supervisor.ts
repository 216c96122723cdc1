/**
 * Device workers, started a few at a time through Piscina. A worker that does not end by itself is terminated.
 */
import type { Worker } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { after, sleep } from '#host';
import type { DeviceTask } from '../../device/runtime.ts';

/** The default device model. */
export const DEFAULT_MODEL = 'vgpu';
/** Time limit of one call of a model, by default. A normal call takes microseconds. */
export const DEVICE_TIMEOUT_MS = 20_000;

/** Workers that start at the same time. With all at once, the last one's first message would take minutes. */
export const START_CONCURRENCY = 4;
/** Time limit for a worker to report that it is ready; after that it has failed. */
const START_TIMEOUT_MS = 60_000;
/** Time limit for V8 to report a thread's memory. */
const MEMORY_ANSWER_MS = 200;
/** Time limit for the exit of a terminated thread. */
const EXIT_TIMEOUT_MS = 5_000;

/** V8 limits of each worker. They bound a runaway model; nothing is reserved. */
export const WORKER_LIMITS = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 1, stackSizeMb: 1 };

/** One device's worker, from its start to its end. */
export interface DeviceRun {
  /** Resolves when the worker's function has returned. Rejects with the reason if it fails. */
  readonly ended: Promise<void>;
  /** Ends the start phase: the device has reported that it is ready, from this thread. */
  ready(threadId: number): void;
  /**
   * Returns the bytes of buffers that the thread holds outside V8's heap. V8 answers even while the thread runs a loop.
   * Returns undefined if the thread has ended or V8 does not answer in time.
   */
  bufferBytes(): Promise<number | undefined>;
  /** Resolves when the thread has exited, at the latest after EXIT_TIMEOUT_MS. */
  exited(): Promise<void>;
  /** Terminates the thread; resolves when it can run no more code. */
  terminate(): Promise<void>;
}

export class DeviceSupervisor {
  readonly #pool: Piscina;
  readonly #waiting: (() => void)[] = [];
  #starting = 0;

  /** `entry` is the device worker's module; `capacity` is the maximum count of devices at one time. */
  constructor(entry: URL, capacity: number) {
    this.#pool = new Piscina({
      filename: entry.href,
      minThreads: 0,
      maxThreads: Math.max(1, capacity),
      concurrentTasksPerWorker: 1,
      idleTimeout: 0,
      // With 'sync', Piscina blocks the event loop of an idle worker.
      atomics: 'disabled',
      resourceLimits: WORKER_LIMITS,
      recordTiming: false,
    });
    // A worker may throw when nothing awaits it: after its device has stopped, or at its heap limit while it is
    // terminated. An 'error' event without a listener would end the process with all its VMs.
    this.#pool.on('error', () => {});
  }

  /** Starts a device when a start slot is free; resolves as soon as the worker has its task. */
  async start(task: DeviceTask): Promise<DeviceRun> {
    if (this.#starting >= START_CONCURRENCY)
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    this.#starting++;
    return new PooledRun(this.#pool, task, () => {
      this.#starting--;
      this.#waiting.shift()?.();
    });
  }

  async close(): Promise<void> {
    await this.#pool.destroy();
  }
}

/** One task in the pool. */
class PooledRun implements DeviceRun {
  readonly ended: Promise<void>;
  readonly #pool: Piscina;
  readonly #abort = new AbortController();
  readonly #cancelTimeout: () => void;
  #onStarted: (() => void) | undefined;
  #thread: Worker | undefined;
  #isLate = false;

  /** `onStarted` is called once: when the device is ready, or when its worker has ended before that. */
  constructor(pool: Piscina, task: DeviceTask, onStarted: () => void) {
    this.#pool = pool;
    this.#onStarted = onStarted;
    this.#cancelTimeout = after(START_TIMEOUT_MS, () => {
      this.#isLate = true;
      this.#abort.abort();
    });
    this.ended = this.#run(task);
    this.ended.catch(() => {}); // The owner adds its own handlers later; a rejection before that must not be unhandled.
  }

  ready(threadId: number): void {
    this.#thread = this.#pool.threads.find((candidate) => candidate.threadId === threadId);
    this.#startDone();
  }

  async bufferBytes(): Promise<number | undefined> {
    const thread = this.#thread;
    if (!thread || thread.threadId === -1) return undefined;
    const bytes = thread.getHeapStatistics().then(
      (heap) => heap.external_memory,
      () => undefined,
    );
    return Promise.race([bytes, sleep(MEMORY_ANSWER_MS).then(() => undefined)]);
  }

  async exited(): Promise<void> {
    if (this.#thread) await exitOf(this.#thread);
  }

  async terminate(): Promise<void> {
    const exited = this.#thread && exitOf(this.#thread);
    this.#abort.abort();
    await exited;
    await this.ended.catch(() => {});
  }

  #run(task: DeviceTask): Promise<void> {
    return this.#pool
      .run(task, { signal: this.#abort.signal })
      .catch((error: Error) => {
        throw this.#isLate ? new Error(`did not start within ${START_TIMEOUT_MS} ms`) : error;
      })
      .finally(() => this.#startDone()) as Promise<void>;
  }

  #startDone(): void {
    this.#cancelTimeout();
    this.#onStarted?.();
    this.#onStarted = undefined;
  }
}

/** Resolves when the thread has exited and can no longer access memory, at the latest after EXIT_TIMEOUT_MS. */
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
