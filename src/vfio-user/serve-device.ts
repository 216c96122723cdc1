/**
 * The body of the worker of one served device.
 */
import { writeSync } from 'node:fs';
import { threadId } from 'node:worker_threads';
import type { ModelFactory } from '../device/model.ts';
import type { GpuSlotHandle } from '../gpu/engine-slot.ts';
import type { FrameBodies } from '../proto/schema.ts';
import { EVENT_ONE } from './irqs.ts';
import { keepLedger } from './linux.ts';
import { ResourceLedger } from './resource-ledger.ts';
import { ServeLoop } from './serve-loop.ts';
import { type ServedReport, type ServeEvent, ServeLink, type ServeTask } from './serve-task.ts';
import { frameSink } from './serve-trace.ts';
import { ServedDevice } from './served-device.ts';
import { SocketListener } from './socket.ts';

/** Serves a device until the main thread asks to stop. @throws SocketPathError, and whatever the model throws */
export async function serveDevice(
  task: ServeTask,
  factory: ModelFactory,
  send: (event: ServeEvent) => void,
): Promise<void> {
  const { socket, wakeFd } = task;
  const link = new ServeLink(task.link);
  keepLedger(new ResourceLedger(task.ledger));
  const trace = task.traced ? frameSink(task.index, (frame) => send({ kind: 'frame', frame })) : undefined;
  const device = new ServedDevice({ ...task, gpu: task.gpu && slotOf(task.gpu), trace }, factory);
  const loop = new ServeLoop(device, new SocketListener(socket), {
    wakeFd,
    stopRequested: () => link.stopRequested,
    woken: () => {
      for (let left = link.takePictureRequests(); left > 0; left--)
        send({ kind: 'picture', png: device.picture() });
    },
    connected: () => {
      trace?.('deviceLog', { text: 'client connected', watchdog: false });
      send({ kind: 'connected' });
    },
    disconnected: (reason) => {
      trace?.('deviceLog', { text: `client disconnected: ${reason}`, watchdog: false });
      send({
        kind: 'disconnected',
        reason,
        liveMaps: device.dma.liveMaps,
        pins: device.instance.dma.heldPins,
      });
    },
    busy: () => link.changeTurn(),
  });
  send({ kind: 'ready' });
  trace?.('deviceReady', { threadId, model: task.model });
  await loop.run();
  const report = reportOf(device, loop);
  trace?.('deviceReport', frameOf(device));
  device.close();
  send({ kind: 'report', report });
}

/** Returns a slot whose vGPU wakes the others by their event counters. */
const slotOf = ({ slot, wakeFds }: NonNullable<ServeTask['gpu']>): GpuSlotHandle => ({
  ...slot,
  ring: (other) => void writeSync(wakeFds[other] as number, EVENT_ONE),
});

/** Returns the report of a run's device, as its frame has it. */
const frameOf = ({ instance, irqs }: ServedDevice): FrameBodies['deviceReport'] => ({
  ...instance.report(),
  interrupts: irqs.counters.raised,
  stalls: 0,
  faultsDropped: 0,
});

function reportOf(device: ServedDevice, { counters }: ServeLoop): ServedReport {
  const { metrics, pins, faults } = device.instance.report();
  return {
    ...counters,
    liveMaps: device.dma.liveMaps,
    peakMaps: device.dma.peakMaps,
    mixedMaps: device.dma.mixedMaps,
    switches: device.switches,
    maps: device.container.counters.maps,
    unmaps: device.container.counters.unmaps,
    heldPins: device.instance.dma.heldPins,
    pins,
    faults,
    interrupts: device.irqs.counters.raised,
    signalled: device.irqs.counters.signalled,
    messageReads: device.client.counters.reads,
    messageWrites: device.client.counters.writes,
    lostAccesses: device.windows.lostAccesses,
    violations: device.violations,
    violationCount: device.violationCount,
    lines: device.lines,
    metrics,
  };
}
