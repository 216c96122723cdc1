/**
 * Entry of a device worker: runs one mediated device until it stops. Piscina calls the default export once.
 */
import { threadId } from 'node:worker_threads';
import { Doorbell } from '../src/channel/doorbell.ts';
import { DeviceRuntime, type DeviceTask } from '../src/device/runtime.ts';
import { errorText } from './error-text.ts';
import { loadModel } from './load-model.ts';

export default async function runDevice(task: DeviceTask): Promise<void> {
  try {
    const factory = await loadModel(task.model, task.modelSource);
    const coordinator = new Doorbell(task.coordinatorDoorbell, 0, task.coordinatorSenders);
    new DeviceRuntime(task, coordinator, factory).run(threadId);
  } catch (error) {
    // A model may throw any value, also one that cannot be sent to another thread.
    throw new Error(errorText(error, task.model));
  }
}
