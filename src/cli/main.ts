/**
 * The command line: commands, options and exit codes.
 */
import { Argument, Command, CommanderError, Option } from 'commander';
import { CONFORMANCE_KINDS } from '../conformance/kinds.ts';
import { VectorFileError } from '../conformance/vfio/vector-file.ts';
import { CaptureError } from '../conformance/vfio-user/capture.ts';
import { CapacityError } from '../coordinator/workers/capacity.ts';
import { POLICIES } from '../gpu/policy.ts';
import { SysfsDiskError } from '../mdev/sysfs-disk.ts';
import { StoredRunError } from '../report/compare/stored-run.ts';
import { ExitCode } from '../report/summary.ts';
import { BlobError } from '../scenario/blob.ts';
import { builtInScenarios } from '../scenario/built-in.ts';
import { INJECTIONS } from '../scenario/run-plan.ts';
import {
  HOSTS_LIMIT,
  RAM_MIB_MAX,
  RAM_MIB_MIN,
  ScenarioError,
  VGPUS_LIMIT,
  VIOMMUS,
  VMS_LIMIT,
} from '../scenario/scenario.ts';
import { QUIRKS } from '../viommu/quirks.ts';
import { conformanceCommand } from './conformance.ts';
import { DashboardError } from './dashboard.ts';
import { addExplore } from './explore.ts';
import { boundHeap } from './heap.ts';
import { listCommand, sysfsCommand, typesCommand } from './mdev.ts';
import { integer, optional, parameter, shardOption } from './option-parsers.ts';
import { addOutputs, OutputError } from './outputs.ts';
import { packageVersion } from './package-version.ts';
import { replayCommand } from './replay.ts';
import { runCommand } from './run.ts';
import { filesOrShipped } from './shipped-data.ts';
import { addCompare, addMerge } from './stored-runs.ts';
import { addTools } from './tools.ts';
import { TraceError, traceCommand } from './trace.ts';
import { explainUsage, UsageError } from './usage.ts';

/** Declares all commands. */
export function program(): Command {
  const command = new Command('mdevsim')
    .description('Load and concurrency testing of many vGPUs: VFIO mediated devices behind virtual IOMMUs')
    .version(packageVersion());
  const add = [
    addRun,
    addTrace,
    addReplay,
    addConformance,
    addTypes,
    addList,
    addSysfs,
    addServe,
    addExplore,
    addTools,
    addMerge,
    addCompare,
  ];
  for (const addTo of add) addTo(command);
  explainUsage(command);
  return command;
}

function addRun(command: Command): void {
  addOutputs(command.command('run'))
    .argument('<scenario>', `path of a scenario file, or a built-in one: ${builtInScenarios().join(', ')}`)
    .description("run a scenario and verify every byte; options override the scenario's settings")
    .option('--vms <n>', 'count of virtual machines', integer(1, VMS_LIMIT))
    .option('--vgpus <n>', 'count of vGPUs per VM, each in its own worker', integer(1, VGPUS_LIMIT))
    .option('--ram <MiB>', 'RAM of each VM', integer(RAM_MIB_MIN, RAM_MIB_MAX))
    .addOption(new Option('--viommu <kind>', 'vIOMMU of each VM').choices(VIOMMUS))
    .option(
      '--model <model>',
      'device model: vgpu, edu, mtty, mdpy, a comma-separated list, or the path of a file',
    )
    .option('--processes <n>', 'count of host processes for the VMs', integer(1, HOSTS_LIMIT), 1)
    .option('--seed <n>', 'seed of all random numbers (default: drawn, and printed)', integer(0, 2 ** 31 - 1))
    .option('--timeout <ms>', 'time limit of each guest script', integer(1, 86_400_000))
    .option('--device-timeout <ms>', 'time limit of one call of a device model', integer(100, 3_600_000))
    .addOption(
      new Option('-p, --param <name=value>', 'scenario parameter, as JSON or text; repeatable')
        .argParser(parameter)
        .default({}, 'none'),
    )
    .addOption(optional('--inject <fault>', 'inject a fault').choices(INJECTIONS))
    .addOption(optional('--trace <file>', 'write all control messages to a file'))
    .addOption(
      optional('--sysfs <dir>', "write the run's sysfs tree below a directory and execute writes to it"),
    )
    .addOption(
      optional(
        '--artifacts <dir>',
        'folder of the files that scripts write (default: mdevsim-runs/NAME-SEED)',
      ),
    )
    .addOption(
      new Option('--shard <i/n>', 'run part i of n of the VMs, for mdevsim merge').argParser(shardOption),
    )
    .option(
      '--dashboard [port]',
      'show the run live in a browser of this machine (default: any free port)',
      integer(0, 65_535),
    )
    .option('--json', 'print the summary as JSON')
    .option('--quiet', 'show no progress on stderr')
    .action(async (path, options) => {
      const release = boundHeap();
      try {
        process.exitCode = await runCommand(path, options);
      } finally {
        release();
      }
    });
}

function addTrace(command: Command): void {
  command
    .command('trace <files...>')
    .description('print trace files of a run, merged in order of time')
    .option('--json', 'print one JSON object per line')
    .action((files, options) => {
      traceCommand(files, options);
    });
}

function addReplay(command: Command): void {
  command
    .command('replay [files...]')
    .description(
      "replay DMA maps captured from real guests (.jsonl, .jsonl.gz; default: the package's own) and compare the outcome",
    )
    .option('--json', 'print the results as JSON')
    .action(async (files, options) => {
      process.exitCode = await replayCommand(filesOrShipped(files, 'captures'), options);
    });
}

function addConformance(command: Command): void {
  command
    .command('conformance')
    .addArgument(new Argument('<kind>', 'kind of the test vectors').choices(CONFORMANCE_KINDS))
    .argument('[files...]', "vector files (default: the package's own)")
    .description('compare the models with vectors recorded on real kernels and QEMU (.json, .json.gz)')
    .addOption(
      new Option('--quirks <reference>', 'reference where QEMU differs from the specification')
        .choices(QUIRKS)
        .default('spec'),
    )
    .option('--json', 'print all differences as JSON')
    .action(async (kind, files, options) => {
      process.exitCode = await conformanceCommand(kind, filesOrShipped(files, kind), options);
    });
}

const ROOT_OPTION = [
  '--root <dir>',
  'read the tree below this directory, as written by `mdevsim sysfs`',
] as const;

function addTypes(command: Command): void {
  command
    .command('types')
    .description("list the host's mediated device types in mdevctl's format")
    .option('--dumpjson', "print mdevctl's JSON")
    .option(...ROOT_OPTION)
    .action(typesCommand);
}

function addList(command: Command): void {
  command
    .command('list')
    .description("list the host's running mediated devices in mdevctl's format")
    .option('--dumpjson', "print mdevctl's JSON")
    .option(...ROOT_OPTION)
    .action(listCommand);
}

function addSysfs(command: Command): void {
  command
    .command('sysfs <dir>')
    .description("write the default host's sysfs tree below a directory and execute writes to it")
    .option('--once', 'write the tree and exit')
    .option('--for <ms>', 'exit after this time (default: at SIGINT or SIGTERM)', integer(1, 86_400_000))
    .action(async (dir, options) => {
      process.exitCode = await sysfsCommand(dir, options);
    });
}

/** Most devices of one `serve` command. Its module loads native code, so it is imported only when it is needed. */
const SERVED_DEVICES_LIMIT = 64;

function addServe(command: Command): void {
  command
    .command('serve')
    .description('serve devices to real VMMs over vfio-user, until a signal')
    .requiredOption(
      '--type <type>',
      'device type: virtio-gpu, virtio-rng, testdev, edu, mtty, mdpy, vgpu or one of their variants',
    )
    .requiredOption(
      '--socket <path>',
      'UNIX socket to listen at; with several devices PATH.0, PATH.1, …; - for stdin and stdout',
    )
    .option('--count <n>', 'count of devices, each in its own worker', integer(1, SERVED_DEVICES_LIMIT), 1)
    .option('--model <model>', 'device model in place of that of the type, also the path of a file')
    .option('--device-timeout <ms>', 'time limit of one call of a device model', integer(100, 3_600_000))
    .addOption(optional('--captures <dir>', "record each client's DMA maps, for mdevsim replay"))
    .addOption(optional('--trace <file>', 'write switches, faults, violations and reports to a file'))
    .addOption(optional('--artifacts <dir>', 'folder of the pictures that SIGUSR2 takes of displays'))
    .option('--no-msix', 'devices without MSI-X, which QEMU 11.1 can unplug')
    .addOption(new Option('--gpu-policy <policy>', 'how served vGPUs share a physical GPU').choices(POLICIES))
    .option('--json', 'print the report as JSON')
    .action(async (options) => {
      const { serveCommand } = await import('./serve.ts');
      process.exitCode = await serveCommand(options);
    });
}

/** Returns whether an error is the user's to correct: it is printed as one line, without a stack. */
const isUserError = (error: unknown): error is Error =>
  error instanceof UsageError ||
  error instanceof ScenarioError ||
  error instanceof CapacityError ||
  error instanceof TraceError ||
  error instanceof CaptureError ||
  error instanceof VectorFileError ||
  error instanceof SysfsDiskError ||
  error instanceof OutputError ||
  error instanceof DashboardError ||
  error instanceof BlobError ||
  error instanceof StoredRunError ||
  (error instanceof Error && 'code' in error && 'syscall' in error);

/** Runs the command line and sets the exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  try {
    await program().parseAsync([...argv]);
  } catch (error) {
    if (error instanceof CommanderError)
      process.exitCode = error.exitCode === 0 ? 0 : ExitCode.badConfiguration;
    else if (isUserError(error)) {
      process.stderr.write(`mdevsim: ${error.message}\n`);
      process.exitCode = ExitCode.badConfiguration;
    } else throw error;
  }
}
