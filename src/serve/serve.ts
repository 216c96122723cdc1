/**
 * Serves devices over vfio-user: each in its own worker with its own socket. The main thread starts the workers, watches
 * them, and collects their reports.
 */
import { rmSync, writeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { after, every, sleep } from '#host';
import { checkCapacity } from '../coordinator/workers/capacity.ts';
import { workerEntry } from '../coordinator/workers/entries.ts';
import { DEVICE_TIMEOUT_MS, START_CONCURRENCY, WORKER_LIMITS } from '../coordinator/workers/supervisor.ts';
import type { Policy } from '../gpu/policy.ts';
import type { VgpuStats } from '../gpu/stats.ts';
import { TraceWriter } from '../proto/trace.ts';
import type { ResolvedModel } from '../scenario/try-model.ts';
import { EVENT_ONE } from '../vfio-user/irqs.ts';
import { closeFile, eventFile, freeAll } from '../vfio-user/linux.ts';
import { ResourceLedger } from '../vfio-user/resource-ledger.ts';
import { type ServedReport, type ServeEvent, ServeLink, type ServeTask } from '../vfio-user/serve-task.ts';
import { type GpuShare, GpuShares, gpuTypeOf } from './gpu-shares.ts';
import { socketPaths } from './sockets.ts';

/** Time limits for a worker to be ready, and to end when it is asked to. */
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 5_000;
/** Time limit of a picture. */
const PICTURE_TIMEOUT_MS = 10_000;
/**
 * Young generation of a served device's worker. There are few of them, and each command allocates: with 1 MB, as device
 * workers of a run have, a map and its unmap take 17 % longer.
 */
const YOUNG_GENERATION_MB = 16;
/** Interval at which stuck models are looked for. */
const WATCH_MS = 250;

/** Settings of the command. */
export interface ServeSettings {
  readonly type: string;
  readonly model: ResolvedModel;
  readonly socket: string;
  readonly count: number;
  /** Folder of the captures of the clients' maps; by default there are none. */
  readonly captures?: string;
  /** Time limit of one call of a model. */
  readonly deviceTimeoutMs?: number;
  /** File of the trace; by default no trace is written. */
  readonly trace?: string;
  /** Policy of the physical GPUs that served vGPUs share. */
  readonly gpuPolicy?: Policy;
  /** False for devices without MSI-X; by default true. */
  readonly msix?: boolean;
  /** Called when a device's client has come or gone, or its worker has failed. */
  onEvent(
    device: ServedWorker,
    event: ServeEvent | { readonly kind: 'failed'; readonly reason: string },
  ): void;
}

/** One device and its worker. */
export class ServedWorker {
  readonly name: string;
  readonly socket: string;
  report: ServedReport | undefined;
  /** Called for each frame of its trace. */
  onFrame: (frame: Uint8Array) => void = () => {};
  /** Why the worker has ended too early, or empty. */
  failure = '';
  readonly #link = new ServeLink();
  readonly #ledger = new ResourceLedger();
  readonly #wakeFd = eventFile();
  readonly #settings: ServeSettings;
  readonly #index: number;
  #worker: Worker | undefined;
  #ended: Promise<void> = Promise.resolve();
  /** Takers of pictures, in the order of their requests. */
  readonly #pictures: ((png: Uint8Array | undefined) => void)[] = [];
  #isOver = false;
  #lastTurn = 0;
  #turnMs = 0;

  constructor(index: number, socket: string, settings: ServeSettings) {
    this.name = `${settings.type}${index}`;
    this.socket = socket;
    this.#index = index;
    this.#settings = settings;
  }

  /** The event counter that ends the worker's wait. */
  get wakeFd(): number {
    return this.#wakeFd;
  }

  /**
   * Starts the worker; resolves when it listens, or has failed.
   * @param gpu its share of a physical GPU. Others write to its event counter, so its owner closes it: {@link closeWake}
   */
  async start(gpu?: GpuShare): Promise<void> {
    const { model, source } = this.#settings.model;
    const task: ServeTask = {
      name: this.name,
      index: this.#index,
      traced: (this.#settings.trace ?? '') !== '',
      model,
      modelSource: source,
      captures: this.#settings.captures ?? '',
      socket: this.socket,
      msix: this.#settings.msix ?? true,
      link: this.#link.sab,
      ledger: this.#ledger.sab,
      wakeFd: this.#wakeFd,
      gpu,
    };
    const worker = new Worker(workerEntry('served'), {
      workerData: task,
      resourceLimits: { ...WORKER_LIMITS, maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
      // Otherwise Node warns of each received descriptor that is closed.
      trackUnmanagedFds: false,
    });
    this.#worker = worker;
    const isReady = new Promise<void>((done) => {
      worker.on('message', (event: ServeEvent) => {
        if (event.kind === 'ready') done();
        else this.#onEvent(event);
      });
      worker.once('exit', () => done());
    });
    this.#ended = new Promise((done) => {
      worker.on('error', (error) => this.#fail(error instanceof Error ? error.message : String(error)));
      worker.once('exit', () => {
        if (!this.report) this.#fail('its worker has ended');
        this.#isOver = true;
        if (!gpu) this.closeWake();
        // A worker that has died leaves its client waiting, and its memory and descriptors behind.
        freeAll(this.#ledger);
        done();
      });
    });
    const cancel = after(START_TIMEOUT_MS, () => this.end(`did not start within ${START_TIMEOUT_MS} ms`));
    await isReady;
    cancel();
  }

  /**
   * Resolves to the device's picture as a PNG; undefined for none, or if the worker has not sent it within
   * PICTURE_TIMEOUT_MS.
   */
  async picture(): Promise<Uint8Array | undefined> {
    if (this.#isOver) return undefined;
    return new Promise((done) => {
      const cancel = after(PICTURE_TIMEOUT_MS, () => done(undefined));
      this.#pictures.push((png) => {
        cancel();
        done(png);
      });
      this.#link.requestPicture();
      this.#wake();
    });
  }

  /** Resolves when the worker has ended. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  /** Closes the event counter. The worker has ended. */
  closeWake(): void {
    closeFile(this.#wakeFd);
  }

  /** Asks the worker to end; resolves when it has, at the latest after STOP_TIMEOUT_MS. */
  async stop(): Promise<void> {
    if (this.#isOver) return;
    this.#link.requestStop();
    this.#wake();
    const cancel = after(STOP_TIMEOUT_MS, () => this.end(`did not end within ${STOP_TIMEOUT_MS} ms`));
    await this.#ended;
    cancel();
  }

  /** Ends the worker at once, as failed. */
  end(reason: string): void {
    this.#fail(reason);
    void this.#worker?.terminate();
  }

  /** Ends a worker whose model does not return from a call. */
  watch(intervalMs: number): void {
    const { turn } = this.#link;
    const isBusy = (turn & 1) !== 0 && turn === this.#lastTurn;
    this.#turnMs = isBusy ? this.#turnMs + intervalMs : 0;
    this.#lastTurn = turn;
    const limitMs = this.#settings.deviceTimeoutMs ?? DEVICE_TIMEOUT_MS;
    if (this.failure === '' && this.#turnMs > limitMs)
      this.end(`stuck-model: a call has not returned within ${limitMs} ms`);
  }

  #wake(): void {
    writeSync(this.#wakeFd, EVENT_ONE);
  }

  #onEvent(event: ServeEvent): void {
    if (event.kind === 'report') this.report = event.report;
    if (event.kind === 'frame') this.onFrame(event.frame);
    if (event.kind === 'picture') this.#pictures.shift()?.(event.png);
    this.#settings.onEvent(this, event);
  }

  #fail(reason: string): void {
    if (this.failure !== '' || this.report) return;
    this.failure = reason;
    rmSync(this.socket, { force: true });
    this.#settings.onEvent(this, { kind: 'failed', reason });
  }
}

/** Devices that are being served. */
export class ServedDevices {
  readonly workers: readonly ServedWorker[];
  /** The trace of all devices, if there is one. */
  readonly trace: TraceWriter | undefined;
  readonly #shares: GpuShares | undefined;
  #stopWatch: () => void = () => {};
  #stopped: Promise<void> | undefined;

  private constructor(
    workers: readonly ServedWorker[],
    { type, model, gpuPolicy, trace = '' }: ServeSettings,
  ) {
    this.workers = workers;
    this.trace = trace === '' ? undefined : new TraceWriter(trace);
    for (const worker of workers) worker.onFrame = (frame) => this.trace?.append(frame);
    const gpuType = model.model === 'vgpu' ? gpuTypeOf(type) : undefined;
    const names = workers.map(({ name }) => name);
    const wakeFds = workers.map(({ wakeFd }) => wakeFd);
    this.#shares = gpuType && new GpuShares(gpuType, names, wakeFds, gpuPolicy);
  }

  /** Starts all devices, a few at a time. @throws CapacityError */
  static async start(settings: ServeSettings): Promise<ServedDevices> {
    const { count, socket } = settings;
    checkCapacity({ vms: 1, vgpus: count, processes: 1, ramBytes: 0 });
    const workers = socketPaths(socket, count).map((path, i) => new ServedWorker(i, path, settings));
    const devices = new ServedDevices(workers, settings);
    const waiting = [...workers.keys()];
    const startNext = async (): Promise<void> => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await devices.#start(next);
    };
    await Promise.all(Array.from({ length: START_CONCURRENCY }, startNext));
    devices.#stopWatch = every(WATCH_MS, () => {
      for (const worker of workers) worker.watch(WATCH_MS);
    });
    return devices;
  }

  /** Returns a vGPU's use of its physical GPU; undefined for another device. */
  gpuStats(index: number): VgpuStats | undefined {
    return this.#shares?.stats(index);
  }

  /** Stops all devices, once. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#stopWatch();
    await Promise.all(this.workers.map((worker) => worker.stop()));
    if (this.#shares) for (const worker of this.workers) worker.closeWake();
    // Messages that were sent before the end.
    await sleep(0);
    this.trace?.close();
  }

  async #start(index: number): Promise<void> {
    const worker = this.workers[index] as ServedWorker;
    const shares = this.#shares;
    await worker.start(shares?.share(index));
    if (!shares) return;
    // The engine of a vGPU that has died is free, and the others learn it.
    void worker.ended.then(() => {
      for (const fd of shares.release(index)) writeSync(fd, EVENT_ONE);
    });
  }
}
