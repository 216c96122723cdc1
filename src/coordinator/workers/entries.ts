/**
 * Where the entry modules of workers and host processes are: beside `src/`, in source and in the build alike.
 */
import { existsSync } from 'node:fs';

export type EntryName = 'device' | 'guest' | 'host' | 'scenario' | 'model' | 'baseline';

const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';

export const workerEntry = (name: EntryName): URL =>
  new URL(`../../../workers/${name}.${extension}`, import.meta.url);

/** What a build has bundled, or the module itself: sources have no bundle. */
function bundled(path: string, name: EntryName): URL {
  const bundle = new URL(`../../../${path}`, import.meta.url);
  return extension === 'js' && existsSync(bundle) ? bundle : workerEntry(name);
}

const deviceBundle = bundled('workers/device-bundle.js', 'device');
const guestBundle = bundled('bundle/guest/guest.js', 'guest');

/**
 * The entry of a worker for a device of this model. A built-in model's is one file made of all its modules: a thread
 * loads it in half the time (36 → 17 ms for a vGPU). A user's file imports `mdevsim/device`, and has to find the same
 * modules there as its runtime.
 */
export const deviceEntry = (model: string): URL =>
  model.startsWith('file:') ? workerEntry('device') : deviceBundle;

/** The entry of a guest's worker: its modules and those that scripts import as `mdevsim` in a few files (86 → 37 ms). */
export const guestEntry = (): URL => guestBundle;
