/**
 * A sysfs tree on disk, as real directories, files and links.
 *
 * A plain file cannot refuse a write and does not report one, so the files are polled. Content that this process has not
 * written counts as a write by a user: it is executed, and the file then gets its true content again.
 */
import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import { wallMs } from '#host';
import { MdevError } from './errors.ts';
import type { SysfsEntry, SysfsTree } from './sysfs.ts';
import { TreeFiles } from './sysfs-files.ts';
import { lockedBy, unlock } from './sysfs-lock.ts';

/** Maximum count of paths in a tree. */
const DISK_ENTRIES_LIMIT = 200_000;
/** Bytes used of a write, as in sysfs. */
const WRITE_BYTES = 4096;
/** Marks a directory whose `sys` was written by mdevsim and may be replaced. */
const MARKER = '/.mdevsim-sysfs';

/** Directories besides `sys` that mdevctl 1.3 and newer need below MDEVCTL_ENV_ROOT. */
const MDEVCTL_DIRS: readonly string[] = [
  'usr/lib/mdevctl/scripts.d/callouts',
  'usr/lib/mdevctl/scripts.d/notifiers',
  'etc/mdevctl.d/scripts.d/callouts',
  'etc/mdevctl.d/scripts.d/notifiers',
];

/** Thrown for a directory that cannot be used. */
export class SysfsDiskError extends Error {
  override name = 'SysfsDiskError';
}

/** A user's write and its outcome. */
export interface DiskWrite {
  readonly path: string;
  readonly text: string;
  /** Error of the kernel's write; undefined if it was accepted. */
  readonly error: MdevError | undefined;
  /** True if the kernel's write would still block. */
  readonly blocks: boolean;
}

type FileEntry = Extract<SysfsEntry, { type: 'file' }>;

export class SysfsDisk {
  readonly #root: string;
  readonly #files: TreeFiles;
  readonly #tree: SysfsTree;
  /** Entries on disk, as last written. */
  #written = new Map<string, SysfsEntry>();
  /** Writable file → its stamp when it was last found unchanged. */
  readonly #stamps = new Map<string, string>();
  /** Files that were empty at the last poll. */
  readonly #emptied = new Set<string>();
  /** True if a blocked write has ended since the last update. */
  #stale = false;

  /**
   * Writes the tree to `root`/sys and locks the folder until `close`.
   *
   * @throws SysfsDiskError if `root`/sys was not written by mdevsim, another run uses the folder, or the tree exceeds
   *   DISK_ENTRIES_LIMIT; the file system's own errors
   */
  constructor(root: string, tree: SysfsTree) {
    this.#root = root;
    this.#tree = tree;
    this.#files = new TreeFiles(root);
    try {
      if (this.#files.exists('/sys') && !this.#files.exists(MARKER))
        throw new SysfsDiskError(`${join(root, 'sys')} exists and was not written by mdevsim`);
      const holder = lockedBy(this.#files);
      if (holder !== undefined)
        throw new SysfsDiskError(`${root} is in use by another run of mdevsim (process ${holder})`);
    } catch (error) {
      this.#files.close();
      throw error;
    }
    try {
      this.#files.overwrite(MARKER, '', 0o644);
      this.#files.remove('/sys');
      for (const dir of MDEVCTL_DIRS) this.#makeDirectories(dir);
      this.sync();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Unlocks the folder. The tree stays. */
  close(): void {
    unlock(this.#files);
    this.#files.close();
  }

  get entryCount(): number {
    return this.#written.size;
  }

  /** Polls all writable files, executes what was written, and updates the disk. */
  poll(): DiskWrite[] {
    const done: DiskWrite[] = [];
    this.#files.forget();
    for (const [path, seen] of [...this.#stamps]) {
      const now = stampOf(join(this.#root, path));
      if (!now || (now.stamp === seen && now.settled && !this.#emptied.has(path))) continue;
      const text = this.#textOf(path, seen === now.stamp);
      if (text !== undefined) done.push(this.#write(path, text));
      else if (this.#stamps.get(path) === seen) this.#stamps.set(path, now.stamp);
    }
    if (done.length > 0 || this.#stale) this.sync();
    this.#files.forget();
    return done;
  }

  /** Updates the disk from the tree. @throws SysfsDiskError, the file system's own errors */
  sync(): void {
    this.#stale = false;
    const wanted = this.#wanted();
    try {
      this.#change(wanted);
    } catch (error) {
      // A user has deleted or replaced directories of the tree: write the whole tree again.
      if (!DIRECTORY_GONE.has((error as NodeJS.ErrnoException).code ?? '')) throw error;
      this.#files.remove('/sys');
      this.#stamps.clear();
      this.#emptied.clear();
      this.#written = new Map();
      this.#change(wanted);
    }
  }

  /** @throws SysfsDiskError */
  #wanted(): Map<string, SysfsEntry> {
    const wanted = new Map<string, SysfsEntry>();
    for (const entry of this.#tree.entries()) {
      if (wanted.size >= DISK_ENTRIES_LIMIT)
        throw new SysfsDiskError(`the tree has more than ${DISK_ENTRIES_LIMIT} paths`);
      wanted.set(entry.path, entry);
    }
    return wanted;
  }

  #change(wanted: Map<string, SysfsEntry>): void {
    // Links are removed first and created last, so that no link leads to a missing entry.
    const gone = [...this.#written.values()].filter(({ path, type }) => wanted.get(path)?.type !== type);
    for (const entry of gone.sort(byType).reverse()) this.#remove(entry);
    for (const entry of [...wanted.values()].sort(byType))
      if (!same(this.#written.get(entry.path), entry)) this.#put(entry);
    this.#written = wanted;
  }

  /**
   * Returns the text that a user has written, or undefined if the file is unchanged. An empty file may be a write in
   * progress; its content is restored only if it is still empty at the next poll.
   */
  #textOf(path: string, unchanged: boolean): string | undefined {
    const entry = this.#written.get(path);
    if (entry?.type !== 'file') return undefined;
    const text = this.#readFile(path);
    const wasEmptied = this.#emptied.delete(path);
    if (text === undefined) this.#restore(entry);
    if (text === undefined || text === (entry.content ?? '')) return undefined;
    if (text !== '') return text;
    if (wasEmptied && unchanged) this.#restore(entry);
    else this.#emptied.add(path);
    return undefined;
  }

  #write(path: string, text: string): DiskWrite {
    // Whatever the outcome, restore the file; sync updates it if its content has changed.
    const entry = this.#written.get(path);
    if (entry?.type === 'file') this.#restore(entry);
    try {
      const waits = this.#tree.write(path, text);
      void waits?.then(() => {
        this.#stale = true;
      });
      return { path, text, error: undefined, blocks: waits !== undefined };
    } catch (error) {
      if (!(error instanceof MdevError)) throw error;
      return { path, text, error, blocks: false };
    }
  }

  #put(entry: SysfsEntry): void {
    if (entry.type === 'dir') this.#files.makeDirectory(entry.path, entry.mode);
    else if (entry.type === 'file') this.#putFile(entry);
    else this.#files.makeLink(entry.path, entry.target);
  }

  /** Creates a directory of mdevctl and those above it. @throws SysfsDiskError if a link is in the way */
  #makeDirectories(dir: string): void {
    const names = dir.split('/');
    for (const index of names.keys()) {
      const path = `/${names.slice(0, index + 1).join('/')}`;
      const at = join(this.#root, path);
      if (this.#files.exists(path) && !lstatSync(at).isDirectory())
        throw new SysfsDiskError(`${at} is not a directory; accepted: a directory, not a link to one`);
      this.#files.makeDirectory(path);
    }
  }

  /** Returns what a user has written; undefined if the file is gone or is no file of the tree any more. */
  #readFile(path: string): string | undefined {
    try {
      return this.#files.read(path, WRITE_BYTES);
    } catch (error) {
      if (!DIRECTORY_GONE.has((error as NodeJS.ErrnoException).code ?? '')) throw error;
      return undefined;
    }
  }

  /** Writes a file again; if its directory is gone, the whole tree at the end of the poll. */
  #restore(entry: FileEntry): void {
    try {
      this.#putFile(entry);
    } catch (error) {
      if (!DIRECTORY_GONE.has((error as NodeJS.ErrnoException).code ?? '')) throw error;
      this.#written.clear();
      this.#stale = true;
    }
  }

  /** Replaces a read-only file atomically. A writable file keeps its inode, for users that watch it. */
  #putFile(entry: FileEntry): void {
    const [content, mode] = [entry.content ?? '', diskMode(entry.mode)];
    if ((entry.mode & 0o222) === 0) this.#files.replace(entry.path, content, mode);
    else {
      this.#files.overwrite(entry.path, content, mode);
      this.#stamps.set(entry.path, stampOf(join(this.#root, entry.path))?.stamp ?? '');
    }
  }

  #remove({ path }: SysfsEntry): void {
    this.#stamps.delete(path);
    this.#emptied.delete(path);
    this.#files.remove(path);
  }
}

/** Errors of the way to an entry if a user has deleted a directory, or replaced it by a link or a file. */
const DIRECTORY_GONE: ReadonlySet<string> = new Set(['ENOENT', 'ENOTDIR', 'ELOOP']);

const TYPE_ORDER: Readonly<Record<SysfsEntry['type'], number>> = { dir: 0, file: 1, link: 2 };

/** Compares by type (directories, files, links), then by path, so that a directory precedes its entries. */
const byType = (a: SysfsEntry, b: SysfsEntry): number =>
  TYPE_ORDER[a.type] - TYPE_ORDER[b.type] || (a.path < b.path ? -1 : 1);

/** Returns the mode on disk. Unless it is root, this process needs the owner's read bit to see writes to `create`. */
const diskMode = (mode: number): number => (process.geteuid?.() === 0 ? mode : mode | 0o600);

function same(a: SysfsEntry | undefined, b: SysfsEntry): boolean {
  if (a?.type === 'link' && b.type === 'link') return a.target === b.target;
  if (a?.type === 'file' && b.type === 'file') return a.mode === b.mode && a.content === b.content;
  return a?.type === b.type;
}

/** Coarsest time stamps of a file system. Of two writes this close, the second may not change the stamp. */
const STAMP_GRAIN_MS = 50;

/** Returns a stamp that changes when the file is written. `settled` is true if any later write would change it again. */
function stampOf(path: string): { readonly stamp: string; readonly settled: boolean } | undefined {
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  if (!stat) return undefined;
  return {
    stamp: `${stat.mtimeNs} ${stat.size} ${stat.dev} ${stat.ino} ${stat.mode} ${stat.nlink}`,
    settled: Number(stat.mtimeMs) < wallMs() - STAMP_GRAIN_MS,
  };
}
