/**
 * End of a VM's devices: of their mappings while they work, of their threads, and of what they hold.
 */
import { nowUs, sleep } from '#host';
import { Slots } from '../workers/slots.ts';
import type { VmDevice } from './device.ts';

/** Time limit for the stop of a device that is in its model. */
const STOP_TIMEOUT_MS = 5_000;
/** Time limit for the stop of a device whose thread gets no core. */
const STOP_LIMIT_MS = 60_000;
const STOP_POLL_MS = 5;

/**
 * Maximum count of devices of this process that stop at one time, until their threads have exited. The end of a thread
 * takes processor time, and a thousand of them at once would be late for want of it.
 */
const STOP_CONCURRENCY = 8;
const stops = new Slots(STOP_CONCURRENCY);

interface ClosingVm {
  /** Quarantines a device. Never rejects. */
  quarantine(device: VmDevice, kind: string, detail: string): Promise<void>;
  /** Gives a device's slot on a physical GPU back. */
  releaseSlot(device: VmDevice): void;
  violation(device: number, kind: string, detail: string): void;
}

/**
 * Removes every mapping of devices that work, as the kernel does when it closes the containers of a VMM that was killed:
 * a device is asked for its pins, and one that keeps them is quarantined (R7).
 */
export async function unmapEverything(devices: readonly VmDevice[]): Promise<void> {
  await Promise.all(devices.filter(({ alive }) => alive).map(({ notifier }) => notifier.unmapAll()));
}

/** Stops devices. One that does not stop in time is quarantined, and one that leaves pins is reported. */
export async function closeDevices(devices: readonly VmDevice[], vm: ClosingVm): Promise<void> {
  const running = devices.filter(({ run, failure }) => run && failure === '');
  await stopDevices(running);
  for (const device of running) {
    if (!device.report && device.failure === '')
      await vm.quarantine(device, 'did-not-stop', `was still running ${STOP_TIMEOUT_MS} ms after stop`);
    device.link.mmioServer().close();
    if (device.failure !== '') continue;
    vm.releaseSlot(device);
    const pins = device.container.pins();
    if (pins > 0) vm.violation(device.index, 'leaked-pins', `${device.name} stopped and left ${pins} pins`);
  }
}

/** Requests devices to stop; resolves when each has reported or failed, at the latest STOP_LIMIT_MS after its request. */
export async function stopDevices(devices: readonly VmDevice[]): Promise<void> {
  const exited = async (device: VmDevice) => device.run?.exited();
  await Promise.all(
    devices.map((device) =>
      stops.run(
        () => stopDevice(device),
        () => exited(device),
      ),
    ),
  );
}

async function stopDevice(device: VmDevice): Promise<void> {
  device.send('deviceStop', {});
  const since = nowUs();
  let { turn } = device.link;
  let turnUs = since;
  while (device.failure === '' && !device.report && nowUs() - since < STOP_LIMIT_MS * 1000) {
    if (device.link.turn !== turn) [turn, turnUs] = [device.link.turn, nowUs()];
    // A thread between two turns waits for a core. Only one in a turn is held up by its model.
    if (turn % 2 !== 0 && nowUs() - turnUs > STOP_TIMEOUT_MS * 1000) return;
    await sleep(STOP_POLL_MS);
  }
}
