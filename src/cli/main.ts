/**
 * The commands: parse, call, print.
 */
import { Argument, Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { VectorFileError } from '../conformance/vfio/vector-file.ts';
import { CaptureError } from '../conformance/vfio-user/capture.ts';
import { CapacityError } from '../coordinator/workers/capacity.ts';
import { SysfsDiskError } from '../mdev/sysfs-disk.ts';
import { FrameError } from '../proto/codec.ts';
import { ExitCode } from '../report/summary.ts';
import { INJECTIONS } from '../scenario/run.ts';
import {
  HOSTS_LIMIT,
  RAM_MIB_MAX,
  RAM_MIB_MIN,
  ScenarioError,
  VGPUS_LIMIT,
  VIOMMUS,
  VMS_LIMIT,
} from '../scenario/scenario.ts';
import { CONFORMANCE_KINDS, conformanceCommand, QUIRKS } from './conformance.ts';
import { listCommand, sysfsCommand, typesCommand } from './mdev.ts';
import { replayCommand } from './replay.ts';
import { runCommand } from './run.ts';
import { traceCommand } from './trace.ts';

/** An option's parser that names the accepted range. */
const integer = (min: number, max: number) => (text: string) => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max)
    throw new InvalidArgumentError(`accepted: ${min} to ${max}`);
  return value;
};

/** Adds one `name=value` to those before it. */
const parameter = (text: string, before: Readonly<Record<string, unknown>>): Record<string, unknown> => {
  const [, name, value] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
  if (name === undefined || value === undefined) throw new InvalidArgumentError('accepted: name=value');
  try {
    return { ...before, [name]: JSON.parse(value) as unknown };
  } catch {
    return { ...before, [name]: value };
  }
};

function program(): Command {
  const command = new Command('mdevsim')
    .description('Load and concurrency testing of many vGPUs: VFIO mediated devices behind virtual IOMMUs')
    .exitOverride()
    .showHelpAfterError('(mdevsim --help lists the commands)');
  command
    .command('run <scenario>')
    .description('run a scenario file and verify every byte')
    .option('--vms <n>', 'virtual machines', integer(1, VMS_LIMIT))
    .option('--vgpus <n>', 'vGPUs per VM, each in its own worker', integer(1, VGPUS_LIMIT))
    .option('--ram <MiB>', 'RAM of each VM', integer(RAM_MIB_MIN, RAM_MIB_MAX))
    .addOption(new Option('--viommu <word>', 'the vIOMMU in front of every vGPU').choices(VIOMMUS))
    .option(
      '--model <file>',
      'the device model: a file of your own (./my-device.ts), vgpu, edu, mtty or mdpy',
    )
    .option('--processes <n>', 'host processes to divide the VMs over', integer(1, HOSTS_LIMIT), 1)
    .option('--seed <n>', 'seed of everything random (default: drawn, and printed)', integer(0, 2 ** 31 - 1))
    .option('--timeout <ms>', 'time limit of each guest script', integer(1, 86_400_000))
    .option('--device-timeout <ms>', 'time limit of one call of a device model', integer(100, 3_600_000))
    .option(
      '-p, --param <name=value>',
      'a parameter of the scenario, as JSON or text; repeatable',
      parameter,
      {},
    )
    .option('--inject <fault>', `plant a deliberate fault: ${INJECTIONS.join(', ')}`, '')
    .option('--trace <file>', 'write every control message there', '')
    .option('--sysfs <dir>', "write the run's mdev tree below a directory and act on writes to it", '')
    .option('--json', 'print the summary as JSON')
    .action(async (path, options) => {
      process.exitCode = await runCommand(path, options);
    });
  command
    .command('trace <files...>')
    .description('print a trace, or the traces of one run merged by time')
    .option('--json', 'one JSON object per line')
    .action((files, options) => {
      traceCommand(files, options);
    });
  command
    .command('replay <files...>')
    .description(
      "replay captures of real guests' DMA maps (.jsonl, .jsonl.gz) and compare with the recording",
    )
    .option('--json', 'print the figures as JSON')
    .action(async (files, options) => {
      process.exitCode = await replayCommand(files, options);
    });
  command
    .command('conformance')
    .addArgument(new Argument('<kind>', 'what the vectors are about').choices(CONFORMANCE_KINDS))
    .argument('<files...>')
    .description('compare the models with vectors recorded on real kernels and QEMU (.json, .json.gz)')
    .addOption(
      new Option('--quirks <whose>', 'whose answer counts where QEMU differs from the specification')
        .choices(QUIRKS)
        .default('spec'),
    )
    .option('--json', 'print every difference as JSON')
    .action((kind, files, options) => {
      process.exitCode = conformanceCommand(kind, files, options);
    });
  command
    .command('types')
    .description("list a host's mediated device types as mdevctl does")
    .option('--dumpjson', "mdevctl's JSON")
    .option('--root <dir>', 'of the host whose tree `mdevsim sysfs` keeps there')
    .action(typesCommand);
  command
    .command('list')
    .description('list the mediated devices that run on a host as mdevctl does')
    .option('--dumpjson', "mdevctl's JSON")
    .option('--root <dir>', 'of the host whose tree `mdevsim sysfs` keeps there')
    .action(listCommand);
  command
    .command('sysfs <dir>')
    .description("write the default host's sysfs tree below a directory and act on writes to it")
    .option('--once', 'write the tree and end')
    .option('--for <ms>', 'end after so long (default: at SIGINT or SIGTERM)', integer(1, 86_400_000))
    .action(async (dir, options) => {
      process.exitCode = await sysfsCommand(dir, options);
    });
  return command;
}

/** Errors that are the user's to mend: one line, no stack. */
const isUsers = (error: unknown): error is Error =>
  error instanceof ScenarioError ||
  error instanceof CapacityError ||
  error instanceof FrameError ||
  error instanceof CaptureError ||
  error instanceof VectorFileError ||
  error instanceof SysfsDiskError ||
  (error instanceof Error && 'code' in error && 'syscall' in error);

/** Runs the command line; sets the exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  try {
    await program().parseAsync([...argv]);
  } catch (error) {
    if (error instanceof CommanderError)
      process.exitCode = error.exitCode === 0 ? 0 : ExitCode.badConfiguration;
    else if (isUsers(error)) {
      process.stderr.write(`mdevsim: ${error.message}\n`);
      process.exitCode = ExitCode.badConfiguration;
    } else throw error;
  }
}
