/**
 * Loads users' files in a process of their own: a scenario's settings, or a model's first build. In the process a worker
 * thread runs the file, so that one that never ends can be stopped.
 */
import { fork } from 'node:child_process';
import { type ResourceLimits, Worker } from 'node:worker_threads';
import { after } from '#host';
import { type EntryName, workerEntry } from '../coordinator/workers/entries.ts';

/** Time limit of a file's top level; after that it counts as endless. */
export const LOAD_TIMEOUT_MS = 10_000;
/** Time for the start and the end of the process. */
const GRACE_MS = 20_000;

/** Node's exit code for a module whose top-level `await` can never complete. */
const EXIT_UNSETTLED = 13;

const STDERR = 2;

/** Work of a loader process. */
interface LoadRequest {
  readonly entry: EntryName;
  readonly data: string;
  readonly timeoutMs: number;
  readonly resourceLimits: ResourceLimits;
}

type Failed = { readonly error: string };

/**
 * Starts a worker with `data` in a process of its own and resolves to its one message, or to an error if it ends without
 * one or times out.
 */
export function askWorker<Answer>(
  entry: EntryName,
  data: string,
  timeoutMs: number,
  resourceLimits: ResourceLimits = {},
): Promise<Answer | Failed> {
  const request: LoadRequest = { entry, data, timeoutMs, resourceLimits };
  const child = fork(workerEntry('loader'), [], {
    serialization: 'advanced',
    stdio: ['ignore', STDERR, STDERR, 'ipc'],
  });
  return new Promise<Answer | Failed>((done) => {
    const end = (answer: Answer | Failed) => {
      cancel();
      child.kill('SIGKILL');
      done(answer);
    };
    const cancel = after(timeoutMs + GRACE_MS, () => end({ error: 'its process does not answer' }));
    child.once('message', (answer) => end(answer as Answer));
    child.once('exit', (code, signal) =>
      end({ error: `its process ended with ${signal ?? `code ${code}`}` }),
    );
    child.on('error', (error) => end({ error: error.message }));
    child.send(request, (error) => {
      if (error) end({ error: error.message });
    });
  });
}

/** Serves the one request of the parent process, then exits. */
export function serveLoader(): void {
  // The parent process decides what a signal to the whole process group means.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  process.on('disconnect', () => process.exit(1));
  process.once('message', (request: LoadRequest) => {
    void runWorker(request).then((answer) => process.send?.(answer));
  });
}

async function runWorker({ entry, data, timeoutMs, resourceLimits }: LoadRequest): Promise<unknown> {
  const worker = new Worker(workerEntry(entry), {
    workerData: data,
    resourceLimits,
    execArgv: [...process.execArgv, '--no-warnings'],
  });
  return new Promise<unknown>((done) => {
    const cancel = after(timeoutMs, () => done({ error: `did not load within ${timeoutMs} ms` }));
    const end = (answer: unknown) => {
      cancel();
      done(answer);
    };
    worker.once('message', end);
    worker.once('error', (error: Error) => end({ error: error.message }));
    worker.once('exit', (code) =>
      end({
        error:
          code === EXIT_UNSETTLED
            ? 'its top-level await never completes'
            : `exited with code ${code} while loading`,
      }),
    );
  });
}
