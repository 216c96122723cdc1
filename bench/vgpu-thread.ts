/**
 * A vGPU's thread, as `workers/device.ts` runs it, without Piscina around it.
 */
import { workerData } from 'node:worker_threads';
import type { DeviceTask } from '../src/device/runtime.ts';
import runDevice from '../workers/device.ts';

await runDevice(workerData as DeviceTask);
