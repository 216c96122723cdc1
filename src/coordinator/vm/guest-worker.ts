/**
 * A guest worker from the outside: started, called through Comlink, given a time limit, ended.
 */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { after, sleep } from '#host';
import type { GuestApi, GuestReport, GuestSnapshot, GuestTask, VmControl } from '../../guest/protocol.ts';

export interface GuestRun {
  readonly entry: URL;
  readonly task: GuestTask;
  readonly control: VmControl;
  readonly timeoutMs: number;
}

/** V8 limits of a guest worker: scripts may keep what they expect in memory. */
const GUEST_LIMITS = { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 8, stackSizeMb: 2 };

/** How long an ended guest worker may take to be gone. */
const TERMINATE_TIMEOUT_MS = 2_000;

export class GuestWorker {
  readonly #run: GuestRun;
  readonly #worker: Worker;
  readonly #port: MessagePort;
  // Comlink drops the reply of a proxy that is collected while it is awaited: both are held until the end.
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

  /** Has the worker load the script, to be quick when it is run. */
  async load(): Promise<void> {
    await Promise.race([this.#guest.load(), this.#died]);
  }

  /** Runs the script to its end, its time-out or its worker's death: always a report, never a rejection. */
  async run(snapshot?: GuestSnapshot): Promise<GuestReport> {
    const { timeoutMs } = this.#run;
    let cancel = () => {};
    const late = new Promise<GuestReport>((resolve) => {
      cancel = after(timeoutMs, () => resolve(failedReport(`script did not end within ${timeoutMs} ms`)));
    });
    const asked = this.#guest.run(this.#control, snapshot) as Promise<GuestReport>;
    // What a VM from another host has brought along may be refused before there is a script.
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
    // A worker at its heap limit may not answer even this; the process's own end takes it along.
    await Promise.race([this.#worker.terminate(), sleep(TERMINATE_TIMEOUT_MS)]);
  }
}

/** The report of a guest that could not give one. */
function failedReport(error: string): GuestReport {
  return { operations: 0, bytesVerified: 0, mismatches: 0, failures: [], notes: [], histograms: [], error };
}

const oneLine = (error: Error): string => `${error.name}: ${error.message}`.split('\n')[0] as string;
