/**
 * Runs the work of host processes in this process. Each host has its own coordinator, workers and migration socket.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Encode } from '../../src/coordinator/host/host-channel.ts';
import { runRequest } from '../../src/coordinator/host/host-process.ts';
import { HostRun } from '../../src/coordinator/host/host-run.ts';
import { decodeFrame, encodeFrame, type Frame } from '../../src/proto/codec.ts';
import { readTrace } from '../../src/proto/trace.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';
import { until } from '../support/until.ts';
import type { VmResult } from './run-in-process.ts';

export interface MovingOptions {
  readonly params?: Readonly<Record<string, unknown>>;
  readonly viommu?: string;
  readonly model?: string;
  /** VMs by host. By default, the first host has VM 0. */
  readonly hosts?: readonly (readonly number[])[];
  readonly scenario?: string;
  readonly vgpus?: number;
  /** Time limit of scripts; one minute by default. */
  readonly timeoutMs?: number;
  /** Receives the trace of each host after all have ended. */
  onTraces?(traces: readonly (readonly Frame[])[]): void;
}

/** Time limit of tests for the end of a VM. */
export const VM_TIMEOUT_MS = 90_000;

/** Messages from a host: results of its VMs in the order of their ends, and arrived VMs. */
interface Received {
  readonly results: { readonly vm: number; readonly result: VmResult }[];
  readonly arrived: number[];
  /** Devices that a VM has closed on request. */
  readonly released: number[];
}

export interface Hosts {
  readonly sockets: readonly string[];
  start(host: number): void;
  /** Starts a host that accepts VMs, but does not start its own until the returned function is called. */
  startLate(host: number): Promise<() => void>;
  /** Sends a host the request to close a device that is being removed. */
  remove(host: number, vm: number, device: number): void;
  readonly received: readonly Received[];
  /** Tells the hosts that no more VM will arrive, and waits until they end. */
  end(): Promise<void>;
}

/** Runs `test`, which starts the hosts. For a host that it does not start, it may serve the socket itself. */
export async function withHosts(
  options: MovingOptions,
  test: (hosts: Hosts) => Promise<void>,
): Promise<void> {
  const { params = {}, viommu = 'intel', model = 'edu', hosts = [[0], []], vgpus = 2 } = options;
  const directory = mkdtempSync(join(tmpdir(), 'mdevsim-test-'));
  const sockets = hosts.map((_, host) => join(directory, `${host}.sock`));
  const received: Received[] = hosts.map(() => ({ results: [], arrived: [], released: [] }));
  const running: Promise<void>[] = [];
  const listeners: ((bytes: Uint8Array, frame: Frame) => void)[] = [];
  const all = hosts.flat().length;
  const partsOf = (host: number) => {
    const request = {
      scenario: scenarioUrl(options.scenario ?? 'test/fixtures/scenarios/moving.ts'),
      process: host,
      vms: hosts[host] as number[],
      vgpus,
      seed: 7,
      ramMib: 16,
      timeoutMs: options.timeoutMs ?? 60_000,
      inject: '',
      trace: options.onTraces ? join(directory, `${host}.trace`) : '',
      viommu,
      baselineWorkers: 0,
      vmSettings: [],
      params: JSON.stringify(params),
      folder: '',
      device: { model, timeoutMs: 20_000, source: '' },
      migrations: { sockets, vmsMax: all, devicesMax: all * vgpus },
    };
    const channel = {
      send: (bytes: Uint8Array) => {
        const { kind, header, body } = decodeFrame(bytes);
        if (kind === 'vmResult') received[host]?.results.push({ vm: header.vm, result: body as VmResult });
        if (kind === 'vmArrived') received[host]?.arrived.push(header.vm);
        if (kind === 'deviceReleased') received[host]?.released.push(header.device);
      },
      listen: (onFrame: (bytes: Uint8Array, frame: Frame) => void) => {
        listeners[host] = onFrame;
      },
    };
    return { request, channel };
  };
  const start = (host: number) => {
    const { request, channel } = partsOf(host);
    running[host] = runRequest(request, channel);
  };
  const startLate = async (host: number) => {
    const { request, channel } = partsOf(host);
    const frame: Encode = (kind, vm, body, device = -1) =>
      encodeFrame({ timeUs: 0, process: host, vm, device }, kind, body);
    const run = new HostRun(request, frame, channel);
    listeners[host] = (bytes, frame) => run.onFrame(bytes, frame);
    await run.start();
    return () => {
      running[host] = run.runAll().then(() => run.coordinator.close());
    };
  };
  const remove = (host: number, vm: number, device: number) => {
    const bytes = encodeFrame({ timeUs: 0, process: host, vm, device }, 'deviceRequest', { uuid: 'x' });
    listeners[host]?.(bytes, decodeFrame(bytes));
  };
  const end = async () => {
    const bytes = encodeFrame({ timeUs: 0, process: 0, vm: 0, device: -1 }, 'runEnd', {});
    for (const onFrame of listeners) onFrame?.(bytes, decodeFrame(bytes));
    await Promise.all(running);
  };
  try {
    await test({ sockets, start, startLate, remove, received, end });
  } finally {
    await end();
    options.onTraces?.(hosts.map((_, host) => [...readTrace(join(directory, `${host}.trace`))]));
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Waits until a host has sent the result of its first VM. @throws Error after half a minute */
export const vmEnd = ({ received }: Hosts, host: number): Promise<void> =>
  until(() => received[host]?.results.length === 1, `the end of the VM on host ${host}`, VM_TIMEOUT_MS);
