/**
 * Files of a tree on disk that a user may change at any time. No operation leaves the tree through a link that the user
 * has put there, writes through a second name of a file, or waits for a FIFO.
 *
 * Each directory on the way is opened without following links, and the entry is then named through the descriptor of its
 * directory (`/proc/self/fd`), because Node has no openat.
 */
import {
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants;
const DESCRIPTORS = '/proc/self/fd';
/** Name of a new file until it replaces the old one. */
const NEW_FILE = '.mdevsim-sysfs-new';

export class TreeFiles {
  readonly #path: string;
  readonly #root: number;
  /** The directory opened last. Entries are written directory by directory. */
  #last: { readonly path: string; readonly fd: number } | undefined;

  /** Opens a directory, or creates it. The path itself may lead through links. */
  constructor(path: string) {
    mkdirSync(path, { recursive: true });
    this.#path = realpathSync(path);
    this.#root = openSync(this.#path, O_RDONLY | O_DIRECTORY);
  }

  close(): void {
    this.forget();
    closeSync(this.#root);
  }

  /** Closes the directory opened last, which a user may move in the meantime. */
  forget(): void {
    if (this.#last) closeSync(this.#last.fd);
    this.#last = undefined;
  }

  /** Returns whether there is an entry, of any type. */
  exists(path: string): boolean {
    return lstatSync(this.#at(path), { throwIfNoEntry: false }) !== undefined;
  }

  /** Creates a directory. Anything else of its name is removed. */
  makeDirectory(path: string, mode = 0o777): void {
    const at = this.#at(path);
    const stat = lstatSync(at, { throwIfNoEntry: false });
    if (stat?.isDirectory()) return;
    if (stat) rmSync(at);
    mkdirSync(at, { mode });
  }

  /** Creates or replaces a link. */
  makeLink(path: string, target: string): void {
    const at = this.#at(path);
    rmSync(at, { recursive: true, force: true });
    symlinkSync(target, at);
  }

  /** Removes an entry with all that is below it. Links are removed, not followed. */
  remove(path: string): void {
    this.forget();
    rmSync(this.#at(path), { recursive: true, force: true });
  }

  /** Replaces a file as one step. Anything else of its name is removed. */
  replace(path: string, content: string, mode: number): void {
    const [at, fresh] = [this.#at(path), this.#at(join(path, '..', NEW_FILE))];
    rmSync(fresh, { recursive: true, force: true });
    const file = openSync(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    fill(file, content, mode);
    if (lstatSync(at, { throwIfNoEntry: false })?.isDirectory()) rmSync(at, { recursive: true });
    renameSync(fresh, at);
  }

  /** Overwrites a file, which keeps its inode for users that watch it. A file that is not the tree's own is replaced. */
  overwrite(path: string, content: string, mode: number): void {
    const file = this.#openOwn(path, O_WRONLY);
    if (file === undefined) this.replace(path, content, mode);
    else fill(file, content, mode);
  }

  /** Returns the first bytes of a file; undefined if it does not exist or is not the tree's own file. */
  read(path: string, bytes: number): string | undefined {
    const file = this.#openOwn(path, O_RDONLY);
    if (file === undefined) return undefined;
    try {
      const buffer = Buffer.alloc(bytes);
      return buffer.toString('utf8', 0, readSync(file, buffer));
    } finally {
      closeSync(file);
    }
  }

  /** Creates a file with this content as one step, by a second name. @returns false if the name is in use */
  claim(path: string, content: string): boolean {
    const own = `${path}-${process.pid}`;
    this.replace(own, content, 0o600);
    try {
      linkSync(this.#at(own), this.#at(path));
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      return false;
    } finally {
      this.remove(own);
    }
  }

  /** Opens a regular file that has no other name; returns undefined for anything else. */
  #openOwn(path: string, flags: number): number | undefined {
    const at = this.#at(path);
    if (!lstatSync(at, { throwIfNoEntry: false })?.isFile()) return undefined;
    let file: number;
    try {
      file = openSync(at, flags | O_NOFOLLOW | O_NONBLOCK);
    } catch (error) {
      if (REPLACED.has((error as NodeJS.ErrnoException).code ?? '')) return undefined;
      throw error;
    }
    const stat = fstatSync(file);
    if (stat.isFile() && stat.nlink === 1) return file;
    closeSync(file);
    return undefined;
  }

  /** Returns a path of an entry below its opened directory. @throws the error of `open`: ENOENT, ENOTDIR, ELOOP */
  #at(path: string): string {
    const cut = path.lastIndexOf('/');
    return `${this.#directory(path.slice(0, cut))}/${path.slice(cut + 1)}`;
  }

  #directory(path: string): string {
    if (!existsSync(DESCRIPTORS)) return this.#checkedDirectory(path);
    if (this.#last?.path !== path) this.#open(path);
    return `${DESCRIPTORS}/${this.#last?.fd ?? this.#root}`;
  }

  #open(path: string): void {
    this.forget();
    let fd = this.#root;
    for (const name of path.split('/').filter((part) => part !== '')) {
      const above = fd;
      try {
        fd = openSync(`${DESCRIPTORS}/${above}/${name}`, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      } finally {
        if (above !== this.#root) closeSync(above);
      }
    }
    this.#last = fd === this.#root ? undefined : { path, fd };
  }

  /** Does the same without descriptors: a link put there between the check and the use is not noticed. */
  #checkedDirectory(path: string): string {
    const at = join(this.#path, path);
    if (realpathSync(at) === at) return at;
    throw Object.assign(new Error(`ENOTDIR: a link leads out of the tree, open '${at}'`), {
      code: 'ENOTDIR',
    });
  }
}

/** Errors of `open` for an entry that a user has removed or replaced. */
const REPLACED: ReadonlySet<string> = new Set(['ENOENT', 'ELOOP', 'ENXIO', 'EISDIR', 'EACCES']);

/** Writes a file's whole content and closes it. */
function fill(file: number, content: string, mode: number): void {
  try {
    ftruncateSync(file, 0);
    const bytes = Buffer.from(content);
    for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done, bytes.length - done, done);
    fchmodSync(file, mode);
  } finally {
    closeSync(file);
  }
}
