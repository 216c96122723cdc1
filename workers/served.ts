/**
 * Entry of the worker of one served device: serves its socket until it is asked to stop.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { serveDevice } from '../src/vfio-user/serve-device.ts';
import type { ServeEvent, ServeTask } from '../src/vfio-user/serve-task.ts';
import { errorText } from './error-text.ts';
import { loadModel } from './load-model.ts';

const task = workerData as ServeTask;

// A pending wait on shared memory does not keep a thread alive; a listener does.
const stayAlive = () => {};
parentPort?.on('message', stayAlive);
try {
  const factory = await loadModel(task.model, task.modelSource);
  await serveDevice(task, factory, (event: ServeEvent) => parentPort?.postMessage(event));
} catch (error) {
  // A model may throw any value, also one that cannot be sent to another thread.
  throw new Error(errorText(error, task.model));
} finally {
  parentPort?.off('message', stayAlive);
}
