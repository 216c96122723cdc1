/**
 * The coordinator's side of a guest worker: starts it, calls it through Comlink, enforces the time limit, ends it.
 */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { after, sleep } from '#host';
import type { GuestApi, GuestReport, GuestSnapshot, GuestTask, VmControl } from '../../guest/protocol.ts';

interface GuestRun {
  readonly entry: URL;
  readonly task: GuestTask;
  readonly control: VmControl;
  readonly timeoutMs: number;
}

/** V8 limits of a guest worker. Scripts may keep copies of expected data in memory. */
const GUEST_LIMITS = { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 8, stackSizeMb: 2 };

/** How long a terminated guest worker may take to exit. */
const TERMINATE_TIMEOUT_MS = 2_000;

export class GuestWorker {
  readonly #run: GuestRun;
  readonly #worker: Worker;
  readonly #port: MessagePort;
  // Comlink loses the reply to a call if the proxy is garbage-collected meanwhile: both are held until the end.
  readonly #guest: Comlink.Remote<GuestApi>;
  readonly #control: VmControl;
  readonly #died: Promise<GuestReport>;

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
    this.#died = new Promise((resolve) => {
      this.#worker.once('error', (error: Error) => resolve(failedReport(oneLine(error))));
      this.#worker.once('exit', (code) => resolve(failedReport(`guest worker exited with code ${code}`)));
    });
  }

  /** Loads the script in advance, so that {@link run} starts without delay. */
  async load(): Promise<void> {
    await Promise.race([this.#guest.load(), this.#died]);
  }

  /** Runs the script until it ends, times out or its worker dies. Resolves to a report; never rejects. */
  async run(snapshot?: GuestSnapshot): Promise<GuestReport> {
    const { timeoutMs } = this.#run;
    let cancel = () => {};
    const late = new Promise<GuestReport>((resolve) => {
      cancel = after(timeoutMs, () => resolve(failedReport(`script did not end within ${timeoutMs} ms`)));
    });
    const asked = this.#guest.run(this.#control, snapshot) as Promise<GuestReport>;
    // A snapshot from another host may be refused before the script starts.
    const ran = asked.catch((error: Error) => failedReport(oneLine(error)));
    const report = await Promise.race([ran, this.#died, late]);
    cancel();
    await this.end();
    return report;
  }

  /** Ends the worker. */
  async end(): Promise<void> {
    this.#guest[Comlink.releaseProxy]();
    this.#port.close();
    // A worker at its heap limit may not even terminate; it then ends with the process.
    await Promise.race([this.#worker.terminate(), sleep(TERMINATE_TIMEOUT_MS)]);
  }
}

/** Returns a report for a guest that could not send one. */
function failedReport(error: string): GuestReport {
  return { operations: 0, bytesVerified: 0, mismatches: 0, failures: [], notes: [], histograms: [], error };
}

const oneLine = (error: Error): string => `${error.name}: ${error.message}`.split('\n')[0] as string;
