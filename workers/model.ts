/**
 * Entry of the worker that tries a device model before a run: loads it and builds it once.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { DeviceHarness } from '../src/device/harness.ts';
import { errorText } from './error-text.ts';
import { loadModel } from './load-model.ts';

const model = workerData as string;

try {
  new DeviceHarness(await loadModel(model)).close();
  parentPort?.postMessage({});
} catch (error) {
  parentPort?.postMessage({ error: errorText(error, model) });
}
