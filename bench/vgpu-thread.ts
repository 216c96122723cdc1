/**
 * Thread of a vGPU: runs `workers/device.ts` without Piscina.
 */
import { workerData } from 'node:worker_threads';
import type { DeviceTask } from '../src/device/runtime.ts';
import runDevice from '../workers/device.ts';

await runDevice(workerData as DeviceTask);
