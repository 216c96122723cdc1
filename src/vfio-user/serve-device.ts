/**
 * The body of the worker of one served device.
 */
import { writeSync } from 'node:fs';
import type { ModelFactory } from '../device/model.ts';
import type { GpuSlotHandle } from '../gpu/engine-slot.ts';
import { EVENT_ONE } from './irqs.ts';
import { keepLedger } from './linux.ts';
import { ResourceLedger } from './resource-ledger.ts';
import { ServeLoop } from './serve-loop.ts';
import { type ServedReport, type ServeEvent, ServeLink, type ServeTask } from './serve-task.ts';
import { ServedDevice } from './served-device.ts';
import { SocketListener } from './socket.ts';

/** Serves a device until the main thread asks to stop. @throws SocketPathError, and whatever the model throws */
export async function serveDevice(
  { name, model, captures, socket, msix, link: sab, ledger, wakeFd, gpu }: ServeTask,
  factory: ModelFactory,
  send: (event: ServeEvent) => void,
): Promise<void> {
  const link = new ServeLink(sab);
  keepLedger(new ResourceLedger(ledger));
  const device = new ServedDevice({ name, model, captures, msix, gpu: gpu && slotOf(gpu) }, factory);
  const loop = new ServeLoop(device, new SocketListener(socket), {
    wakeFd,
    stopRequested: () => link.stopRequested,
    woken: () => {
      for (let left = link.takePictureRequests(); left > 0; left--)
        send({ kind: 'picture', png: device.picture() });
    },
    connected: () => send({ kind: 'connected' }),
    disconnected: (reason) =>
      send({
        kind: 'disconnected',
        reason,
        liveMaps: device.dma.liveMaps,
        pins: device.instance.dma.heldPins,
      }),
    busy: () => link.changeTurn(),
  });
  send({ kind: 'ready' });
  await loop.run();
  const report = reportOf(device, loop);
  device.close();
  send({ kind: 'report', report });
}

/** Returns a slot whose vGPU wakes the others by their event counters. */
const slotOf = ({ slot, wakeFds }: NonNullable<ServeTask['gpu']>): GpuSlotHandle => ({
  ...slot,
  ring: (other) => void writeSync(wakeFds[other] as number, EVENT_ONE),
});

function reportOf(device: ServedDevice, { counters }: ServeLoop): ServedReport {
  const { metrics, pins, faults } = device.instance.report();
  return {
    ...counters,
    liveMaps: device.dma.liveMaps,
    peakMaps: device.dma.peakMaps,
    mixedMaps: device.dma.mixedMaps,
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
