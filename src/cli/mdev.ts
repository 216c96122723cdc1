/**
 * `mdevsim types`, `list` and `sysfs`: the mdev registry in the formats of mdevctl and sysfs.
 */
import { resolve } from 'node:path';
import { after } from '#host';
import { defaultHost } from '../coordinator/default-host.ts';
import {
  diskReader,
  listJson,
  listText,
  type SysfsReader,
  typesJson,
  typesText,
} from '../mdev/mdevctl-json.ts';
import { SysfsTree } from '../mdev/sysfs.ts';
import { SysfsDisk } from '../mdev/sysfs-disk.ts';
import { SysfsServer, writeText } from '../mdev/sysfs-server.ts';
import { ExitCode } from '../report/summary.ts';

interface DumpOptions {
  readonly dumpjson?: boolean;
  /** Directory of a tree that `mdevsim sysfs` keeps; by default, the default host without instances. */
  readonly root?: string;
}

const readerOf = (root: string | undefined): SysfsReader =>
  root === undefined ? new SysfsTree(defaultHost()) : diskReader(root);

/** Prints a host's types like `mdevctl types`. @throws the file system's own errors */
export function typesCommand({ dumpjson, root }: DumpOptions): void {
  const tree = readerOf(root);
  process.stdout.write(dumpjson ? jsonText(typesJson(tree)) : typesText(tree));
}

/** Prints a host's running instances like `mdevctl list`. @throws the file system's own errors */
export function listCommand({ dumpjson, root }: DumpOptions): void {
  const tree = readerOf(root);
  process.stdout.write(dumpjson ? jsonText(listJson(tree)) : listText(tree));
}

const jsonText = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

interface SysfsOptions {
  /** Write the tree and exit. */
  readonly once?: boolean;
  /** Exit after this many milliseconds; by default at SIGINT or SIGTERM. */
  readonly for?: number;
}

/**
 * Writes the default host's tree below `dir` and executes writes to it. The tree stays when the command ends.
 *
 * @throws SysfsDiskError, the file system's own errors
 */
export async function sysfsCommand(dir: string, options: SysfsOptions): Promise<ExitCode> {
  const disk = new SysfsDisk(dir, new SysfsTree(defaultHost()));
  process.stdout.write(`${disk.entryCount} paths below ${resolve(dir, 'sys')}\n`);
  if (options.once) {
    disk.close();
    return ExitCode.ok;
  }
  process.stdout.write(`MDEVCTL_ENV_ROOT=${resolve(dir)} mdevctl types\n`);
  await serve(disk, options.for);
  return ExitCode.ok;
}

/** Serves until a signal or the time limit. @throws SysfsDiskError, the file system's own errors */
async function serve(disk: SysfsDisk, limitMs: number | undefined): Promise<void> {
  const server = new SysfsServer(disk, (write) => process.stderr.write(writeText(write)));
  const stop = () => server.stop();
  for (const signal of SIGNALS) process.on(signal, stop);
  const cancel = limitMs === undefined ? () => {} : after(limitMs, stop);
  await server.run();
  cancel();
  for (const signal of SIGNALS) process.off(signal, stop);
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
