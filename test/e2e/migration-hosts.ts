/**
 * Host processes' work in this process: each has a coordinator and workers of its own, and a socket that VMs come by.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runRequest } from '../../src/coordinator/host/host-process.ts';
import { decodeFrame, encodeFrame, type Frame } from '../../src/proto/codec.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { readTrace } from '../../src/proto/trace.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';

type VmResult = FrameBodies['vmResult'];

/** What a test chooses. */
export interface MovingOptions {
  readonly params?: Readonly<Record<string, unknown>>;
  readonly viommu?: string;
  readonly model?: string;
  /** VMs by host; the first host has VM 0 if nothing is said. */
  readonly hosts?: readonly (readonly number[])[];
  readonly scenario?: string;
  readonly vgpus?: number;
  /** Of scripts; a minute if nothing is said. */
  readonly timeoutMs?: number;
  /** Given the trace of each host, when all have ended. */
  traced?(traces: readonly (readonly Frame[])[]): void;
}

/** What a host has said: its VMs' results, in the order of their ends, and which VMs have come. */
export interface Heard {
  readonly results: { readonly vm: number; readonly result: VmResult }[];
  readonly arrived: number[];
}

export interface Hosts {
  readonly sockets: readonly string[];
  /** Starts a host. */
  start(host: number): void;
  readonly heard: readonly Heard[];
  /** Tells the hosts that no VM will come any more, and waits for their ends. */
  end(): Promise<void>;
}

/** Runs `test` with hosts that it starts itself; a socket of one that it does not start is the test's own. */
export async function withHosts(
  options: MovingOptions,
  test: (hosts: Hosts) => Promise<void>,
): Promise<void> {
  const { params = {}, viommu = 'intel', model = 'edu', hosts = [[0], []], vgpus = 2 } = options;
  const directory = mkdtempSync(join(tmpdir(), 'mdevsim-test-'));
  const sockets = hosts.map((_, host) => join(directory, `${host}.sock`));
  const heard: Heard[] = hosts.map(() => ({ results: [], arrived: [] }));
  const running: Promise<void>[] = [];
  const tell: ((frame: Frame, bytes: Uint8Array) => void)[] = [];
  const all = hosts.flat().length;
  const start = (host: number) => {
    const request = {
      scenario: scenarioUrl(options.scenario ?? 'test/fixtures/scenarios/moving.ts'),
      process: host,
      vms: hosts[host] as number[],
      vgpus,
      seed: 7,
      ramMib: 16,
      timeoutMs: options.timeoutMs ?? 60_000,
      inject: '',
      trace: options.traced ? join(directory, `${host}.trace`) : '',
      viommu,
      baselineWorkers: 0,
      params: JSON.stringify(params),
      device: { model, timeoutMs: 20_000, source: '' },
      migrations: { sockets, vmsMax: all, devicesMax: all * vgpus },
    };
    const channel = {
      send: (bytes: Uint8Array) => {
        const { kind, header, body } = decodeFrame(bytes);
        if (kind === 'vmResult') heard[host]?.results.push({ vm: header.vm, result: body as VmResult });
        if (kind === 'vmArrived') heard[host]?.arrived.push(header.vm);
      },
      listen: (hear: (bytes: Uint8Array, frame: Frame) => void) => {
        tell[host] = (frame, bytes) => hear(bytes, frame);
      },
    };
    running[host] = runRequest(request, channel);
  };
  const end = async () => {
    const bytes = encodeFrame({ timeUs: 0, process: 0, vm: 0, device: -1 }, 'runEnd', {});
    for (const hear of tell) hear?.(decodeFrame(bytes), bytes);
    await Promise.all(running);
  };
  try {
    await test({ sockets, start, heard, end });
  } finally {
    await end();
    options.traced?.(hosts.map((_, host) => [...readTrace(join(directory, `${host}.trace`))]));
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Resolves when `holds`, looked at again and again. @throws Error after `timeoutMs` */
export async function until(holds: () => boolean, what: string, timeoutMs = 30_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
