/**
 * Entry of a device worker: one mediated device, from build to stop. Piscina calls the default export once.
 */
import { threadId } from 'node:worker_threads';
import { Doorbell } from '../src/channel/doorbell.ts';
import { DeviceRuntime, type DeviceTask } from '../src/device/runtime.ts';
import { MODELS } from './models/index.ts';

export default function runDevice(task: DeviceTask): void {
  const factory = MODELS[task.model];
  if (!factory)
    throw new Error(`no device model ${task.model}; there are: ${Object.keys(MODELS).join(', ')}`);
  const coordinator = new Doorbell(task.coordinatorDoorbell, 0, task.coordinatorSenders);
  new DeviceRuntime(task, coordinator, factory).run(threadId);
}
