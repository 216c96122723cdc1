/**
 * The output of `mdevctl types` and `mdevctl list` for a sysfs tree, in order of name.
 */
import { readdirSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { FileRefusedError, readBounded } from '../platform/bounded-file.ts';
import { SysfsDiskError } from './sysfs-disk.ts';

/** Read access to a sysfs tree: a SysfsTree, or a directory on disk. */
export interface SysfsReader {
  list(path: string): readonly string[];
  read(path: string): string;
}

/** Maximum bytes of a file: sysfs shows one page. */
const FILE_BYTES = 4096;

/**
 * Reads a tree that `mdevsim sysfs` keeps below `dir`/sys. Its methods throw SysfsDiskError for a link that leads out of the
 * tree and for what is not a file of it, and the file system's own errors.
 */
export const diskReader = (dir: string): SysfsReader => ({
  list: (path) => readdirSync(inside(dir, path)),
  read: (path) => readFile(inside(dir, path)),
});

/** Follows links. @throws SysfsDiskError if they lead out of `dir` */
function inside(dir: string, path: string): string {
  const at = realpathSync(join(dir, path));
  if (at.startsWith(join(realpathSync(dir), 'sys/'))) return at;
  throw new SysfsDiskError(`${join(dir, path)} leads out of the tree, to ${at}`);
}

function readFile(at: string): string {
  try {
    return readBounded(at, FILE_BYTES).toString('utf8');
  } catch (error) {
    if (error instanceof FileRefusedError) throw new SysfsDiskError(`${at}: ${error.message}`);
    throw error;
  }
}

/** A type in the output of `mdevctl types --dumpjson`. */
interface TypeJson {
  readonly available_instances: number;
  readonly device_api: string;
  /** Left out if empty. */
  readonly name?: string;
  /** Left out if empty. */
  readonly description?: string;
}

/** A running instance in the output of `mdevctl list --dumpjson`, in the format of a definition file. */
interface InstanceJson {
  readonly mdev_type: string;
  /** An instance that runs without a definition is `manual`. */
  readonly start: 'auto' | 'manual';
  /** Attributes to write after the creation; empty for a running instance. */
  readonly attrs: readonly Readonly<Record<string, string>>[];
}

/** A list of parents. Each is an object with one key; its value is a list of further objects with one key. */
type ByParent<T> = readonly Readonly<Record<string, readonly Readonly<Record<string, T>>[]>>[];

const BUS = '/sys/class/mdev_bus';

/** Returns the value that `mdevctl types --dumpjson` prints. */
export const typesJson = (tree: SysfsReader): ByParent<TypeJson> =>
  sorted(tree.list(BUS)).map((parent) => ({
    [parent]: typeIds(tree, parent).map((id) => ({ [id]: typeJson(tree, parent, id) })),
  }));

/** Returns the value that `mdevctl list --dumpjson` prints. Parents without instances are left out. */
export const listJson = (tree: SysfsReader): ByParent<InstanceJson> =>
  sorted(tree.list(BUS))
    .map((parent) => [parent, running(tree, parent)] as const)
    .filter(([, instances]) => instances.length > 0)
    .map(([parent, instances]) => ({
      [parent]: instances.map(({ uuid, type }) => ({
        [uuid]: { mdev_type: type, start: 'manual', attrs: [] },
      })),
    }));

/** Returns the text that `mdevctl types` prints. */
export function typesText(tree: SysfsReader): string {
  const lines = typesJson(tree)
    .flatMap((byName) => Object.entries(byName))
    .flatMap(([parent, types]) => [
      parent,
      ...types.flatMap((type) => Object.entries(type).flatMap(typeLines)),
    ]);
  return lines.map((line) => `${line}\n`).join('');
}

/** Returns the text that `mdevctl list` prints. */
export const listText = (tree: SysfsReader): string =>
  sorted(tree.list(BUS))
    .flatMap((parent) => running(tree, parent).map(({ uuid, type }) => `${uuid} ${parent} ${type} manual\n`))
    .join('');

const typeLines = ([id, type]: readonly [string, TypeJson]): string[] => [
  `  ${id}`,
  `    Available instances: ${type.available_instances}`,
  `    Device API: ${type.device_api}`,
  ...(type.name === undefined ? [] : [`    Name: ${type.name}`]),
  ...(type.description === undefined ? [] : [`    Description: ${type.description}`]),
];

const typesOf = (parent: string): string => `${BUS}/${parent}/mdev_supported_types`;

const typeIds = (tree: SysfsReader, parent: string): string[] => sorted(tree.list(typesOf(parent)));

function typeJson(tree: SysfsReader, parent: string, id: string): TypeJson {
  const path = `${typesOf(parent)}/${id}`;
  const files = tree.list(path);
  // mdevctl joins the lines of a text.
  const text = (name: string) =>
    files.includes(name) ? tree.read(`${path}/${name}`).trim().replaceAll('\n', ', ') : '';
  const [name, description] = [text('name'), text('description')];
  return {
    available_instances: Number(text('available_instances')),
    device_api: text('device_api'),
    ...(name === '' ? {} : { name }),
    ...(description === '' ? {} : { description }),
  };
}

const running = (tree: SysfsReader, parent: string): { uuid: string; type: string }[] =>
  typeIds(tree, parent)
    .flatMap((type) => tree.list(`${typesOf(parent)}/${type}/devices`).map((uuid) => ({ uuid, type })))
    .sort((a, b) => (a.uuid < b.uuid ? -1 : 1));

const sorted = (names: readonly string[]): string[] => [...names].sort();
