/**
 * Entry of the worker that runs files of recorded vectors: one for each message with a path, answered in order.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { runKind } from '../src/conformance/kinds.ts';
import type { VectorAnswer, VectorTask } from '../src/conformance/vector-task.ts';

const { kind, quirks } = workerData as VectorTask;

function answer(path: string): VectorAnswer {
  try {
    return { vectors: runKind(kind, path, quirks) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

parentPort?.on('message', (path: string) => parentPort?.postMessage(answer(path)));
