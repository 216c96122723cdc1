/**
 * The sysfs tree of a run on disk, for `--sysfs`.
 */
import type { MdevRegistry } from '../mdev/registry.ts';
import { SysfsTree } from '../mdev/sysfs.ts';
import { type DiskWrite, SysfsDisk } from '../mdev/sysfs-disk.ts';
import { SysfsServer } from '../mdev/sysfs-server.ts';

/** Directory and callbacks of the tree. */
export interface RunSysfsOptions {
  /** Directory to write the tree to; empty for none. */
  readonly sysfs: string;
  /** Called when the tree is written, with its count of paths. */
  onSysfs(paths: number): void;
  /** Called for every write to the tree. */
  onSysfsWrite(write: DiskWrite): void;
  /** Called when the tree can no longer be kept up to date; the run continues. */
  onSysfsLost(error: Error): void;
}

/**
 * Writes the tree and keeps it up to date until the returned function is called. The tree then stays.
 *
 * @throws SysfsDiskError, the file system's own errors
 */
export function serveSysfs(options: RunSysfsOptions, registry: MdevRegistry): () => Promise<void> {
  if (options.sysfs === '') return async () => {};
  const disk = new SysfsDisk(options.sysfs, new SysfsTree(registry));
  options.onSysfs(disk.entryCount);
  const server = new SysfsServer(disk, options.onSysfsWrite);
  const ended = server.run().catch(options.onSysfsLost);
  return () => {
    server.stop();
    return ended;
  };
}
