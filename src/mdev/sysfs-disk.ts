/**
 * A sysfs tree on disk, as real directories, files and links.
 *
 * A plain file cannot refuse a write and does not report one, so the files are polled. Content that this process has not
 * written counts as a write by a user: it is executed, and the file then gets its true content again.
 */
import {
  chmodSync,
  closeSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { wallMs } from '#host';
import { MdevError } from './errors.ts';
import type { SysfsEntry, SysfsTree } from './sysfs.ts';

/** Maximum count of paths in a tree. */
const DISK_ENTRIES_LIMIT = 200_000;
/** Bytes used of a write, as in sysfs. */
const WRITE_BYTES = 4096;
/** Marks a directory whose `sys` was written by mdevsim and may be replaced. */
const MARKER = '.mdevsim-sysfs';

/** Directories besides `sys` that mdevctl 1.3 and newer need below MDEVCTL_ENV_ROOT. */
const MDEVCTL_DIRS: readonly string[] = [
  'etc/mdevctl.d',
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
   * Writes the tree to `root`/sys.
   *
   * @throws SysfsDiskError if `root`/sys was not written by mdevsim, or the tree exceeds DISK_ENTRIES_LIMIT; the file
   *   system's own errors
   */
  constructor(root: string, tree: SysfsTree) {
    this.#root = root;
    this.#tree = tree;
    const marker = join(root, MARKER);
    if (exists(join(root, 'sys')) && !exists(marker))
      throw new SysfsDiskError(`${join(root, 'sys')} exists and was not written by mdevsim`);
    mkdirSync(root, { recursive: true });
    writeFileSync(marker, '');
    rmSync(join(root, 'sys'), { recursive: true, force: true });
    for (const dir of MDEVCTL_DIRS) mkdirSync(join(root, dir), { recursive: true });
    this.sync();
  }

  get entryCount(): number {
    return this.#written.size;
  }

  /** Polls all writable files, executes what was written, and updates the disk. */
  poll(): DiskWrite[] {
    const done: DiskWrite[] = [];
    for (const [path, seen] of [...this.#stamps]) {
      const now = stampOf(this.#at(path));
      if (!now || (now.stamp === seen && now.settled && !this.#emptied.has(path))) continue;
      const text = this.#textOf(path, seen === now.stamp);
      if (text !== undefined) done.push(this.#write(path, text));
      else if (this.#stamps.get(path) === seen) this.#stamps.set(path, now.stamp);
    }
    if (done.length > 0 || this.#stale) this.sync();
    return done;
  }

  /** Updates the disk from the tree. @throws SysfsDiskError, the file system's own errors */
  sync(): void {
    this.#stale = false;
    const wanted = this.#wanted();
    try {
      this.#change(wanted);
    } catch (error) {
      // A user has deleted directories of the tree: write the whole tree again.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      rmSync(join(this.#root, 'sys'), { recursive: true, force: true });
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
    const text = firstBytes(this.#at(path), WRITE_BYTES);
    const wasEmptied = this.#emptied.delete(path);
    if (text === undefined || text === (entry.content ?? '')) return undefined;
    if (text !== '') return text;
    if (wasEmptied && unchanged) this.#putFile(entry);
    else this.#emptied.add(path);
    return undefined;
  }

  #write(path: string, text: string): DiskWrite {
    // Whatever the outcome, restore the file; sync updates it if its content has changed.
    const entry = this.#written.get(path);
    if (entry?.type === 'file') this.#putFile(entry);
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
    const at = this.#at(entry.path);
    if (entry.type === 'dir') mkdirSync(at, { recursive: true, mode: entry.mode });
    else if (entry.type === 'file') this.#putFile(entry);
    else {
      rmSync(at, { force: true });
      symlinkSync(entry.target, at);
    }
  }

  /** Replaces a read-only file atomically. A writable file keeps its inode, for users that watch it. */
  #putFile(entry: FileEntry): void {
    const at = this.#at(entry.path);
    const writable = (entry.mode & 0o222) !== 0;
    const target = writable ? at : join(dirname(at), `.${MARKER}`);
    writeFileSync(target, entry.content ?? '');
    chmodSync(target, diskMode(entry.mode));
    if (!writable) renameSync(target, at);
    else this.#stamps.set(entry.path, stampOf(at)?.stamp ?? '');
  }

  #remove({ path, type }: SysfsEntry): void {
    this.#stamps.delete(path);
    this.#emptied.delete(path);
    if (type === 'dir') rmSync(this.#at(path), { recursive: true, force: true });
    else if (exists(this.#at(path))) unlinkSync(this.#at(path));
  }

  readonly #at = (path: string): string => join(this.#root, path);
}

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

/** Returns the first bytes of a file; undefined if it does not exist. */
function firstBytes(path: string, bytes: number): string | undefined {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const buffer = Buffer.alloc(bytes);
    return buffer.toString('utf8', 0, readSync(file, buffer));
  } finally {
    closeSync(file);
  }
}

function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** Coarsest time stamps of a file system. Of two writes this close, the second may not change the stamp. */
const STAMP_GRAIN_MS = 50;

/** Returns a stamp that changes when the file is written. `settled` is true if any later write would change it again. */
function stampOf(path: string): { readonly stamp: string; readonly settled: boolean } | undefined {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (!stat) return undefined;
  return {
    stamp: `${stat.mtimeNs} ${stat.size} ${stat.ino}`,
    settled: Number(stat.mtimeMs) < wallMs() - STAMP_GRAIN_MS,
  };
}
