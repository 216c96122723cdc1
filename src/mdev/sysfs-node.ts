/**
 * Directories, files and links that are computed when they are looked at, and the walk of a path through them.
 */
import { MdevError } from './errors.ts';

export const DIR_MODE = 0o755;
export const LINK_MODE = 0o777;
export const READ_ONLY = 0o444;
export const WRITE_ONLY = 0o200;
export const READ_WRITE = 0o644;

/** Links followed by one walk before it is ELOOP (Linux's MAXSYMLINKS). */
export const LINKS_LIMIT = 40;

export interface DirNode {
  readonly kind: 'dir';
  /** In any order, each once. */
  names(): Iterable<string>;
  child(name: string): SysfsNode | undefined;
  /** All at once, where one by one costs a search each. */
  all?(): ReadonlyMap<string, SysfsNode>;
}

/** Every entry of a directory, sorted by name. */
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
  /** Left out: the mode forbids it. @throws MdevError */
  read?(): string;
  /** Left out: the mode forbids it. The promise is a write that blocks. @throws MdevError */
  write?(text: string): Promise<void> | undefined;
}

export interface LinkNode {
  readonly kind: 'link';
  /** An absolute path; what `readlink` says is relative to the link's own directory. */
  readonly to: string;
}

export type SysfsNode = DirNode | FileNode | LinkNode;

/** A directory of fixed entries. */
export const fixedDir = (entries: Readonly<Record<string, SysfsNode>>): DirNode => ({
  kind: 'dir',
  names: () => Object.keys(entries),
  child: (name) => (Object.hasOwn(entries, name) ? entries[name] : undefined),
});

/** A directory whose entries come and go. `names` gives each name once. */
export const liveDir = (
  names: () => Iterable<string>,
  child: (name: string) => SysfsNode | undefined,
): DirNode => ({ kind: 'dir', names, child });

/** Several directories in one; an earlier one's entry hides a later one's. */
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

/** A directory whose entries are found all at once. */
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

/** The target of a link at `from` (its own path) to `to`, as sysfs writes it: relative. */
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
 * The node that an absolute path leads to, links followed.
 *
 * @throws MdevError ENOENT, ENOTDIR, ELOOP, all at the stage `open`
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
    if (!node) throw new MdevError('ENOENT', `no ${name} on the way to ${path}`, 'open');
    if (node.kind === 'dir') above.push(node);
    else if (node.kind === 'link') {
      if (++links > LINKS_LIMIT)
        throw new MdevError('ELOOP', `${path} goes over ${LINKS_LIMIT} links`, 'open');
      above.length = 1;
      todo.push(...segments(node.to).reverse());
    } else if (todo.length > 0) throw new MdevError('ENOTDIR', `${name} in ${path} is a file`, 'open');
    else return node;
  }
  return above.at(-1) as DirNode;
}
