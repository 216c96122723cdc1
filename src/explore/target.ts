/**
 * Targets of an exploration: the harness of a kernel by its name, or the harnesses that a file exports.
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { nearest } from '../platform/nearest.ts';
import { type Harness, isHarness } from './harness.ts';
import { KERNELS } from './kernels/index.ts';
import { loadIntoModel, ModelLoadError, type Patch } from './transform/loader.ts';

const extension = import.meta.url.slice(-3);

/** A harness with its name. */
export interface NamedHarness {
  readonly name: string;
  readonly harness: Harness;
}

/** Place of a target: the URL of its file, and the export if only one is meant. */
export interface TargetPlace {
  readonly url: string;
  readonly only: string | undefined;
}

/** Finds a target. `PATH#EXPORT` means one export of a file. @throws ModelLoadError */
export function placeOfTarget(target: string): TargetPlace {
  const kernel = Object.hasOwn(KERNELS, target) ? KERNELS[target] : undefined;
  if (kernel)
    return { url: new URL(`./kernels/${kernel[0]}${extension}`, import.meta.url).href, only: kernel[1] };
  const [path = '', only] = target.split('#');
  if (!existsSync(path)) {
    const names = Object.keys(KERNELS);
    throw new ModelLoadError(
      `no harness ${target}; accepted: the path of a file, or one of ${names.join(', ')}; nearest: ${nearest(target, names)}`,
    );
  }
  return { url: pathToFileURL(resolve(path)).href, only };
}

/** Loads the harnesses of a target into the model. @throws ModelLoadError */
export async function loadTarget(
  place: TargetPlace,
  patches: readonly Patch[] = [],
): Promise<NamedHarness[]> {
  const exported = Object.entries(await loadIntoModel(place.url, patches));
  const found = exported.filter(([, value]) => isHarness(value)) as [string, Harness][];
  const names = found.map(([name]) => name);
  if (found.length === 0)
    throw new ModelLoadError(
      `${place.url}: exports no harness; accepted: export const NAME = explore({ … })`,
    );
  if (place.only !== undefined && !names.includes(place.only))
    throw new ModelLoadError(
      `no harness ${place.only}; accepted: ${names.join(', ')}; nearest: ${nearest(place.only, names)}`,
    );
  return found
    .filter(([name]) => place.only === undefined || name === place.only)
    .map(([name, harness]) => ({ name: harness.name ?? name, harness }));
}
