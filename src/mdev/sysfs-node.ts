/**
 * Directories, files and links that are computed on access, and the walk of a path through them.
 */
import { MdevError } from './errors.ts';

export const DIR_MODE = 0o755;
export const LINK_MODE = 0o777;
const READ_ONLY = 0o444;
const WRITE_ONLY = 0o200;
const READ_WRITE = 0o644;

/** Maximum count of links that one walk follows; beyond it, ELOOP (Linux's MAXSYMLINKS). */
export const LINKS_LIMIT = 40;

export interface DirNode {
  readonly kind: 'dir';
  /** Returns each name once, in any order. */
  names(): Iterable<string>;
  child(name: string): SysfsNode | undefined;
  /** Returns all entries; present where a search for each single entry would cost more. */
  all?(): ReadonlyMap<string, SysfsNode>;
}

/** Returns all entries of a directory, sorted by name. */
export const entriesOf = (dir: DirNode): (readonly [name: string, node: SysfsNode])[] =>
  [...(dir.all?.() ?? oneByOne(dir))].sort(([a], [b]) => (a < b ? -1 : 1));

function* oneByOne(dir: DirNode): Generator<readonly [string, SysfsNode]> {
  for (const name of dir.names()) {
    const node = dir.child(name);
    if (node) yield [name, node];
  }
}

export interface FileNode {
  readonly kind: 'file';
  readonly mode: number;
  /** Left out if the mode forbids it. @throws MdevError */
  read?(): string;
  /** Left out if the mode forbids it. Returns a promise if the kernel's write would block. @throws MdevError */
  write?(text: string): Promise<void> | undefined;
}

interface LinkNode {
  readonly kind: 'link';
  /** Absolute path of the target. `readlink` returns it relative to the link's directory. */
  readonly to: string;
}

export type SysfsNode = DirNode | FileNode | LinkNode;

/** Returns a directory with fixed entries. */
export const fixedDir = (entries: Readonly<Record<string, SysfsNode>>): DirNode => ({
  kind: 'dir',
  names: () => Object.keys(entries),
  child: (name) => (Object.hasOwn(entries, name) ? entries[name] : undefined),
});

/** Returns a directory with changing entries. `names` returns each name once. */
export const liveDir = (
  names: () => Iterable<string>,
  child: (name: string) => SysfsNode | undefined,
): DirNode => ({ kind: 'dir', names, child });

/** Returns the union of directories. An entry hides those of the same name in later directories. */
export const unionDir = (...dirs: readonly DirNode[]): DirNode => ({
  kind: 'dir',
  names: () => new Set(dirs.flatMap((dir) => [...dir.names()])),
  child: (name) => {
    for (const dir of dirs) {
      const node = dir.child(name);
      if (node) return node;
    }
    return undefined;
  },
  all: () => new Map(dirs.toReversed().flatMap((dir) => [...(dir.all?.() ?? oneByOne(dir))])),
});

/** Returns a directory whose entries are computed all at once. */
export const mappedDir = (all: () => ReadonlyMap<string, SysfsNode>): DirNode => ({
  kind: 'dir',
  names: () => all().keys(),
  child: (name) => all().get(name),
  all,
});

export const readOnly = (read: () => string): FileNode => ({ kind: 'file', mode: READ_ONLY, read });
export const writeOnly = (write: NonNullable<FileNode['write']>): FileNode => ({
  kind: 'file',
  mode: WRITE_ONLY,
  write,
});
export const readWrite = (read: () => string, write: NonNullable<FileNode['write']>): FileNode => ({
  kind: 'file',
  mode: READ_WRITE,
  read,
  write,
});
export const link = (to: string): LinkNode => ({ kind: 'link', to });

/** Returns the relative target of a link at the path `from` to `to`, as in sysfs. */
export function relativeTarget(from: string, to: string): string {
  const source = segments(from).slice(0, -1);
  const target = segments(to);
  let common = 0;
  while (common < source.length && common < target.length - 1 && source[common] === target[common]) common++;
  return [...source.slice(common).map(() => '..'), ...target.slice(common)].join('/');
}

export const segments = (path: string): string[] =>
  path.split('/').filter((segment) => segment !== '' && segment !== '.');

/**
 * Returns the node at an absolute path; follows links.
 *
 * @throws MdevError ENOENT, ENOTDIR, ELOOP, all with the stage `open`
 */
export function walk(root: DirNode, path: string): DirNode | FileNode {
  if (!path.startsWith('/')) throw new MdevError('ENOENT', `${path} is not absolute`, 'open');
  const todo = segments(path).reverse();
  const above: DirNode[] = [root];
  let links = 0;
  for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
    const dir = above.at(-1) as DirNode;
    if (name === '..') {
      if (above.length > 1) above.pop();
      continue;
    }
    const node = dir.child(name);
    if (!node) throw new MdevError('ENOENT', `${path}: there is no ${name}`, 'open');
    if (node.kind === 'dir') above.push(node);
    else if (node.kind === 'link') {
      if (++links > LINKS_LIMIT)
        throw new MdevError('ELOOP', `${path} has more than ${LINKS_LIMIT} links`, 'open');
      above.length = 1;
      todo.push(...segments(node.to).reverse());
    } else if (todo.length > 0) throw new MdevError('ENOTDIR', `${name} in ${path} is a file`, 'open');
    else return node;
  }
  return above.at(-1) as DirNode;
}
