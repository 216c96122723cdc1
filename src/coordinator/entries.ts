/**
 * Where the entry modules of workers and host processes are: beside `src/`, in source and in the build alike.
 */
import { existsSync } from 'node:fs';

export type EntryName = 'device' | 'guest' | 'host' | 'scenario' | 'model' | 'bare';

const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';

export const workerEntry = (name: EntryName): URL =>
  new URL(`../../workers/${name}.${extension}`, import.meta.url);

const bundle = new URL('../../workers/device-bundle.js', import.meta.url);
const bundled = extension === 'js' && existsSync(bundle) ? bundle : workerEntry('device');

/**
 * The entry of a worker for a device of this model. A built-in model's is one file made of all its modules: a thread
 * loads it in a third of the time (36 → 17 ms for a vGPU). A user's file imports `mdevsim/device`, and has to find the
 * same modules there as its runtime.
 */
export const deviceEntry = (model: string): URL =>
  model.startsWith('file:') ? workerEntry('device') : bundled;
