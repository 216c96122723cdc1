/**
 * Entry of the worker that checks a device model before a run: loads it and builds it once.
 */
import { readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { fileURLToPath } from 'node:url';
import { parentPort, workerData } from 'node:worker_threads';
import { DeviceHarness } from '../src/device/sdk/harness.ts';
import { isModule } from '../src/scenario/package-hook.ts';
import { errorText } from './error-text.ts';
import { loadModel } from './load-model.ts';

/** Maximum length of a file that is sent to device workers; each worker reads a longer file itself. */
const SOURCE_LIMIT = 128 * 1024;

const model = workerData as string;

/** Returns a TypeScript module's text without types, with unchanged line numbers; empty for any other file. */
function sourceOf(module: string): string {
  if (!/^file:.*\.m?ts$/.test(module)) return '';
  const text = readFileSync(fileURLToPath(module), 'utf8');
  if (text.length > SOURCE_LIMIT) return '';
  const plain = stripTypeScriptTypes(text);
  return isModule(plain) ? plain : '';
}

try {
  new DeviceHarness(await loadModel(model)).close();
  parentPort?.postMessage({ source: sourceOf(model) });
} catch (error) {
  parentPort?.postMessage({ error: errorText(error, model) });
}
