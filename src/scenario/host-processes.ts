/**
 * The host processes of a run: forks them, sends their requests, collects their results and determines how each ended.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { after, wallMs } from '#host';
import { END_ACTION } from '../coordinator/host/vm-life.ts';
import { workerEntry } from '../coordinator/workers/entries.ts';
import type { VmEvent } from '../load/events.ts';
import { decodeFrame, encodeFrame, FrameError, type FrameKind } from '../proto/codec.ts';
import type { FrameBodies } from '../proto/schema.ts';
import type { LostVm } from '../report/summary.ts';
import { addResults } from '../report/vm-result.ts';

type RunRequest = FrameBodies['runRequest'];

const STDERR = 2;

/** Time that a process may take beyond the scripts' time limit, for its start, stop and report. */
const GRACE_MS = 90_000;
/** Further time for each of its devices. */
const GRACE_DEVICE_MS = 1_000;

/** Time limit for the host processes of an interrupted run to stop their guests and to report. */
const ABORT_TIMEOUT_MS = 15_000;
/** Further time for each device of the run. */
const ABORT_DEVICE_MS = 50;

/** Time limit for the exit of a host process after its last message. */
const EXIT_TIMEOUT_MS = 3_000;

/** Progress of a run: the sum of all host processes' reports. */
export interface RunProgress {
  /** Devices of the run, ready or not. */
  readonly devices: number;
  readonly devicesReady: number;
  readonly vmsDone: number;
  readonly operations: number;
  readonly bytesVerified: number;
  readonly phase: string;
}

interface RunOutcome {
  /** Results by VM. */
  readonly results: ReadonlyMap<number, FrameBodies['vmResult']>;
  readonly lost: readonly LostVm[];
  readonly hosts: readonly FrameBodies['hostResult'][];
}

interface HostProcessesOptions {
  readonly requests: readonly RunRequest[];
  onProgress(progress: RunProgress): void;
  /** Called with what the processes print; if undefined, they print to stderr themselves. */
  readonly onOutput?: ((text: string) => void) | undefined;
  /** Count of operations after which the last host process is killed: the `host-kill` fault. */
  readonly killAfterOperations: number | undefined;
  /** Called when a VM has closed a device on request. */
  onReleased?(vm: number, device: number): void;
  /** Called when all host processes receive messages. */
  onReady?(): void;
  /** Called when a VM is ready for its load. */
  onBooted?(vm: number): void;
  /** Called when the guest of a VM has begun a phase of its script. */
  onPhase?(vm: number, name: string): void;
  /** Called with what the metrics of a VM have gained. */
  onMetrics?(vm: number, message: FrameBodies['vmMetrics']): void;
  /** Called when an action of {@link HostProcesses.act} has ended, with why it was not done; empty if it was. */
  onActed?(event: number, error: string): void;
  /** Called with the answer to {@link HostProcesses.requestScreenshot}. */
  onScreenshot?(answer: FrameBodies['screenshot']): void;
  /** Called with the address spaces of a VM's devices since the last call. */
  onAddressSpaces?(vm: number, message: FrameBodies['vmAddressSpaces']): void;
  /** Called when a VM has its result or its process has ended; it holds no device any more. May be called twice. */
  onVmEnded?(vm: number): void;
}

/** Number of no event. */
const NO_EVENT = 2 ** 32 - 1;

export class HostProcesses {
  readonly #options: HostProcessesOptions;
  readonly #children = new Map<number, ChildProcess>();
  readonly #ready = new Set<number>();
  readonly #progress = new Map<number, FrameBodies['progress']>();
  readonly #results = new Map<number, FrameBodies['vmResult']>();
  /** Results of migrated VMs, summed over the hosts that they have left. */
  readonly #partialResults = new Map<number, FrameBodies['vmResult']>();
  /** VM → number of its process. */
  readonly #processOf = new Map<number, number>();
  readonly #hosts: FrameBodies['hostResult'][] = [];
  readonly #lost: LostVm[] = [];
  /** Process that has not started yet → frames to send to it after its request. */
  readonly #queued = new Map<number, Uint8Array[]>();
  /** VM → devices that it has been requested to close, with their UUIDs. */
  readonly #requested = new Map<number, Map<number, string>>();
  #isInterrupted = false;
  #cancelKill = () => {};
  #runEnded = false;

  constructor(options: HostProcessesOptions) {
    this.#options = options;
    for (const { vms, process } of options.requests) for (const vm of vms) this.#processOf.set(vm, process);
  }

  /** Runs every request in its own process. Never rejects; the VMs of a process that dies are lost. */
  async run(): Promise<RunOutcome> {
    await Promise.all(this.#options.requests.map((request) => this.#runOne(request)));
    this.#cancelKill();
    for (const [vm, result] of this.#partialResults) {
      const rest = this.#results.get(vm);
      this.#results.set(vm, rest ? addResults(result, rest) : result);
    }
    return { results: this.#results, lost: this.#lost, hosts: this.#hosts };
  }

  /**
   * Requests a VM to close a device that its host removes; `onReleased` or `onVmEnded` answers. A VM that moves meanwhile
   * gets the request again on its next host.
   */
  requestDevice(vm: number, device: number, uuid: string): void {
    this.#requested.set(vm, (this.#requested.get(vm) ?? new Map()).set(device, uuid));
    this.#sendRequest(vm, device, uuid);
  }

  #sendRequest(vm: number, device: number, uuid: string): void {
    const process = this.#processOf.get(vm);
    if (process === undefined) return;
    const frame = encodeFrame({ timeUs: wallMs() * 1000, process, vm, device }, 'deviceRequest', { uuid });
    const child = this.#children.get(process);
    if (!child) this.#queued.set(process, [...(this.#queued.get(process) ?? []), frame]);
    // Without a callback, sending to a process that has just died would cause an 'error' event.
    else if (child.connected) child.send(frame, () => {});
  }

  /** Has the host process of a VM act on it; `onActed` has the answer. @param number for the answer */
  act({ vm, action, to, clearRam, isLast, stopsDevices }: VmEvent, number: number): void {
    const body = { action, event: number, to: to === undefined ? 0 : to + 1, clearRam, isLast, stopsDevices };
    if (!this.#sendAct(vm, body)) this.#options.onActed?.(number, 'the VM has ended; accepted: a running VM');
  }

  /** Reports to the host process of a VM that the VM will not boot again. */
  noMoreBoots(vm: number): void {
    const options = { to: 0, clearRam: false, isLast: true, stopsDevices: false };
    this.#sendAct(vm, { action: END_ACTION, event: NO_EVENT, ...options });
  }

  /** Returns false if the VM does not run. */
  #sendAct(vm: number, body: FrameBodies['vmAct']): boolean {
    const process = this.#processOf.get(vm);
    const child = process === undefined ? undefined : this.#children.get(process);
    if (process === undefined || !child?.connected || this.#results.has(vm)) return false;
    child.send(encodeFrame({ timeUs: wallMs() * 1000, process, vm, device: -1 }, 'vmAct', body), () => {});
    return true;
  }

  /** Asks for a picture of a device; `onScreenshot` has the answer. Returns false if the VM does not run. */
  requestScreenshot(vm: number, device: number, id: number): boolean {
    const process = this.#processOf.get(vm);
    const child = process === undefined ? undefined : this.#children.get(process);
    if (process === undefined || !child?.connected || this.#results.has(vm)) return false;
    const header = { timeUs: wallMs() * 1000, process, vm, device };
    child.send(encodeFrame(header, 'screenshotRequest', { id }), () => {});
    return true;
  }

  /** Sends a frame to every host process that has started. */
  broadcast<K extends FrameKind>(kind: K, body: FrameBodies[K]): void {
    for (const [process, child] of this.#children) {
      const frame = encodeFrame({ timeUs: wallMs() * 1000, process, vm: 0, device: -1 }, kind, body);
      if (child.connected) child.send(frame, () => {});
    }
  }

  /**
   * Interrupts the run: starts no more host processes, and requests the running ones to stop their guests and devices
   * and to report. Those that have not ended in time are killed.
   */
  abort(reason: string): void {
    if (this.#isInterrupted) return;
    this.#isInterrupted = true;
    this.broadcast('runAbort', { reason });
    const devices = this.#options.requests.reduce((sum, request) => sum + devicesOf(request), 0);
    this.#cancelKill = after(ABORT_TIMEOUT_MS + devices * ABORT_DEVICE_MS, () => this.kill());
  }

  /** Kills all host processes and starts no more. */
  kill(): void {
    this.#isInterrupted = true;
    for (const child of this.#children.values()) child.kill('SIGKILL');
  }

  async #runOne(request: RunRequest): Promise<void> {
    if (this.#isInterrupted) {
      this.#processEnded(request, 'was interrupted before its start');
      return;
    }
    const { onOutput } = this.#options;
    const output = onOutput ? 'pipe' : STDERR;
    const child = fork(workerEntry('host'), [], {
      serialization: 'advanced',
      // Lines that scripts and models print must not be mixed with the summary on stdout.
      stdio: ['ignore', output, output, 'ipc'],
    });
    if (onOutput)
      for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', onOutput);
    this.#children.set(request.process, child);
    let overdue = false;
    const cancel = after(request.timeoutMs + GRACE_MS + devicesOf(request) * GRACE_DEVICE_MS, () => {
      overdue = true;
      child.kill('SIGKILL');
    });
    const ended = new Promise<string>((resolve) => {
      child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`));
      child.once('error', (error) => resolve(error.message));
    });
    let garbage = '';
    child.on('message', (bytes: Uint8Array) => {
      try {
        this.#handle(request, bytes);
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        garbage = `sent garbage: ${error.message}`;
        child.kill('SIGKILL');
      }
    });
    child.send(
      encodeFrame(
        { timeUs: wallMs() * 1000, process: request.process, vm: 0, device: -1 },
        'runRequest',
        request,
      ),
    );
    for (const frame of this.#queued.get(request.process) ?? []) child.send(frame, () => {});
    const exit = await ended;
    cancel();
    this.#children.delete(request.process);
    const reason = this.#isInterrupted
      ? 'was interrupted'
      : overdue
        ? 'did not finish in time'
        : garbage || `died (${exit})`;
    this.#processEnded(request, reason);
  }

  /** Marks the process's VMs without a result as lost. */
  #processEnded(request: RunRequest, reason: string): void {
    for (const [vm, process] of this.#processOf) {
      if (process !== request.process) continue;
      if (!this.#results.has(vm))
        this.#lost.push({ vm, reason: `host process ${request.process} ${reason}` });
      this.#options.onVmEnded?.(vm);
    }
    this.#endRunIfDone();
  }

  /** Ends the run when all VMs have ended: processes that accept migrations wait for this. */
  #endRunIfDone(): void {
    const isOver = (vm: number) => this.#results.has(vm) || this.#lost.some((lost) => lost.vm === vm);
    if (this.#runEnded || ![...this.#processOf.keys()].every(isOver)) return;
    this.#runEnded = true;
    for (const { process, migrations } of this.#options.requests) {
      if (!migrations) continue;
      const frame = encodeFrame({ timeUs: wallMs() * 1000, process, vm: 0, device: -1 }, 'runEnd', {});
      const child = this.#children.get(process);
      if (child?.connected) child.send(frame, () => {});
    }
  }

  #handle(request: RunRequest, bytes: Uint8Array): void {
    const frame = decodeFrame(bytes);
    if (frame.kind === 'vmResult' && frame.body.moved) this.#movedOn(frame.header.vm, frame.body);
    else if (frame.kind === 'vmArrived') this.#arrived(frame.header.vm, request.process);
    else if (frame.kind === 'vmResult') {
      this.#results.set(frame.header.vm, frame.body);
      if (frame.body.lost !== '') this.#lost.push({ vm: frame.header.vm, reason: frame.body.lost });
      this.#options.onVmEnded?.(frame.header.vm);
      this.#endRunIfDone();
    } else if (frame.kind === 'vmBooted') this.#options.onBooted?.(frame.header.vm);
    else if (frame.kind === 'guestPhase') this.#options.onPhase?.(frame.header.vm, frame.body.name);
    else if (frame.kind === 'vmMetrics') this.#options.onMetrics?.(frame.header.vm, frame.body);
    else if (frame.kind === 'hostReady') this.#hostReady(request);
    else if (frame.kind === 'vmActDone') this.#options.onActed?.(frame.body.event, frame.body.error);
    else if (frame.kind === 'screenshot') this.#options.onScreenshot?.(frame.body);
    else if (frame.kind === 'vmAddressSpaces') this.#options.onAddressSpaces?.(frame.header.vm, frame.body);
    else if (frame.kind === 'deviceReleased') {
      this.#requested.get(frame.header.vm)?.delete(frame.header.device);
      this.#options.onReleased?.(frame.header.vm, frame.header.device);
    } else if (frame.kind === 'hostResult') {
      this.#hosts.push(frame.body);
      // That was the last message. A worker that cannot be terminated must not keep the process alive.
      after(EXIT_TIMEOUT_MS, () => this.#children.get(request.process)?.kill('SIGKILL'));
    } else if (frame.kind === 'progress') {
      this.#progress.set(request.process, frame.body);
      this.#options.onProgress(this.#sum());
      this.#injectKill(request, frame.body);
    }
  }

  #hostReady({ process }: RunRequest): void {
    this.#ready.add(process);
    if (this.#ready.size === this.#options.requests.length) this.#options.onReady?.();
  }

  #movedOn(vm: number, result: FrameBodies['vmResult']): void {
    const before = this.#partialResults.get(vm);
    this.#partialResults.set(vm, before ? addResults(before, result) : result);
  }

  #arrived(vm: number, process: number): void {
    this.#processOf.set(vm, process);
    for (const [device, uuid] of this.#requested.get(vm) ?? []) this.#sendRequest(vm, device, uuid);
  }

  #injectKill(request: RunRequest, { operations }: FrameBodies['progress']): void {
    const { killAfterOperations, requests } = this.#options;
    if (killAfterOperations === undefined || request !== requests.at(-1)) return;
    if (operations >= killAfterOperations) this.#children.get(request.process)?.kill('SIGKILL');
  }

  #sum(): RunProgress {
    const all = [...this.#progress.values()];
    const total = (pick: (p: FrameBodies['progress']) => number) => all.reduce((sum, p) => sum + pick(p), 0);
    return {
      devices: this.#options.requests.reduce((sum, request) => sum + devicesOf(request), 0),
      devicesReady: total((p) => p.devicesReady),
      vmsDone: total((p) => p.vmsDone),
      operations: total((p) => p.operations),
      bytesVerified: total((p) => p.bytesVerified),
      phase: all.at(-1)?.phase ?? '',
    };
  }
}

const devicesOf = ({ mdevs, vms, vgpus }: RunRequest): number =>
  mdevs?.instances.length ?? vms.length * vgpus;
