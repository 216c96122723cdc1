/**
 * A run's host processes: forked, fed, listened to, and their ends told apart.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { after, wallMs } from '#host';
import { workerEntry } from '../coordinator/workers/entries.ts';
import { decodeFrame, encodeFrame, type FrameKind } from '../proto/codec.ts';
import type { FrameBodies } from '../proto/schema.ts';
import type { LostVm } from '../report/summary.ts';
import { addResults } from '../report/vm-result.ts';

type RunRequest = FrameBodies['runRequest'];

/** Beyond the scripts' own time limit: starting, stopping and summing up. */
const GRACE_MS = 90_000;

/** How long a host process may take to end after its last message. */
const EXIT_TIMEOUT_MS = 3_000;

/** Sum of what all host processes report while they run. */
export interface HostProcessesProgress {
  /** Devices of the run, ready or not. */
  readonly devices: number;
  readonly devicesReady: number;
  readonly vmsDone: number;
  readonly operations: number;
  readonly bytesVerified: number;
  readonly phase: string;
}

export interface HostProcessesResult {
  readonly results: ReadonlyMap<number, FrameBodies['vmResult']>;
  readonly lost: readonly LostVm[];
  readonly hosts: readonly FrameBodies['hostResult'][];
}

export interface HostProcessesOptions {
  readonly requests: readonly RunRequest[];
  onProgress(progress: HostProcessesProgress): void;
  /** Kills the last host process once its VMs have done this many operations: the `host-kill` fault. */
  readonly killAfterOperations: number | undefined;
  /** A VM has closed a device that it was asked to. */
  onReleased?(vm: number, device: number): void;
  /** A VM's result has come, or its process has ended: it holds nothing any more. May come twice. */
  onVmEnded?(vm: number): void;
}

/** The host processes of one run. */
export class HostProcesses {
  readonly #options: HostProcessesOptions;
  readonly #children = new Map<number, ChildProcess>();
  readonly #progress = new Map<number, FrameBodies['progress']>();
  readonly #results = new Map<number, FrameBodies['vmResult']>();
  /** Of VMs that have moved: what they came to at the hosts they have left. */
  readonly #parts: { readonly vm: number; readonly result: FrameBodies['vmResult'] }[] = [];
  /** VM → number of the process it is in. */
  readonly #where = new Map<number, number>();
  readonly #hosts: FrameBodies['hostResult'][] = [];
  readonly #lost: LostVm[] = [];
  /** Of each host process that has not been started yet: what it is told first. */
  readonly #early = new Map<number, Uint8Array[]>();
  #killed = false;
  #ended = false;

  constructor(options: HostProcessesOptions) {
    this.#options = options;
    for (const { vms, process } of options.requests) for (const vm of vms) this.#where.set(vm, process);
  }

  /** Runs every request in a process of its own. Never rejects: a process that dies loses its VMs. */
  async run(): Promise<HostProcessesResult> {
    await Promise.all(this.#options.requests.map((request) => this.#runOne(request)));
    for (const { vm, result } of this.#parts.toReversed()) {
      const rest = this.#results.get(vm);
      this.#results.set(vm, rest ? addResults(result, rest) : result);
    }
    return { results: this.#results, lost: this.#lost, hosts: this.#hosts };
  }

  /** Tells a VM's host process something about one of its devices; one that has ended is past hearing it. */
  tell<K extends FrameKind>(vm: number, device: number, kind: K, body: FrameBodies[K]): void {
    const request = this.#options.requests.find(({ process }) => process === this.#where.get(vm));
    if (!request) return;
    const frame = encodeFrame({ timeUs: wallMs() * 1000, process: request.process, vm, device }, kind, body);
    const child = this.#children.get(request.process);
    if (!child) this.#early.set(request.process, [...(this.#early.get(request.process) ?? []), frame]);
    else if (child.connected) child.send(frame, () => {}); // without it, a process that has just died is an error
  }

  /** Ends every host process now, and starts no other. */
  kill(): void {
    this.#killed = true;
    for (const child of this.#children.values()) child.kill('SIGKILL');
  }

  async #runOne(request: RunRequest): Promise<void> {
    if (this.#killed) {
      this.#lose(request, 'interrupted before it started');
      return;
    }
    const child = fork(workerEntry('host'), [], {
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.#children.set(request.process, child);
    let overdue = false;
    const cancel = after(request.timeoutMs + GRACE_MS, () => {
      overdue = true;
      child.kill('SIGKILL');
    });
    const ended = new Promise<string>((resolve) => {
      child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`));
      child.once('error', (error) => resolve(error.message));
    });
    child.on('message', (bytes: Uint8Array) => this.#handle(request, bytes));
    child.send(
      encodeFrame(
        { timeUs: wallMs() * 1000, process: request.process, vm: 0, device: -1 },
        'runRequest',
        request,
      ),
    );
    for (const frame of this.#early.get(request.process) ?? []) child.send(frame, () => {});
    const why = await ended;
    cancel();
    this.#children.delete(request.process);
    const reason = this.#killed ? 'interrupted' : overdue ? 'did not finish in time' : `it died (${why})`;
    this.#lose(request, reason);
  }

  #lose(request: RunRequest, reason: string): void {
    for (const [vm, process] of this.#where) {
      if (process !== request.process) continue;
      if (!this.#results.has(vm))
        this.#lost.push({ vm, reason: `host process ${request.process}: ${reason}` });
      this.#options.onVmEnded?.(vm);
    }
    this.#endIfDone();
  }

  /** Host processes that take VMs in wait for more until they hear that there are none. */
  #endIfDone(): void {
    const isOver = (vm: number) => this.#results.has(vm) || this.#lost.some((lost) => lost.vm === vm);
    if (this.#ended || ![...this.#where.keys()].every(isOver)) return;
    this.#ended = true;
    for (const { process, migrations } of this.#options.requests) {
      if (!migrations) continue;
      const frame = encodeFrame({ timeUs: wallMs() * 1000, process, vm: 0, device: -1 }, 'runEnd', {});
      const child = this.#children.get(process);
      if (child?.connected) child.send(frame, () => {});
    }
  }

  #handle(request: RunRequest, bytes: Uint8Array): void {
    const frame = decodeFrame(bytes);
    if (frame.kind === 'vmResult' && frame.body.moved)
      this.#parts.push({ vm: frame.header.vm, result: frame.body });
    else if (frame.kind === 'vmArrived') this.#where.set(frame.header.vm, request.process);
    else if (frame.kind === 'vmResult') {
      this.#results.set(frame.header.vm, frame.body);
      this.#options.onVmEnded?.(frame.header.vm);
      this.#endIfDone();
    } else if (frame.kind === 'deviceReleased')
      this.#options.onReleased?.(frame.header.vm, frame.header.device);
    else if (frame.kind === 'hostResult') {
      this.#hosts.push(frame.body);
      // All is said; a worker that cannot be ended must not keep the process.
      after(EXIT_TIMEOUT_MS, () => this.#children.get(request.process)?.kill('SIGKILL'));
    } else if (frame.kind === 'progress') {
      this.#progress.set(request.process, frame.body);
      this.#options.onProgress(this.#sum());
      this.#maybeKill(request, frame.body);
    }
  }

  #maybeKill(request: RunRequest, { operations }: FrameBodies['progress']): void {
    const { killAfterOperations, requests } = this.#options;
    if (killAfterOperations === undefined || request !== requests.at(-1)) return;
    if (operations >= killAfterOperations) this.#children.get(request.process)?.kill('SIGKILL');
  }

  #sum(): HostProcessesProgress {
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
