/**
 * Replays of schedules on real threads: one worker for each thread of the harness, in the order of the choices.
 *
 * Every worker runs the harness's `setup`, so that it has its own objects, over the same shared buffers in the same order.
 * Then the buffers get the content that `setup` left in the model, and the threads start.
 */
import { Worker } from 'node:worker_threads';
import { bytesOf, copyOut } from '#mem';
import { TURNSTILE_STEPS, TURNSTILE_THREADS, TurnstileControl } from '../platform/turnstile.ts';
import { memory } from './model/memory.ts';
import { now } from './model/runtime.ts';
import type { NamedHarness, TargetPlace } from './target.ts';
import { ModelLoadError, type Patch } from './transform/loader.ts';

const extension = import.meta.url.slice(-3);
const WORKER = new URL(`../../workers/explore${extension}`, import.meta.url);

/** Bytes of the shared report of a broken rule. */
const REPORT_BYTES = 1024;

/** Data of a worker. */
export interface ThreadTask {
  readonly url: string;
  readonly patches: readonly Patch[];
  /** Name of the harness, and of its thread. */
  readonly harness: string;
  readonly thread: string;
  readonly index: number;
  readonly control: SharedArrayBuffer;
  readonly buffers: readonly SharedArrayBuffer[];
  /** Length and text of the first broken rule. */
  readonly report: SharedArrayBuffer;
}

/** Outcome of a replay on threads. */
export interface ThreadsResult {
  readonly hash: number;
  readonly steps: number;
  /** `RULE: MESSAGE` of the first rule that a thread broke; empty if none. A check at the end is the model's alone. */
  readonly violation: string;
}

/** Workers of one harness. */
export class Turnstile {
  readonly #control = new TurnstileControl();
  readonly #report = new SharedArrayBuffer(REPORT_BYTES);
  readonly #buffers: SharedArrayBuffer[];
  readonly #images: Uint8Array[];
  readonly #workers: Worker[];

  /** Starts the workers. @throws ModelLoadError for a harness that real threads cannot run */
  constructor({ name, harness }: NamedHarness, place: TargetPlace, patches: readonly Patch[] = []) {
    const threads = Object.keys(harness.threads);
    if (harness.mayDie?.length || harness.timeouts)
      throw new ModelLoadError(
        `${name}: deaths of threads and time limits of waits happen in the model alone`,
      );
    if (threads.length > TURNSTILE_THREADS)
      throw new ModelLoadError(`${name}: ${threads.length} threads; accepted: 1 to ${TURNSTILE_THREADS}`);
    memory.clear();
    now(harness.setup());
    this.#images = memory.taken.map((buffer) => new Uint8Array(new Uint8Array(buffer)));
    this.#buffers = memory.taken.map(({ byteLength }) => new SharedArrayBuffer(byteLength));
    memory.clear();
    const execArgv = [
      '--conditions=sched',
      '--no-warnings',
      ...(extension === '.ts' ? ['--conditions=source'] : []),
    ];
    this.#workers = threads.map((thread, index) => {
      const workerData: ThreadTask = {
        url: place.url,
        patches,
        harness: name,
        thread,
        index,
        control: this.#control.sab,
        buffers: this.#buffers,
        report: this.#report,
      };
      return new Worker(WORKER, { workerData, execArgv });
    });
  }

  /** Resolves when all workers have loaded the harness. Rejects with the error of one that cannot. */
  async loaded(): Promise<void> {
    const one = (worker: Worker): Promise<void> =>
      new Promise((resolve, reject) => {
        worker.once('message', () => resolve());
        worker.once('error', reject);
      });
    await Promise.all(this.#workers.map(one));
  }

  /** Runs one schedule. @throws ModelLoadError if a thread does not follow it */
  run(choices: readonly number[]): ThreadsResult {
    if (choices.length > TURNSTILE_STEPS || choices.some((choice) => choice >= TURNSTILE_THREADS))
      throw new ModelLoadError(
        'a schedule with stale loads, or of too many steps, has no replay on real threads',
      );
    new Int32Array(this.#report)[0] = 0;
    this.#control.prepare(choices);
    if (!this.#control.waitReady(this.#workers.length))
      throw new ModelLoadError(`a thread does not set up: ${this.#reported()}`);
    for (const [i, image] of this.#images.entries()) new Uint8Array(this.#buffers[i]!).set(image);
    this.#control.start();
    if (!this.#control.waitEnded(this.#workers.length)) throw new ModelLoadError('a thread does not end');
    return { ...this.#control.outcome, violation: this.#reported() };
  }

  #reported(): string {
    const bytes = new Uint8Array(new Int32Array(this.#report)[0] as number);
    copyOut(bytes, 0, bytesOf(this.#report, 4), 0, bytes.length, 'table.audit');
    return Buffer.from(bytes).toString();
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}
