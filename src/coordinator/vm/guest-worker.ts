/**
 * The coordinator's side of a guest worker: starts it, calls it through Comlink, enforces the time limit, ends it.
 */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { after, every, sleep } from '#host';
import type { GuestApi, GuestReport, GuestSnapshot, GuestTask, VmControl } from '../../guest/protocol.ts';
import { LATENCIES_LIMIT, LATENCY_NAME_LIMIT } from '../../report/histograms.ts';
import { boundedText } from '../../report/text.ts';

interface GuestRun {
  readonly entry: URL;
  readonly task: GuestTask;
  readonly control: VmControl;
  readonly timeoutMs: number;
}

/** V8 limits of a guest worker. Scripts may keep copies of expected data in memory. */
const GUEST_LIMITS = { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 8, stackSizeMb: 2 };

/** Time limit for the report of latencies by a guest that has not ended. */
const REPORT_TIMEOUT_MS = 500;
/** Maximum count of devices in a report: those of one bus. */
const DEVICES_LIMIT = 32;
/** Maximum size of an encoded histogram. */
const HISTOGRAM_BYTES_LIMIT = 64 * 1024;

/** Maximum size of the buffers that a script holds outside V8's heap; memory shared with the VM does not count. */
const BUFFER_BYTES_LIMIT = 2 ** 30;
const BUFFERS_CHECK_MS = 250;

/** Maximum length of the state of a load, as JSON. */
const LOAD_STATE_LIMIT = 4 * 2 ** 20;

/** Time limit for a guest to let go of its devices. */
const SHUTDOWN_TIMEOUT_MS = 10_000;

/** Time limit for the exit of a terminated guest worker. */
const TERMINATE_TIMEOUT_MS = 2_000;

/** Time for the iterations in flight of a declared load to end, when the run is interrupted. */
const LOAD_STOP_TIMEOUT_MS = 5_000;

/** Time limit for a picture of a device, and maximum size of one. */
const SCREENSHOT_TIMEOUT_MS = 5_000;
const SCREENSHOT_BYTES_LIMIT = 32 * 2 ** 20;

/** End of a guest's script. */
export interface GuestOutcome extends GuestReport {
  /** True if the run was interrupted before the script ended. */
  readonly interrupted: boolean;
  /** True if its host has ended the guest: the platform resets, or the VM crashes or is shut down. */
  readonly halted: boolean;
}

/** Ways in which a host ends a guest: for a reset of its platform, at once, or when its driver has let go. */
export type Halt = 'reset' | 'crash' | 'shutdown';

/** Reasons to end a guest that has not ended by itself. */
type Cut = 'late' | 'aborted' | Halt;

/** Outcome of a guest that was aborted before its start. */
export const NOT_STARTED: GuestOutcome = {
  histograms: [],
  deviceHistograms: [],
  error: '',
  interrupted: true,
  halted: false,
};

export class GuestWorker {
  readonly #run: GuestRun;
  readonly #worker: Worker;
  readonly #port: MessagePort;
  // Comlink loses the reply to a call if the proxy is garbage-collected meanwhile: both are held until the end.
  readonly #guest: Comlink.Remote<GuestApi>;
  readonly #control: VmControl;
  readonly #died: Promise<GuestReport>;
  readonly #cut: Promise<Cut>;
  #onCut: (cut: Cut) => void = () => {};
  #ended: Promise<void> | undefined;

  /** Starts the worker. */
  constructor(run: GuestRun) {
    this.#run = run;
    const channel = new MessageChannel();
    this.#worker = new Worker(run.entry, {
      workerData: { task: run.task, port: channel.port2 },
      transferList: [channel.port2],
      resourceLimits: GUEST_LIMITS,
    });
    this.#port = channel.port1;
    this.#guest = Comlink.wrap<GuestApi>(channel.port1 as unknown as Comlink.Endpoint);
    this.#control = Comlink.proxy(run.control);
    this.#cut = new Promise((resolve) => {
      this.#onCut = resolve;
    });
    this.#died = new Promise((resolve) => {
      this.#worker.once('error', (error: Error) => resolve(failedReport(errorLine(error))));
      this.#worker.once('exit', (code) => resolve(failedReport(`guest worker exited with code ${code}`)));
    });
  }

  /** Loads the script in advance, so that {@link run} starts without delay. */
  async load(): Promise<void> {
    await Promise.race([this.#guest.load(), this.#died]);
  }

  /**
   * Runs the script until it ends, times out, is aborted or halted, or its worker dies. Resolves to its outcome; never
   * rejects.
   */
  async run(snapshot?: GuestSnapshot): Promise<GuestOutcome> {
    const { timeoutMs } = this.#run;
    let cancel = () => {};
    const late = new Promise<'late'>((resolve) => {
      cancel = after(timeoutMs, () => resolve('late'));
    });
    const asked = this.#guest.run(this.#control, snapshot) as Promise<GuestReport>;
    // A snapshot from another host may be refused before the script starts.
    const ran = asked.then(checkedReport).catch((error: Error) => failedReport(errorLine(error)));
    const { exceeded, stop } = this.#watchBuffers();
    const first = await Promise.race([ran, this.#died, late, this.#cut, exceeded]);
    cancel();
    stop();
    const outcome = await this.#outcomeOf(first);
    await this.end();
    return outcome;
  }

  /** Ends the stages of a declared load; resolves to whether they still run. Never rejects. */
  async stopLoad(): Promise<boolean> {
    try {
      return await this.#guest.stopLoad();
    } catch {
      return false; // the guest has ended
    }
  }

  /** Resolves to a PNG of the display of a device. @throws Error with the reason why there is no picture */
  async screenshot(device: number): Promise<Uint8Array> {
    const asked = Promise.resolve(this.#guest.screenshot(device));
    const ended = this.#died.then(({ error }) => Promise.reject(new Error(error || 'the guest has ended')));
    const late = new Promise<never>((_, reject) => {
      const why = `the guest did not answer within ${SCREENSHOT_TIMEOUT_MS} ms`;
      after(SCREENSHOT_TIMEOUT_MS, () => reject(new Error(why)));
    });
    const png = await Promise.race([asked, ended, late]);
    if (!(png instanceof Uint8Array) || png.length > SCREENSHOT_BYTES_LIMIT)
      throw new Error(`the picture is too large; accepted: ${mib(SCREENSHOT_BYTES_LIMIT)}`);
    return png;
  }

  /** Moves the VM under declared load; resolves to why it stays, or to an empty text. See GuestApi.migrate. */
  migrate(to: number | undefined): Promise<string> {
    return Promise.race([answerOf(() => this.#guest.migrate(to)), this.#died.then(({ error }) => error)]);
  }

  /** Stops the virtual CPUs, or lets them continue; resolves to why not, or to an empty text. See GuestApi.setPaused. */
  setPaused(paused: boolean): Promise<string> {
    return Promise.race([
      answerOf(() => this.#guest.setPaused(paused)),
      this.#died.then(({ error }) => error),
    ]);
  }

  /**
   * Interrupts the run: ends the stages of a declared load, and then the script wherever it is, unless it has ended by
   * itself.
   */
  async interrupt(): Promise<void> {
    const isEnding = await Promise.race([this.stopLoad(), sleep(REPORT_TIMEOUT_MS).then(() => false)]);
    if (isEnding) await Promise.race([this.#died, sleep(LOAD_STOP_TIMEOUT_MS)]);
    this.abort();
  }

  /** Makes {@link run} resolve now: the run is interrupted. */
  abort(): void {
    this.#onCut('aborted');
  }

  /** Makes {@link run} resolve, because the host ends the guest. */
  halt(how: Halt): void {
    this.#onCut(how);
  }

  async #outcomeOf(first: GuestReport | Cut): Promise<GuestOutcome> {
    if (typeof first !== 'string') return { ...first, interrupted: false, halted: false };
    const report = await this.#reportNow(first);
    const late = `script did not end within ${this.#run.timeoutMs} ms`;
    return {
      ...report,
      error: first === 'late' ? late : '',
      interrupted: first === 'aborted',
      halted: first !== 'late' && first !== 'aborted',
    };
  }

  /** Measures the buffers that the script holds outside V8's heap; `exceeded` resolves when they are too large. */
  #watchBuffers(): { readonly exceeded: Promise<GuestReport>; stop(): void } {
    let stop = () => {};
    const exceeded = new Promise<GuestReport>((resolve) => {
      stop = every(BUFFERS_CHECK_MS, () => {
        void this.#bufferBytes().then((bytes) => {
          if (bytes > BUFFER_BYTES_LIMIT)
            resolve(
              failedReport(`script holds ${mib(bytes)} of buffers; accepted: ${mib(BUFFER_BYTES_LIMIT)}`),
            );
        });
      });
    });
    return { exceeded, stop: () => stop() };
  }

  /** V8 answers even while the script runs a loop. */
  #bufferBytes(): Promise<number> {
    return this.#worker.getHeapStatistics().then(
      (heap) => heap.external_memory,
      () => 0, // the thread has ended
    );
  }

  /** Asks for the report of a script that has not ended; resolves to an empty one if its thread does not answer. */
  async #reportNow(cut: Cut): Promise<GuestReport> {
    if (cut === 'crash') return failedReport('');
    const isOrderly = cut === 'shutdown';
    const report = isOrderly || cut === 'reset' ? this.#guest.halt(isOrderly) : this.#guest.report();
    const asked = Promise.resolve(report).then(checkedReport);
    const late = sleep(isOrderly ? SHUTDOWN_TIMEOUT_MS : REPORT_TIMEOUT_MS).then(() => failedReport(''));
    return Promise.race([asked.catch(() => failedReport('')), late, this.#died]);
  }

  /** Ends the worker. Later calls share the result of the first. */
  end(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  async #end(): Promise<void> {
    this.#guest[Comlink.releaseProxy]();
    this.#port.close();
    // A worker at its heap limit may not even terminate; it then ends with the process.
    await Promise.race([this.#worker.terminate(), sleep(TERMINATE_TIMEOUT_MS)]);
  }
}

/** Resolves to the guest's answer, or to the error of a guest that has ended. */
async function answerOf(ask: () => Promise<string>): Promise<string> {
  try {
    return boundedText(await ask());
  } catch (error) {
    return errorLine(error as Error);
  }
}

const mib = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;

/** Returns a report for a guest that could not send one. */
const failedReport = (error: string): GuestReport => ({ histograms: [], deviceHistograms: [], error });

/** Returns a report with the expected types and sizes, whatever the worker has sent. */
function checkedReport({ histograms, deviceHistograms, error, load }: GuestReport): GuestReport {
  const state = String(load ?? '');
  return {
    ...(state !== '' && state.length <= LOAD_STATE_LIMIT && { load: state }),
    histograms: checkedHistograms(histograms),
    deviceHistograms: Array.from(deviceHistograms, checkedHistograms).slice(0, DEVICES_LIMIT),
    error: boundedText(error),
  };
}

const checkedHistograms = (histograms: GuestReport['histograms']): GuestReport['histograms'] =>
  Array.from(histograms)
    .slice(0, LATENCIES_LIMIT)
    .filter(
      ({ name, data }) =>
        typeof name === 'string' &&
        name.length <= LATENCY_NAME_LIMIT &&
        data instanceof Uint8Array &&
        data.length <= HISTOGRAM_BYTES_LIMIT,
    );

const errorLine = (error: Error): string =>
  boundedText(`${error.name}: ${error.message}`.split('\n', 1)[0] as string);
