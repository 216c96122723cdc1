/**
 * mdevctl's definitions of instances, from its files or from the output of `list -d --dumpjson`.
 */
import { type Dirent, opendirSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import { FileRefusedError, readBounded } from '../platform/bounded-file.ts';
import { parseBoundedJson } from '../platform/bounded-json.ts';
import { MdevError } from './errors.ts';
import { parseUuid, UUID_CHARACTERS } from './parse.ts';
import type { MdevInstance, MdevRegistry } from './registry.ts';
import { SysfsTree } from './sysfs.ts';

/** Maximum bytes of one file: thousands of definitions. */
export const DEFINITION_BYTES = 4 * 2 ** 20;
/** Maximum bytes of all files of a directory together. */
const DIRECTORY_BYTES = 16 * DEFINITION_BYTES;
/** Maximum count of definitions per source. */
const DEFINITIONS_LIMIT = 32_768;
/** Maximum count of JSON values per file: eight per definition. */
const VALUES_LIMIT = 8 * DEFINITIONS_LIMIT;
/** mdevctl's directory of scripts, beside its parents' directories. */
const SCRIPTS = 'scripts.d';

/** Definition of one instance. */
export interface Definition {
  readonly parent: string;
  /** In lower case. */
  readonly uuid: string;
  readonly type: string;
  /** Paths below the instance's directory and their values, in the order in which they are written. */
  readonly attrs: readonly (readonly [path: string, value: string])[];
}

/** Thrown for definitions that cannot be read. The message names their place and what is accepted. */
export class DefinitionError extends Error {
  override name = 'DefinitionError';
}

/** Content of /etc/mdevctl.d/PARENT/UUID. Further fields are ignored, as by mdevctl. */
const inner = z.object({
  mdev_type: z.string().min(1).max(255),
  start: z.enum(['auto', 'manual']).default('manual'),
  attrs: z.array(z.record(z.string(), z.string())).default([]),
});
/** Output of `mdevctl list -d --dumpjson`. */
const dump = z.array(z.record(z.string(), z.array(z.record(z.string(), inner))));
/** The directory /etc/mdevctl.d as an object: parent → UUID → content of the file. */
const directory = z.record(z.string(), z.record(z.string(), inner));

const ACCEPTED =
  "accepted: the output of `mdevctl list -d --dumpjson`, or an object of parents, each an object of UUIDs with a definition file's content";

/**
 * Reads definitions from a value: mdevctl's dump, or parent → UUID → content of a definition file.
 *
 * @param where names the value in errors
 * @throws DefinitionError
 */
export function definitionsOf(value: unknown, where: string): Definition[] {
  const byParent = Array.isArray(value)
    ? parsed(dump, value, where).flatMap((item) => Object.entries(item))
    : Object.entries(parsed(directory, value, where)).map(([parent, files]) => [parent, [files]] as const);
  const found = byParent.flatMap(([parent, members]) =>
    members
      .flatMap((byUuid) => Object.entries(byUuid))
      .map(([uuid, content]) => definition(parent, uuid, content, where)),
  );
  return limited(found, where);
}

/**
 * Reads definitions from a path. It is a file with mdevctl's dump, a definition file (whose path ends with parent and
 * UUID), or a directory: one like /etc/mdevctl.d, or a parent's in it, read in order of name.
 *
 * @throws DefinitionError
 */
export function readDefinitions(path: string): Definition[] {
  const at = resolve(path);
  try {
    return limited(statSync(at).isDirectory() ? fromDirectory(at) : fromFile(at), at);
  } catch (error) {
    if (!(error instanceof Error && 'syscall' in error)) throw error;
    throw new DefinitionError(`definitions ${error.message}`);
  }
}

/**
 * Creates an instance like `mdevctl start`, then writes its attributes. After an error there is no instance.
 *
 * @throws MdevError the kernel's error of `create` or of the write to an attribute, with the definition's name
 */
export function startDefinition(
  registry: MdevRegistry,
  { parent, uuid, type, attrs }: Definition,
): MdevInstance {
  const named = (error: unknown, what: string): unknown =>
    error instanceof MdevError
      ? new MdevError(error.errno, `${parent}/${uuid}${what}: ${error.detail}`)
      : error;
  if (registry.parent(parent)?.isMdev === false)
    throw new MdevError('ENOENT', `${parent}/${uuid}: ${parent} has virtual functions and no mdev types`);
  let instance: MdevInstance;
  try {
    instance = registry.create(parent, type, uuid);
  } catch (error) {
    throw named(error, '');
  }
  if (attrs.length === 0) return instance;
  const tree = new SysfsTree(registry);
  for (const [path, value] of attrs)
    try {
      void tree.write(`/sys/bus/mdev/devices/${uuid}/${path}`, value);
    } catch (error) {
      void registry.remove(uuid);
      throw named(error, ` attribute ${path}`);
    }
  return instance;
}

/** @throws DefinitionError */
function parsed<T>(shape: z.ZodType<T>, value: unknown, where: string): T {
  try {
    const { data, error } = shape.safeParse(value);
    if (error) throw new DefinitionError(`${where}: ${problemsOf(error)}; ${ACCEPTED}`);
    return data;
  } catch (error) {
    // The parser's list of problems overflows the stack.
    if (error instanceof RangeError) throw new DefinitionError(`${where}: too many problems; ${ACCEPTED}`);
    throw error;
  }
}

function fromDirectory(at: string): Definition[] {
  const files = entriesOf(at).flatMap((entry) => {
    const path = join(at, entry.name);
    if (entry.name !== SCRIPTS && entry.isDirectory())
      return entriesOf(path)
        .map(({ name }) => join(path, name))
        .filter((file) => isUuid(basename(file)));
    return isUuid(entry.name) ? [path] : [];
  });
  if (files.length > DEFINITIONS_LIMIT)
    throw new DefinitionError(`${at}: ${files.length} definitions; accepted: up to ${DEFINITIONS_LIMIT}`);
  let bytes = 0;
  return files.flatMap((file) => {
    bytes += statSync(file).size;
    if (bytes > DIRECTORY_BYTES)
      throw new DefinitionError(`${at}: more than ${DIRECTORY_BYTES} bytes of definitions`);
    return fromFile(file);
  });
}

/** Returns a directory's entries in order of name. @throws DefinitionError beyond DEFINITIONS_LIMIT */
function entriesOf(at: string): Dirent[] {
  const entries: Dirent[] = [];
  const directory = opendirSync(at);
  try {
    for (let entry = directory.readSync(); entry; entry = directory.readSync()) {
      if (entries.length >= DEFINITIONS_LIMIT)
        throw new DefinitionError(`${at}: too many entries; accepted: up to ${DEFINITIONS_LIMIT}`);
      entries.push(entry);
    }
  } finally {
    directory.closeSync();
  }
  return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
}

function fromFile(at: string): Definition[] {
  const value = jsonOf(at);
  if (Array.isArray(value)) return definitionsOf(value, at);
  if (typeof value === 'object' && value !== null && 'mdev_type' in value)
    return [definition(basename(dirname(at)), basename(at), parsed(inner, value, at), at)];
  return definitionsOf(value, at);
}

/** @throws DefinitionError, the file system's own errors */
function jsonOf(at: string): unknown {
  try {
    return parseBoundedJson(readBounded(at, DEFINITION_BYTES), VALUES_LIMIT);
  } catch (error) {
    if (error instanceof FileRefusedError || error instanceof RangeError)
      throw new DefinitionError(`${at}: ${error.message}`);
    if (!(error instanceof SyntaxError)) throw error;
    throw new DefinitionError(`${at}: not JSON: ${error.message.replaceAll(/\p{C}+/gu, ' ')}`);
  }
}

function definition(parent: string, uuid: string, content: z.infer<typeof inner>, where: string): Definition {
  if (!isUuid(uuid))
    throw new DefinitionError(`${where}: ${JSON.stringify(uuid)} of ${parent} is not a UUID`);
  const attrs = content.attrs.flatMap((byPath) => Object.entries(byPath));
  const outside = attrs.find(([path]) => path.startsWith('/') || path.split('/').includes('..'));
  if (outside)
    throw new DefinitionError(`${where}: attribute ${outside[0]} is outside of ${uuid}'s directory`);
  return { parent, uuid: parseUuid(uuid), type: content.mdev_type, attrs };
}

function isUuid(text: string): boolean {
  try {
    return text.length === UUID_CHARACTERS && parseUuid(text) !== '';
  } catch {
    return false;
  }
}

function limited(found: Definition[], where: string): Definition[] {
  if (found.length > DEFINITIONS_LIMIT)
    throw new DefinitionError(`${where}: ${found.length} definitions; accepted: up to ${DEFINITIONS_LIMIT}`);
  return found;
}

/** Maximum count of problems shown per value. */
const PROBLEMS_SHOWN = 3;

const problemsOf = (error: z.ZodError): string =>
  error.issues
    .slice(0, PROBLEMS_SHOWN)
    .map(({ path, message }) => (path.length > 0 ? `${path.join('.')}: ${message}` : message))
    .join('; ');
