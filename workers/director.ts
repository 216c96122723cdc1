/**
 * Entry of the worker that runs a scenario's `director(run)`.
 */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { DirectedRun } from '../src/scenario/directed-run.ts';
import type { DirectorControl, DirectorTask } from '../src/scenario/director-script.ts';
import { importScenario } from '../src/scenario/load.ts';
import { boundOutput } from './bound-output.ts';
import { errorText } from './error-text.ts';

const { task, port } = workerData as { task: DirectorTask; port: MessagePort };

const flushOutput = boundOutput();
const control = Comlink.wrap<DirectorControl>(port as unknown as Comlink.Endpoint);

async function direct(): Promise<string> {
  try {
    const { director } = await importScenario(task.scenario);
    await director?.(new DirectedRun(task, control));
    return '';
  } catch (error) {
    return errorText(error, task.scenario);
  }
}

const error = await direct();
await flushOutput();
parentPort?.postMessage(error);
