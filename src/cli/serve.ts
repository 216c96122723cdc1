/**
 * `mdevsim serve`: serves devices over vfio-user until a signal, prints the QEMU arguments and at the end a report.
 */
import type { Policy } from '../gpu/policy.ts';
import { ExitCode } from '../report/summary.ts';
import { boundedText, oneLine } from '../report/text.ts';
import { ScenarioError } from '../scenario/scenario.ts';
import { resolveModel } from '../scenario/try-model.ts';
import { gpuTypeOf } from '../serve/gpu-shares.ts';
import { Pictures } from '../serve/pictures.ts';
import { qemuArguments } from '../serve/qemu-arguments.ts';
import { ServedDevices, type ServedWorker } from '../serve/serve.ts';
import { deviceLines, isClean } from '../serve/serve-report.ts';
import { serveStdin } from '../serve/serve-stdin.ts';
import { onInterrupt } from './interrupts.ts';

/** Most lines about clients that come and go, for each device. */
const EVENT_LINES_LIMIT = 100;

/** The command's options, as parsed. */
interface ServeFlags {
  readonly type: string;
  readonly socket: string;
  readonly count: number;
  readonly model?: string;
  readonly deviceTimeout?: number;
  readonly captures: string;
  readonly artifacts: string;
  readonly trace: string;
  readonly msix: boolean;
  readonly gpuPolicy?: Policy;
  readonly json?: boolean;
}

/** Serves devices; resolves to the exit code. @throws ScenarioError, CapacityError */
export async function serveCommand(flags: ServeFlags): Promise<ExitCode> {
  if (!/^[\w.-]{1,64}$/.test(flags.type))
    throw new ScenarioError(`--type ${flags.type}; accepted: letters, digits, dots and hyphens`);
  // A vGPU type of the host is a vgpu; every other type is a model's name.
  const name = flags.model ?? (gpuTypeOf(flags.type) ? 'vgpu' : flags.type);
  if (flags.socket === '-') return serveOneStream(name, flags.count);
  const model = await resolveModel(name);
  let interrupted: (signal: string) => void = () => {};
  const signal = new Promise<string>((resolve) => {
    interrupted = resolve;
  });
  const restore = onInterrupt({
    onFirst: (name) => interrupted(name),
    onFurther: () => process.exit(ExitCode.interrupted),
  });
  const devices = await ServedDevices.start({
    type: flags.type,
    model,
    socket: flags.socket,
    count: flags.count,
    captures: flags.captures,
    msix: flags.msix,
    trace: flags.trace,
    ...(flags.gpuPolicy !== undefined && { gpuPolicy: flags.gpuPolicy }),
    ...(flags.deviceTimeout !== undefined && { deviceTimeoutMs: flags.deviceTimeout }),
    onEvent: eventPrinter(flags.type),
  });
  const failed = devices.workers.filter(({ failure }) => failure !== '');
  if (failed.length < devices.workers.length) {
    for (const { socket } of devices.workers) process.stdout.write(`${qemuArguments(socket)}\n`);
    const stopPictures = takePictures(devices.workers, flags.artifacts);
    process.stderr.write(
      `serving as process ${process.pid}; guest RAM needs share=on (docs/serving-qemu.md)\n`,
    );
    process.stderr.write(`${await signal}: stopping\n`);
    stopPictures();
  }
  await devices.stop();
  restore();
  return report(devices, flags);
}

/** Serves the client on stdin and stdout. @throws ScenarioError for more than one device */
async function serveOneStream(model: string, count: number): Promise<ExitCode> {
  if (count !== 1) throw new ScenarioError(`--count ${count} with --socket -; accepted: 1`);
  const passed = await serveStdin(
    model,
    (line) => void process.stderr.write(`${oneLine(boundedText(line))}\n`),
  );
  return passed ? ExitCode.ok : ExitCode.failed;
}

/** Writes pictures at each SIGUSR2, if there is a folder for them. Returns a function that ends this. */
function takePictures(workers: readonly ServedWorker[], folder: string): () => void {
  if (folder === '') return () => {};
  const pictures = new Pictures(folder, workers);
  const take = () => {
    pictures.take().then(
      (files) => process.stderr.write(`${files.length > 0 ? files.join('\n') : 'no picture'}\n`),
      (error: Error) => process.stderr.write(`no picture: ${error.message}\n`),
    );
  };
  process.on('SIGUSR2', take);
  return () => process.off('SIGUSR2', take);
}

/** Returns a printer of events that stops after a limit. */
function eventPrinter(_type: string): Parameters<typeof ServedDevices.start>[0]['onEvent'] {
  const printed = new Map<ServedWorker, number>();
  return (worker, event) => {
    if (event.kind !== 'connected' && event.kind !== 'disconnected' && event.kind !== 'failed') return;
    const lines = (printed.get(worker) ?? 0) + 1;
    printed.set(worker, lines);
    if (lines > EVENT_LINES_LIMIT) return;
    const reason = 'reason' in event ? `: ${oneLine(boundedText(event.reason))}` : '';
    process.stderr.write(`${worker.name} ${event.kind}${reason}\n`);
  };
}

function report(served: ServedDevices, { json }: ServeFlags): ExitCode {
  const { workers, trace } = served;
  if (trace && trace.dropped > 0)
    process.stderr.write(`the trace lacks ${trace.dropped} frames: ${trace.error || 'it is full'}\n`);
  const passed = workers.every(isClean);
  if (json) {
    const devices = workers.map(({ name, socket, failure, report }, index) => ({
      name,
      socket,
      failure,
      ...report,
      gpu: served.gpuStats(index),
    }));
    process.stdout.write(`${JSON.stringify({ passed, devices }, null, 2)}\n`);
  } else {
    for (const [index, worker] of workers.entries())
      process.stdout.write(`${deviceLines(worker, served.gpuStats(index)).join('\n')}\n`);
    process.stdout.write(passed ? 'PASSED\n' : 'FAILED\n');
  }
  return passed ? ExitCode.ok : ExitCode.failed;
}
