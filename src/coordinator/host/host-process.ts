/**
 * A host process: receives a run request, runs its share of the VMs under one coordinator and sends the results.
 * Both directions use protobuf frames over the process's IPC channel.
 */
import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { nowUs, wallMs } from '#host';
import { decodeFrame, encodeFrame, type Frame } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { measureBaselineWorkers } from './baseline-workers.ts';
import type { Encode, HostChannel, Send } from './host-channel.ts';
import { HostRun } from './host-run.ts';

type RunRequest = FrameBodies['runRequest'];

/** Runs one request to its end. Rejects only for errors of the emulator itself. */
export async function runRequest(request: RunRequest, channel: HostChannel): Promise<void> {
  const frame: Encode = (kind, vm, body, device = -1) =>
    encodeFrame({ timeUs: wallMs() * 1000, process: request.process, vm, device }, kind, body);
  const send: Send = (kind, vm, body) => channel.send(frame(kind, vm, body));
  send('hostReady', 0, { pid: process.pid });
  if (request.baselineWorkers > 0) {
    const { workers, startUs, rss } = await measureBaselineWorkers(request.baselineWorkers);
    send('hostResult', 0, {
      ...NO_STATS,
      baselineWorkers: workers,
      baselineStartUs: startUs,
      baselineRss: rss,
    });
    return;
  }
  await runVms(request, frame, channel);
}

async function runVms(request: RunRequest, frame: Encode, channel: HostChannel): Promise<void> {
  const run = new HostRun(request, frame, channel);
  channel.listen?.((bytes, frame) => run.onFrame(bytes, frame));
  channel.onAbort?.(() => run.abort());
  channel.onError?.((error) => run.fail(error));
  const rssBefore = process.memoryUsage.rss();
  const since = nowUs();
  await run.start();
  const devicesStartUs = nowUs() - since;
  const rssReady = process.memoryUsage.rss();
  const { coordinator } = run;
  // Devices of VMs that boot later have not started yet.
  const atOnce = coordinator.vms.filter(({ config }) => config.bootUs === 0);
  const devices = atOnce.reduce((sum, vm) => sum + vm.devices.length, 0);
  await run.runAll();
  await coordinator.close();
  const { frames, dropped, error } = coordinator.traceResult;
  const stats = {
    ...NO_STATS,
    rssBefore,
    rssReady,
    devices,
    guests: request.vms.length,
    devicesStartUs,
    devicesRss: Math.max(0, rssReady - rssBefore),
    traceFrames: frames,
    traceDropped: dropped,
    traceError: error,
  };
  channel.send(frame('hostResult', 0, stats));
}

const NO_STATS: FrameBodies['hostResult'] = {
  rssBefore: 0,
  rssReady: 0,
  devices: 0,
  guests: 0,
  devicesStartUs: 0,
  devicesRss: 0,
  baselineWorkers: 0,
  baselineStartUs: 0,
  baselineRss: 0,
  traceFrames: 0,
  traceDropped: 0,
  traceError: '',
};

/** Signals that a terminal or a supervisor sends to all processes of a run. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Serves the parent process's IPC channel until its one request is done; then exits. */
export function serveParent(): void {
  let lastSent: Promise<void> = Promise.resolve();
  let isAborted = false;
  let onAbort = () => {};
  let onError: ((error: unknown) => void) | undefined;
  const abort = () => {
    isAborted = true;
    onAbort();
  };
  for (const signal of SIGNALS) process.on(signal, abort);
  // Scripts and models print to these streams. A reader that has gone must not end the process.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  let onFrame: (bytes: Uint8Array, frame: Frame) => void = () => {};
  const channel: HostChannel = {
    send: (frame) => {
      lastSent = new Promise((resolve) => process.send?.(frame, undefined, undefined, () => resolve()));
      return lastSent;
    },
    listen: (listener) => {
      onFrame = listener;
    },
    onAbort: (listener) => {
      onAbort = listener;
      if (isAborted) listener();
    },
    onError: (listener) => {
      onError = listener;
    },
  };
  // Every promise and callback has an owner that keeps its error to one VM. This is for errors of which none knows.
  process.on('uncaughtException', (error) => {
    if (onError) onError(error);
    else exitWith('host process', error);
  });
  // Without its parent, a host process would continue unnoticed.
  let sockets: readonly string[] = [];
  process.on('disconnect', () => {
    // A parent that was killed could not remove the folder.
    for (const socket of sockets.slice(0, 1)) rmSync(dirname(socket), { recursive: true, force: true });
    process.exit(1);
  });
  process.on('message', (bytes: Uint8Array) => {
    const frame = decodeFrame(bytes); // an error is reported as any other that nothing has caught
    if (frame.kind === 'runAbort') abort();
    if (frame.kind !== 'runRequest') {
      onFrame(bytes, frame);
      return;
    }
    sockets = frame.body.migrations?.sockets ?? [];
    runRequest(frame.body, channel).then(
      () => lastSent.then(() => process.exit(0)),
      (error: Error) => exitWith(`host process ${frame.body.process}`, error),
    );
  });
}

/** Ends this process because of an error of the emulator itself. */
function exitWith(who: string, error: Error): never {
  process.stderr.write(`${who}: ${error.stack ?? error.message}\n`);
  process.exit(1);
}
