/**
 * URLs of the entry modules of workers and host processes. They are beside `src/`, in the sources and in a build.
 */
import { existsSync } from 'node:fs';

export type EntryName =
  | 'device'
  | 'guest'
  | 'host'
  | 'director'
  | 'loader'
  | 'scenario'
  | 'model'
  | 'baseline'
  | 'vectors'
  | 'served';

const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';

export const workerEntry = (name: EntryName): URL =>
  new URL(`../../../workers/${name}.${extension}`, import.meta.url);

/** Returns the URL of a build's bundle, or of the module itself if there is no bundle. */
function bundled(path: string, name: EntryName): URL {
  const bundle = new URL(`../../../${path}`, import.meta.url);
  return extension === 'js' && existsSync(bundle) ? bundle : workerEntry(name);
}

const deviceBundle = bundled('workers/device-bundle.js', 'device');
const guestBundle = bundled('bundle/guest/guest.js', 'guest');

/**
 * Returns the entry of a device worker for this model. For a built-in model it is a bundle of all modules, which a
 * thread loads in half the time (36 → 17 ms for a vGPU). For a user-defined model it is the plain module: the user's
 * file imports `mdevsim/device` and must get the same module instances as its runtime.
 */
export const deviceEntry = (model: string): URL =>
  model.startsWith('file:') ? workerEntry('device') : deviceBundle;

/** Returns the entry of a guest worker: a few files with its modules and those of `mdevsim` (load time 86 → 37 ms). */
export const guestEntry = (): URL => guestBundle;
