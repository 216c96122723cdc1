/**
 * A guest worker from the outside: started, called through Comlink, given a time limit, ended.
 */
import { MessageChannel, Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { after, sleep } from '#host';
import type { GuestApi, GuestReport, GuestTask, VmControl } from '../guest/protocol.ts';

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

/** Runs a guest's script to its end, its time-out or its worker's death: always a report, never a rejection. */
export async function runGuest({ entry, task, control, timeoutMs }: GuestRun): Promise<GuestReport> {
  const channel = new MessageChannel();
  const worker = new Worker(entry, {
    workerData: { task, port: channel.port2 },
    transferList: [channel.port2],
    resourceLimits: GUEST_LIMITS,
  });
  const endpoint = channel.port1 as unknown as Comlink.Endpoint;
  // Comlink drops the reply of a proxy that is collected while it is awaited: both are held until the end.
  const guest = Comlink.wrap<GuestApi>(endpoint);
  const exposed = Comlink.proxy(control);
  let cancel = () => {};
  const died = new Promise<GuestReport>((resolve) => {
    worker.once('error', (error: Error) => resolve(failedReport(oneLine(error))));
    worker.once('exit', (code) => resolve(failedReport(`guest worker exited with code ${code}`)));
    cancel = after(timeoutMs, () => resolve(failedReport(`script did not end within ${timeoutMs} ms`)));
  });
  const report = await Promise.race([guest.run(exposed) as Promise<GuestReport>, died]);
  cancel();
  guest[Comlink.releaseProxy]();
  channel.port1.close();
  // A worker at its heap limit may not answer even this; the process's own end takes it along.
  await Promise.race([worker.terminate(), sleep(TERMINATE_TIMEOUT_MS)]);
  return report;
}

/** The report of a guest that could not give one. */
function failedReport(error: string): GuestReport {
  return { operations: 0, bytesVerified: 0, mismatches: 0, failures: [], notes: [], histograms: [], error };
}

const oneLine = (error: Error): string => `${error.name}: ${error.message}`.split('\n')[0] as string;
