/**
 * Entry of a scheduled thread (`--conditions=sched`): runs one thread of a harness, again for each schedule.
 */
import { readFileSync } from 'node:fs';
import { registerHooks, stripTypeScriptTypes } from 'node:module';
import { fileURLToPath } from 'node:url';
import { parentPort, workerData } from 'node:worker_threads';
import { type Harness, isHarness, ViolationError } from '../src/explore/harness.ts';
import { patched } from '../src/explore/transform/patch.ts';
import type { ThreadTask } from '../src/explore/turnstile.ts';
import { enterTurnstile, ScheduleEndedError, TurnstileThread } from '../src/platform/turnstile.ts';
import { resolvePackageHere } from '../src/scenario/package-hook.ts';

const task = workerData as ThreadTask;
const { SharedArrayBuffer: PlatformBuffer } = globalThis;

/** Buffers of the schedule, taken again in the same order by each `setup`. */
let taken = 0;
const buffers = new Map(task.buffers.map((buffer, i) => [buffer, i + 1]));

/** Takes the place of SharedArrayBuffer. A buffer that no `setup` takes is one of this thread alone. */
class TakenBuffer {
  static [Symbol.hasInstance](value: unknown): boolean {
    return Function.prototype[Symbol.hasInstance].call(PlatformBuffer, value);
  }
  constructor(bytes: number) {
    const buffer = task.buffers[taken];
    if (buffer?.byteLength !== bytes)
      throw new Error(`setup allocates ${bytes} bytes; in the model it did not`);
    taken++;
    // biome-ignore lint/correctness/noConstructorReturn: a shared buffer takes the place of a new one
    return buffer as unknown as TakenBuffer;
  }
}

/** Applies the patches of a mutant to the sources that this thread loads. */
function patchSources(): void {
  if (task.patches.length === 0) return;
  registerHooks({
    load: (url, context, next) => {
      const patches = task.patches.filter(({ file }) =>
        url.replace(/\.[jt]s$/, '').endsWith(file.replace(/\.[jt]s$/, '')),
      );
      if (patches.length === 0) return next(url, context);
      const text = patches.reduce(patched, readFileSync(fileURLToPath(url), 'utf8'));
      return {
        format: 'module',
        source: url.endsWith('ts') ? stripTypeScriptTypes(text) : text,
        shortCircuit: true,
      };
    },
  });
}

/** Notes the first broken rule of a schedule. */
function report(error: unknown): void {
  const length = new Int32Array(task.report);
  if (error instanceof ScheduleEndedError || length[0] !== 0) return;
  const rule = error instanceof ViolationError ? error.rule : 'error';
  const text = Buffer.from(`${rule}: ${error instanceof Error ? error.message : String(error)}`);
  const bytes = new Uint8Array(task.report, 4);
  length[0] = Math.min(text.length, bytes.length);
  bytes.set(text.subarray(0, bytes.length));
}

async function main(): Promise<void> {
  resolvePackageHere();
  patchSources();
  const exported = Object.entries((await import(task.url)) as Readonly<Record<string, unknown>>);
  const [, harness] = exported.find(
    ([name, value]) => isHarness(value) && (value.name ?? name) === task.harness,
  ) as [string, Harness];
  const turnstile = new TurnstileThread(task.control, task.index);
  enterTurnstile(turnstile, (buffer) => buffers.get(buffer) ?? 0);
  Object.assign(globalThis, { SharedArrayBuffer: TakenBuffer });
  // Without memories of WebAssembly, pin tables are buffers and use the JavaScript kernels.
  const wasm = Reflect.get(globalThis, 'WebAssembly') as { Memory: unknown };
  wasm.Memory = class {
    constructor() {
      throw new RangeError('scheduled threads use no WebAssembly');
    }
  };
  parentPort?.postMessage('loaded');
  for (;;) {
    turnstile.awaitSchedule();
    taken = 0;
    for (const buffer of task.buffers) new Float64Array(buffer, 0, buffer.byteLength >>> 3).fill(0);
    for (const buffer of task.buffers) new Uint8Array(buffer, buffer.byteLength & ~7).fill(0);
    try {
      const state = await harness.setup();
      turnstile.begin();
      await harness.threads[task.thread]?.(state);
    } catch (error) {
      report(error);
    }
    turnstile.end();
  }
}

await main();
