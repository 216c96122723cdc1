/**
 * `mdevsim doctor`: the count of vGPUs that this machine carries, with the arithmetic, and the optional tools.
 */
import { execFile } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { type CapacityLimit, limitsOf, thisMachine } from '../coordinator/workers/capacity.ts';
import { colours } from '../report/colours.ts';
import { counted } from '../report/text.ts';
import { VGPUS_LIMIT, VMS_LIMIT } from '../scenario/scenario.ts';

export interface DoctorFlags {
  readonly vgpus: number;
  readonly ram: number;
  readonly processes: number;
  readonly json?: boolean;
}

/** A program that mdevsim does not need, but can use. */
interface Tool {
  readonly name: string;
  /** Names of the program, the preferred one first. */
  readonly programs: readonly string[];
  /** Option that prints its version; `--version` by default. */
  readonly flag?: string;
  /** Commands that work only with it. */
  readonly enables: string;
  /** Least version, `major.minor`. */
  readonly least?: readonly [major: number, minor: number];
}

const TOOLS: readonly Tool[] = [
  { name: 'gcc', programs: ['gcc'], enables: 'C baselines of npm run bench -- lookup, pin, map' },
  { name: 'spin', programs: ['spin'], flag: '-V', enables: 'npm run prove (with gcc)' },
  {
    name: 'QEMU',
    programs: ['qemu-system-x86_64'],
    enables: 'real guests for mdevsim serve; npm run diff:vtd (any version)',
    least: [10, 1],
  },
  { name: 'mdevctl', programs: ['mdevctl'], enables: 'mdevctl list on the tree of run --sysfs' },
  {
    name: 'chromium',
    programs: ['chromium', 'chromium-browser', 'google-chrome'],
    enables: 'browser tests of reports',
  },
  { name: 'lspci', programs: ['lspci'], enables: 'decoded configuration spaces in tests' },
];

interface FoundTool {
  readonly name: string;
  readonly enables: string;
  /** First line that it prints for `--version`; undefined if it is missing. */
  readonly version: string | undefined;
  /** Least version, if the found one is older. */
  readonly needs: string | undefined;
}

/** Time limit of a tool's answer. */
const TOOL_TIMEOUT_MS = 5_000;
const MIB = 2 ** 20;
/** Start of a device worker (docs/performance.md). */
const START_MS = 17;
/** Counts of vGPUs for which the VMs are compared. */
const OTHER_SIZES = [1, 4, 16, VGPUS_LIMIT] as const;

/** Prints the report; resolves to the exit code. */
export async function doctorCommand(flags: DoctorFlags): Promise<number> {
  const tools = await Promise.all(TOOLS.map(find));
  const report = { ...capacityReport(flags), tools };
  if (flags.json) {
    // A limit that is not known is infinite, which JSON cannot say: null.
    process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    return 0;
  }
  process.stdout.write(`${[...capacityLines(report), '', ...tools.flatMap(toolLines)].join('\n')}\n`);
  return 0;
}

interface CapacityReport {
  readonly cores: number;
  readonly processes: number;
  readonly vgpusPerVm: number;
  readonly ramMiB: number;
  readonly vms: number;
  readonly vgpus: number;
  readonly limits: readonly CapacityLimit[];
  /** vGPUs of the machine, by vGPUs of each VM. */
  readonly sizes: readonly { readonly vgpusPerVm: number; readonly vms: number; readonly vgpus: number }[];
}

function capacityReport({ vgpus: vgpusPerVm, ram, processes }: DoctorFlags): CapacityReport {
  const machine = thisMachine();
  const limitsFor = (vgpus: number) => limitsOf({ vgpus, ramBytes: ram * MIB }, processes, machine);
  const sizeOf = (vgpus: number) => {
    const vms = Math.min(VMS_LIMIT, ...limitsFor(vgpus).map((limit) => limit.vms));
    return { vgpusPerVm: vgpus, vms, vgpus: vms * vgpus };
  };
  return {
    cores: availableParallelism(),
    processes,
    ramMiB: ram,
    ...sizeOf(vgpusPerVm),
    limits: limitsFor(vgpusPerVm),
    sizes: OTHER_SIZES.map(sizeOf),
  };
}

const valueText = (name: CapacityLimit['name'], value: number): string => {
  if (value === Number.POSITIVE_INFINITY) return 'unlimited';
  return name === 'memory' ? `${Math.floor(value / MIB)} MiB` : String(Math.floor(value));
};

/** Returns the arithmetic of a limit as one line. */
function limitLine(limit: CapacityLimit, report: CapacityReport): string {
  const { name, here, reserved, perVm, perProcess, vms } = limit;
  const text = (value: number) => valueText(name, value);
  const times = perProcess && report.processes > 1 ? ` × ${report.processes} processes` : '';
  const sum =
    here === Number.POSITIVE_INFINITY ? '' : ` (${text(here)} − ${text(reserved)}) / ${text(perVm)}${times}`;
  const isLeast = vms === report.vms;
  const count = here === Number.POSITIVE_INFINITY ? 'any' : String(vms);
  const line = `  ${name.padEnd(12)}${text(here).padStart(11)}${text(perVm).padStart(10)}${count.padStart(8)}  ${sum}`;
  return (isLeast ? colours.bold(line) : line).trimEnd();
}

function capacityLines(report: CapacityReport): string[] {
  const { vms, vgpus, vgpusPerVm, ramMiB, processes, cores, limits, sizes } = report;
  const where = counted(processes, 'host process', 'host processes');
  const start = ((vgpus * START_MS) / 1000).toFixed(1);
  const others = sizes.map((size) => `${size.vgpus} (${size.vgpusPerVm})`).join(', ');
  return [
    `This machine carries ${colours.bold(counted(vgpus, 'vGPU'))}: ${counted(vms, 'VM')} × ${counted(vgpusPerVm, 'vGPU')}`,
    `  (${ramMiB} MiB RAM each, in ${where}; others: --vgpus, --ram, --processes)`,
    '',
    `  ${'limit'.padEnd(12)}${'here'.padStart(11)}${'a VM'.padStart(10)}${'VMs'.padStart(8)}   (here − reserved) / a VM`,
    ...limits.map((limit) => limitLine(limit, report)),
    `  ${'VMs of a run'.padEnd(12)}${String(VMS_LIMIT).padStart(11)}${'1'.padStart(10)}${String(VMS_LIMIT).padStart(8)}`,
    '',
    `  a VM           a worker for its guest and one for each vGPU`,
    `  other sizes    vGPUs (in each VM): ${others}`,
    `  cores          ${cores}; a vGPU starts in ${START_MS} ms on two: all in about ${start} s`,
    ...adviceLines(report),
  ];
}

/** Returns ways to a larger run, if the least limit has one. */
function adviceLines({ limits, vms }: CapacityReport): string[] {
  const least = limits.find((limit) => limit.vms === vms);
  if (!least) return [];
  const advice: Readonly<Record<CapacityLimit['name'], string>> = {
    memory: 'less RAM a VM (--ram)',
    'memory maps': 'more host processes (--processes), or a larger vm.max_map_count',
    'open files': 'more host processes (--processes), or a larger RLIMIT_NOFILE (ulimit -n)',
    threads: 'a larger RLIMIT_NPROC (ulimit -u), kernel.threads-max or pids.max of the cgroup',
  };
  return [`  for more       ${advice[least.name]}`];
}

const toolLines = ({ name, version, needs, enables }: FoundTool): string[] => {
  const mark = version === undefined ? colours.dim('–') : needs ? colours.yellow('!') : colours.green('✓');
  const state = version ?? 'not found';
  return [
    `  ${mark} ${name.padEnd(10)} ${enables}`,
    `    ${''.padEnd(10)} ${colours.dim(needs ? `${state}: older than ${needs}` : state)}`,
  ];
};

/** Maximum count of characters shown of a version. */
const VERSION_LIMIT = 40;

async function find({ name, programs, flag = '--version', enables, least }: Tool): Promise<FoundTool> {
  for (const program of programs) {
    const version = await versionOf(program, flag);
    if (version === undefined) continue;
    return { name, enables, version, needs: least && isOlder(version, least) ? least.join('.') : undefined };
  }
  return { name, enables, version: undefined, needs: undefined };
}

function isOlder(version: string, [major, minor]: readonly [number, number]): boolean {
  const [, a, b] = /(\d+)\.(\d+)/.exec(version) ?? [];
  return a !== undefined && (Number(a) < major || (Number(a) === major && Number(b) < minor));
}

/** Resolves to the first line that a program prints of its version; undefined if it cannot be started. */
const versionOf = (program: string, flag: string): Promise<string | undefined> =>
  new Promise((resolve) => {
    execFile(program, [flag], { timeout: TOOL_TIMEOUT_MS }, (error, stdout, stderr) => {
      if (error && 'code' in error && error.code === 'ENOENT') resolve(undefined);
      else resolve((stdout || stderr).split('\n')[0]?.slice(0, VERSION_LIMIT).trim() || 'found');
    });
  });
