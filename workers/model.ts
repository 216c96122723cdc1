/**
 * Entry of the worker that tries a device model before a run: loads it and builds it once.
 */
import { readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { fileURLToPath } from 'node:url';
import { parentPort, workerData } from 'node:worker_threads';
import { DeviceHarness } from '../src/device/sdk/harness.ts';
import { errorText } from './error-text.ts';
import { loadModel } from './load-model.ts';

/** A file of more text is read by each worker: it would not fit the message. */
const SOURCE_LIMIT = 128 * 1024;

const model = workerData as string;

/** Text of a TypeScript module without its types, line for line; else empty. */
function sourceOf(module: string): string {
  if (!/^file:.*\.m?ts$/.test(module)) return '';
  const text = readFileSync(fileURLToPath(module), 'utf8');
  return text.length > SOURCE_LIMIT ? '' : stripTypeScriptTypes(text);
}

try {
  new DeviceHarness(await loadModel(model)).close();
  parentPort?.postMessage({ source: sourceOf(model) });
} catch (error) {
  parentPort?.postMessage({ error: errorText(error, model) });
}
