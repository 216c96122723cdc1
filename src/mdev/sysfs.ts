/**
 * The sysfs tree of a registry, with the same paths, modes, contents and errors as Linux.
 */
import { MdevError } from './errors.ts';
import type { MdevRegistry } from './registry.ts';
import { sysfsRoot } from './sysfs-layout.ts';
import {
  DIR_MODE,
  type DirNode,
  entriesOf,
  LINK_MODE,
  relativeTarget,
  type SysfsNode,
  segments,
  walk,
} from './sysfs-node.ts';

/** Bytes that one write passes to an attribute: a page. The rest is ignored. */
export const WRITE_BYTES = 4096;

/** One path of the tree. */
export type SysfsEntry =
  | { readonly path: string; readonly type: 'dir'; readonly mode: number }
  | { readonly path: string; readonly type: 'link'; readonly mode: number; readonly target: string }
  | {
      readonly path: string;
      readonly type: 'file';
      readonly mode: number;
      /** Content; undefined if the file cannot be read. */
      readonly content: string | undefined;
      /** Error of a read that the mode allows. */
      readonly readErrno?: string;
    };

export class SysfsTree {
  readonly #root: DirNode;

  constructor(registry: MdevRegistry) {
    this.#root = sysfsRoot(registry);
  }

  /** Reads a file. @throws MdevError ENOENT, ENOTDIR, EISDIR, EACCES for a mode without read, or the attribute's error */
  read(path: string): string {
    const node = walk(this.#root, path);
    if (node.kind === 'dir') throw new MdevError('EISDIR', `${path} is a directory`, 'open');
    if (!node.read) throw new MdevError('EACCES', `${path} has mode 0${node.mode.toString(8)}`, 'open');
    return node.read();
  }

  /**
   * Writes the whole text like one `write` by root; an empty text does nothing. Returns a promise if the kernel's write
   * would block: `remove` of an open device blocks until the last close.
   *
   * @throws MdevError ENOENT, ENOTDIR, EISDIR, EACCES for a mode without write or for a new name in an existing directory
   *   (sysfs creates no files), or the attribute's error
   */
  write(path: string, text: string): Promise<void> | undefined {
    const node = this.#openToWrite(path);
    if (text === '') return undefined;
    return node(Buffer.from(text).subarray(0, WRITE_BYTES).toString());
  }

  /** Returns the names in a directory, sorted. @throws MdevError ENOENT, ENOTDIR */
  list(path: string): string[] {
    const node = walk(this.#root, path);
    if (node.kind === 'file') throw new MdevError('ENOTDIR', `${path} is a file`, 'open');
    return [...node.names()].sort();
  }

  /** Returns all paths from /sys down, a directory before its entries. Links are not followed. */
  *entries(): Iterable<SysfsEntry> {
    yield* entriesBelow('', this.#root);
  }

  #openToWrite(path: string): (text: string) => Promise<void> | undefined {
    const node = walk(this.#root, this.#existing(path));
    if (node.kind === 'dir') throw new MdevError('EISDIR', `${path} is a directory`, 'open');
    if (!node.write) throw new MdevError('EACCES', `${path} has mode 0${node.mode.toString(8)}`, 'open');
    return node.write;
  }

  /** Returns `path`. @throws MdevError EACCES if only its last part is missing */
  #existing(path: string): string {
    const parts = segments(path);
    const dir = parts.length > 0 ? walk(this.#root, `/${parts.slice(0, -1).join('/')}`) : this.#root;
    const name = parts.at(-1) ?? '';
    if (dir.kind === 'dir' && name !== '..' && name !== '' && !dir.child(name))
      throw new MdevError('EACCES', `sysfs creates no files: ${path}`, 'open');
    return path;
  }
}

function* entriesBelow(base: string, dir: DirNode): Generator<SysfsEntry> {
  for (const [name, node] of entriesOf(dir)) {
    const path = `${base}/${name}`;
    yield entryOf(path, node);
    if (node.kind === 'dir') yield* entriesBelow(path, node);
  }
}

function entryOf(path: string, node: SysfsNode): SysfsEntry {
  if (node.kind === 'dir') return { path, type: 'dir', mode: DIR_MODE };
  if (node.kind === 'link')
    return { path, type: 'link', mode: LINK_MODE, target: relativeTarget(path, node.to) };
  const { mode } = node;
  try {
    return { path, type: 'file', mode, content: node.read?.() };
  } catch (error) {
    if (!(error instanceof MdevError)) throw error;
    return { path, type: 'file', mode, content: undefined, readErrno: error.errno };
  }
}
