/**
 * A sysfs tree as real directories, files and links below a directory, kept true while writes to it are acted on.
 *
 * A plain file cannot refuse a write and does not tell of one: files are looked at, and a content that is not ours is
 * taken as a write, done, and replaced by what is true.
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

/** Paths below one directory. */
export const DISK_ENTRIES_LIMIT = 200_000;
/** Bytes taken of a write, as of one to the real thing. */
const TAKEN_BYTES = 4096;
/** Says that a directory's `sys` is ours to replace. */
const MARKER = '.mdevsim-sysfs';

/** What mdevctl 1.3 and newer look for below MDEVCTL_ENV_ROOT, besides sys. */
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

/** A write that was found and done. */
export interface DiskWrite {
  readonly path: string;
  readonly text: string;
  /** What the kernel's write would have returned -1 with; undefined if it was accepted. */
  readonly error: MdevError | undefined;
  /** True if the kernel's write would still wait. */
  readonly blocks: boolean;
}

type FileEntry = Extract<SysfsEntry, { type: 'file' }>;

export class SysfsDisk {
  readonly #root: string;
  readonly #tree: SysfsTree;
  /** What is on disk, as we wrote it. */
  #written = new Map<string, SysfsEntry>();
  /** Of each file that can be written: its stamp when it was last seen to hold what we wrote. */
  readonly #stamps = new Map<string, string>();
  /** Files that were found empty at the last look. */
  readonly #emptied = new Set<string>();
  /** A write that blocked has come to its end. */
  #stale = false;

  /**
   * Writes the tree to `root`/sys.
   *
   * @throws SysfsDiskError if there is a `root`/sys that is not ours, or the tree is above DISK_ENTRIES_LIMIT; the
   *   file system's own errors
   */
  constructor(root: string, tree: SysfsTree) {
    this.#root = root;
    this.#tree = tree;
    const marker = join(root, MARKER);
    if (exists(join(root, 'sys')) && !exists(marker))
      throw new SysfsDiskError(`${join(root, 'sys')} is there and was not written by mdevsim`);
    mkdirSync(root, { recursive: true });
    writeFileSync(marker, '');
    rmSync(join(root, 'sys'), { recursive: true, force: true });
    for (const dir of MDEVCTL_DIRS) mkdirSync(join(root, dir), { recursive: true });
    this.sync();
  }

  get entryCount(): number {
    return this.#written.size;
  }

  /** Looks at every file that can be written; does what was written and makes the disk true. */
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

  /** Makes the disk say what the tree says. @throws SysfsDiskError, the file system's own errors */
  sync(): void {
    this.#stale = false;
    const wanted = this.#wanted();
    try {
      this.#change(wanted);
    } catch (error) {
      // Somebody has deleted directories of ours: all of it is written anew.
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
    // Links go first and come last: who finds one finds all that it leads to.
    const gone = [...this.#written.values()].filter(({ path, type }) => wanted.get(path)?.type !== type);
    for (const entry of gone.sort(byType).reverse()) this.#remove(entry);
    for (const entry of [...wanted.values()].sort(byType))
      if (!same(this.#written.get(entry.path), entry)) this.#put(entry);
    this.#written = wanted;
  }

  /**
   * The text that somebody has written, or undefined if the file holds what we put there. An empty one may be a write
   * that is half done; only when it has stayed so it is put right.
   */
  #textOf(path: string, unchanged: boolean): string | undefined {
    const entry = this.#written.get(path);
    if (entry?.type !== 'file') return undefined;
    const text = firstBytes(this.#at(path), TAKEN_BYTES);
    const wasEmptied = this.#emptied.delete(path);
    if (text === undefined || text === (entry.content ?? '')) return undefined;
    if (text !== '') return text;
    if (wasEmptied && unchanged) this.#putFile(entry);
    else this.#emptied.add(path);
    return undefined;
  }

  #write(path: string, text: string): DiskWrite {
    // Whatever comes of it, the file is ours again: sync puts the truth there.
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

  /** A file that others only read is replaced in one step; one that they write keeps its inode for those who wait on it. */
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

/** Directories, files, links; within a kind by path, so that a directory comes before what is in it. */
const byType = (a: SysfsEntry, b: SysfsEntry): number =>
  TYPE_ORDER[a.type] - TYPE_ORDER[b.type] || (a.path < b.path ? -1 : 1);

/** Who is not root needs the owner's read bit to see what was written to `create`. */
const diskMode = (mode: number): number => (process.geteuid?.() === 0 ? mode : mode | 0o600);

function same(a: SysfsEntry | undefined, b: SysfsEntry): boolean {
  if (a?.type === 'link' && b.type === 'link') return a.target === b.target;
  if (a?.type === 'file' && b.type === 'file') return a.mode === b.mode && a.content === b.content;
  return a?.type === b.type;
}

/** The start of a file, however long it is; undefined if it has gone. */
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

/** Time stamps of a file system are this coarse, at worst: of two writes so close, the second may leave no trace. */
const STAMP_GRAIN_MS = 50;

/** What changes when a file is written; `settled` if a write after it would have changed it again. */
function stampOf(path: string): { readonly stamp: string; readonly settled: boolean } | undefined {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (!stat) return undefined;
  return {
    stamp: `${stat.mtimeNs} ${stat.size} ${stat.ino}`,
    settled: Number(stat.mtimeMs) < wallMs() - STAMP_GRAIN_MS,
  };
}
