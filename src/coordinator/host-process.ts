/**
 * A host process: receives what to run, runs its share of the VMs under one coordinator, sends back results.
 * Frames of protobuf over the process's IPC channel, both ways.
 */
import { every, nowUs, wallMs } from '#host';
import { type Hpa, PAGE_2M } from '../address/address.ts';
import { decodeFrame, encodeFrame, type Frame, type FrameHeader, type FrameKind } from '../channel/codec.ts';
import type { FrameBodies } from '../channel/schema.ts';
import { HPA_BASE } from '../host/host-memory.ts';
import { measureBareWorkers } from './bare-workers.ts';
import { Coordinator } from './coordinator.ts';
import { workerEntry } from './entries.ts';
import type { GpuSettings } from './gpu-pool.ts';
import { DEFAULT_MODEL, DEVICE_TIMEOUT_MS } from './supervisor.ts';
import type { VmConfig } from './vm.ts';

type RunRequest = FrameBodies['runRequest'];

const PROGRESS_INTERVAL_MS = 250;
const MIB = 1024 * 1024;
/** Spreads one run's seed over its VMs. */
const SEED_STRIDE = 7919;

/** The CLI's end of the channel. */
export interface HostChannel {
  send(frame: Uint8Array): void;
  /** Has `hear` called with every frame that comes after the request. */
  listen?(hear: (bytes: Uint8Array, frame: Frame) => void): void;
}

/** Runs one request to its end. Rejects only for the emulator's own mistakes. */
export async function runRequest(request: RunRequest, channel: HostChannel): Promise<void> {
  const frame: Encode = (kind, vm, body, device = -1) =>
    encodeFrame({ timeUs: wallMs() * 1000, process: request.process, vm, device }, kind, body);
  const send: Send = (kind, vm, body) => channel.send(frame(kind, vm, body));
  send('hostReady', 0, { pid: process.pid });
  if (request.bareWorkers > 0) {
    const { workers, startUs, rss } = await measureBareWorkers(request.bareWorkers);
    send('hostResult', 0, { ...NO_FIGURES, bareWorkers: workers, bareStartUs: startUs, bareRss: rss });
    return;
  }
  await runVms(request, frame, channel);
}

type Encode = <K extends FrameKind>(kind: K, vm: number, body: FrameBodies[K], device?: number) => Uint8Array;
type Send = <K extends FrameKind>(kind: K, vm: number, body: FrameBodies[K], device?: number) => void;

async function runVms(request: RunRequest, frame: Encode, channel: HostChannel): Promise<void> {
  const coordinator = new Coordinator({
    vms: request.vms.map((vm) => vmConfig(request, vm)),
    workers: { device: workerEntry('device'), guest: workerEntry('guest') },
    trace: request.trace,
    gpus: request.gpu as GpuSettings | undefined,
  });
  // What passes between the processes belongs to the trace as well.
  const send: Send = (kind, vm, body, device) => {
    const bytes = frame(kind, vm, body, device);
    coordinator.trace(bytes);
    channel.send(bytes);
  };
  coordinator.trace(frame('runRequest', 0, withoutSource(request)));
  channel.listen?.((bytes, frame) => {
    coordinator.trace(bytes);
    if (frame.kind === 'deviceRequest') releaseDevice(coordinator, frame.header, frame.body.uuid, send);
  });
  let done = 0;
  const stopProgress = every(PROGRESS_INTERVAL_MS, () => send('progress', 0, progressOf(coordinator, done)));
  coordinator.start();
  const rssBefore = process.memoryUsage.rss();
  const since = nowUs();
  await coordinator.startDevices();
  const devicesStartUs = nowUs() - since;
  const rssReady = process.memoryUsage.rss();
  await Promise.all(
    coordinator.vms.map(async (vm) => {
      const result = await vm.runGuest();
      done++;
      send('vmResult', vm.config.vm, result);
    }),
  );
  stopProgress();
  await coordinator.close();
  const { written, dropped } = coordinator.traceFrames;
  const figures = {
    ...NO_FIGURES,
    rssBefore,
    rssReady,
    devices: coordinator.vms.reduce((sum, { devices }) => sum + devices.length, 0),
    guests: request.vms.length,
    devicesStartUs,
    devicesRss: Math.max(0, rssReady - rssBefore),
    traceFrames: written,
    traceDropped: dropped,
  };
  channel.send(frame('hostResult', 0, figures));
}

/** A trace tells what was run; the model's text is in its file. */
const withoutSource = (request: RunRequest): RunRequest =>
  request.device ? { ...request, device: { ...request.device, source: '' } } : request;

/** A device is being removed from its host: its VM closes it, and says so. */
function releaseDevice(
  coordinator: Coordinator,
  { vm: number, device }: FrameHeader,
  uuid: string,
  send: Send,
): void {
  const vm = coordinator.vms.find(({ config }) => config.vm === number);
  void vm?.release(device, uuid).then((released) => {
    if (released) send('deviceReleased', number, {}, device);
  });
}

const NO_FIGURES: FrameBodies['hostResult'] = {
  rssBefore: 0,
  rssReady: 0,
  devices: 0,
  guests: 0,
  devicesStartUs: 0,
  devicesRss: 0,
  bareWorkers: 0,
  bareStartUs: 0,
  bareRss: 0,
  traceFrames: 0,
  traceDropped: 0,
};

function vmConfig(request: RunRequest, vm: number): VmConfig {
  const ramBytes = request.ramMib * MIB;
  const mdevs = request.mdevs?.instances.filter((mdev) => mdev.vm === vm);
  return {
    process: request.process,
    vm,
    vgpus: mdevs?.length ?? request.vgpus,
    mdevTypes: mdevs?.map(({ type }) => type) ?? [],
    seed: (request.seed + vm * SEED_STRIDE) % 2 ** 31,
    // A gap between the VMs' host memory: an HPA of one is never an HPA of another.
    hpaBase: (HPA_BASE + vm * (ramBytes + PAGE_2M)) as Hpa,
    ramBytes,
    viommu: request.viommu,
    scenario: request.scenario,
    params: JSON.parse(request.params || '{}') as Record<string, unknown>,
    timeoutMs: request.timeoutMs,
    model: request.device?.model ?? DEFAULT_MODEL,
    modelSource: request.device?.source ?? '',
    deviceTimeoutMs: request.device?.timeoutMs ?? DEVICE_TIMEOUT_MS,
    inject: vm === 0 ? request.inject : '',
  };
}

function progressOf(coordinator: Coordinator, vmsDone: number): FrameBodies['progress'] {
  const all = coordinator.vms.map((vm) => vm.progress);
  const devices = coordinator.vms.flatMap((vm) => vm.devices);
  return {
    devicesReady: devices.filter((device) => device.alive && device.isReady).length,
    vmsDone,
    operations: all.reduce((total, vm) => total + vm.operations, 0),
    bytesVerified: all.reduce((total, vm) => total + vm.bytesVerified, 0),
    phase: all.at(-1)?.phase ?? '',
  };
}

/** Serves the parent process's IPC channel until the one request it sends is done. */
export function serveParent(): void {
  let lastSent: Promise<void> = Promise.resolve();
  let hear: (bytes: Uint8Array, frame: Frame) => void = () => {};
  const channel: HostChannel = {
    send: (frame) => {
      lastSent = new Promise((resolve) => process.send?.(frame, undefined, undefined, () => resolve()));
    },
    listen: (listener) => {
      hear = listener;
    },
  };
  // A host process without its parent would run on unseen.
  process.on('disconnect', () => process.exit(1));
  process.on('message', (bytes: Uint8Array) => {
    const frame = decodeFrame(bytes);
    if (frame.kind === 'runAbort') process.exit(1);
    if (frame.kind !== 'runRequest') {
      hear(bytes, frame);
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
