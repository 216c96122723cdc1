/**
 * A host process: receives a run request, runs its share of the VMs under one coordinator and sends the results.
 * Both directions use protobuf frames over the process's IPC channel.
 */
import { nowUs, wallMs } from '#host';
import { decodeFrame, encodeFrame, type Frame } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { measureBaselineWorkers } from './baseline-workers.ts';
import { type Encode, type HostChannel, HostRun, type Send } from './host-run.ts';

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
  const rssBefore = process.memoryUsage.rss();
  const since = nowUs();
  await run.start();
  const devicesStartUs = nowUs() - since;
  const rssReady = process.memoryUsage.rss();
  const { coordinator } = run;
  const devices = coordinator.vms.reduce((sum, vm) => sum + vm.devices.length, 0);
  await run.runAll();
  await coordinator.close();
  const { written, dropped } = coordinator.traceFrames;
  const stats = {
    ...NO_STATS,
    rssBefore,
    rssReady,
    devices,
    guests: request.vms.length,
    devicesStartUs,
    devicesRss: Math.max(0, rssReady - rssBefore),
    traceFrames: written,
    traceDropped: dropped,
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
};

/** Serves the parent process's IPC channel until its one request is done; then exits. */
export function serveParent(): void {
  let lastSent: Promise<void> = Promise.resolve();
  let onFrame: (bytes: Uint8Array, frame: Frame) => void = () => {};
  const channel: HostChannel = {
    send: (frame) => {
      lastSent = new Promise((resolve) => process.send?.(frame, undefined, undefined, () => resolve()));
    },
    listen: (listener) => {
      onFrame = listener;
    },
  };
  // Without its parent, a host process would continue unnoticed.
  process.on('disconnect', () => process.exit(1));
  process.on('message', (bytes: Uint8Array) => {
    const frame = decodeFrame(bytes);
    if (frame.kind === 'runAbort') process.exit(1);
    if (frame.kind !== 'runRequest') {
      onFrame(bytes, frame);
      return;
    }
    runRequest(frame.body, channel).then(
      () => lastSent.then(() => process.exit(0)),
      (error: Error) => {
        process.stderr.write(`host process ${frame.body.process}: ${error.stack ?? error.message}\n`);
        process.exit(1);
      },
    );
  });
}
