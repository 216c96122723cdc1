/**
 * A registry in the words of `mdevctl types` and `mdevctl list`: mdev parents alone, in order of name.
 */
import type { Instance } from './instance.ts';
import type { MdevRegistry, Parent } from './registry.ts';

/** What `mdevctl types --dumpjson` says of a type. */
export interface TypeJson {
  readonly available_instances: number;
  readonly device_api: string;
  /** Left out when empty, as the description is. */
  readonly name?: string;
  readonly description?: string;
}

/** What `mdevctl list --dumpjson` says of a running instance, and what a definition file holds. */
export interface InstanceJson {
  readonly mdev_type: string;
  /** An instance that runs without a definition is `manual`. */
  readonly start: 'auto' | 'manual';
  /** Written to the instance after it is made; of a running one nothing is known. */
  readonly attrs: readonly Readonly<Record<string, string>>[];
}

/** A list of parents, each an object with one key, whose value is a list of such objects. */
export type ByParent<T> = readonly Readonly<Record<string, readonly Readonly<Record<string, T>>[]>>[];

/** @returns the value that `mdevctl types --dumpjson` prints */
export function typesJson(registry: MdevRegistry): ByParent<TypeJson> {
  return mdevParents(registry).map((parent) => ({
    [parent.name]: sorted(parent.types(), ({ id }) => id).map((type) => {
      const name = type.name.trim();
      const description = type.description?.trim() ?? '';
      return {
        [type.id]: {
          available_instances: parent.available(type),
          device_api: type.deviceApi,
          ...(name === '' ? {} : { name }),
          ...(description === '' ? {} : { description }),
        },
      };
    }),
  }));
}

/** @returns the value that `mdevctl list --dumpjson` prints; parents without instances are left out */
export function listJson(registry: MdevRegistry): ByParent<InstanceJson> {
  return mdevParents(registry)
    .map((parent) => [parent.name, running(parent)] as const)
    .filter(([, instances]) => instances.length > 0)
    .map(([name, instances]) => ({
      [name]: instances.map(({ uuid, type }) => ({
        [uuid]: { mdev_type: type, start: 'manual', attrs: [] },
      })),
    }));
}

/** @returns the text of `mdevctl types` */
export function typesText(registry: MdevRegistry): string {
  const lines = mdevParents(registry).flatMap((parent) => [
    parent.name,
    ...sorted(parent.types(), ({ id }) => id).flatMap((type) => [
      `  ${type.id}`,
      `    Available instances: ${parent.available(type)}`,
      `    Device API: ${type.deviceApi}`,
      ...(type.name.trim() === '' ? [] : [`    Name: ${type.name.trim()}`]),
      ...(type.description?.trim() ? [`    Description: ${type.description.trim()}`] : []),
    ]),
  ]);
  return lines.map((line) => `${line}\n`).join('');
}

/** @returns the text of `mdevctl list` */
export const listText = (registry: MdevRegistry): string =>
  mdevParents(registry)
    .flatMap((parent) => running(parent))
    .map(({ uuid, parent, type }) => `${uuid} ${parent} ${type} manual\n`)
    .join('');

const sorted = <T>(items: Iterable<T>, key: (item: T) => string): T[] =>
  [...items].sort((a, b) => (key(a) < key(b) ? -1 : 1));

const mdevParents = (registry: MdevRegistry): Parent[] =>
  sorted(registry.parents(), ({ name }) => name).filter(({ isMdev }) => isMdev);

const running = (parent: Parent): Instance[] =>
  sorted(parent.instances(), ({ uuid }) => uuid).filter(({ active }) => active);
