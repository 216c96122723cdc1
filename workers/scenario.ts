/**
 * Entry of the worker that reads a scenario file's settings.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { importScenario, type LoadAnswer } from '../src/scenario/load.ts';

async function read(): Promise<LoadAnswer> {
  try {
    return { settings: (await importScenario(workerData as string)).settings };
  } catch (error) {
    return { error: error instanceof Error ? error.message.split('\n')[0]! : String(error) };
  }
}

parentPort?.postMessage(await read());
