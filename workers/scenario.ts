/**
 * Entry of the worker that reads a scenario file's settings.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { importScenario, type LoadAnswer } from '../src/scenario/load.ts';
import { ScenarioError } from '../src/scenario/scenario.ts';
import { boundOutput } from './bound-output.ts';
import { loadErrorText } from './error-text.ts';

const url = workerData as string;

boundOutput();

async function read(): Promise<LoadAnswer> {
  try {
    const { settings, parameters, director } = await importScenario(url);
    return { settings, parameters, hasDirector: director !== undefined };
  } catch (error) {
    const message = error instanceof ScenarioError ? error.message : loadErrorText(error, url);
    return { error: message };
  }
}

parentPort?.postMessage(await read());
