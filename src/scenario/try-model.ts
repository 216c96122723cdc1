/**
 * Resolves the device model of a run, built-in or user-defined, and checks it before anything starts.
 */
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { modelNames } from '../coordinator/model-names.ts';
import { DEFAULT_MODEL, WORKER_LIMITS } from '../coordinator/workers/supervisor.ts';
import { askWorker, LOAD_TIMEOUT_MS } from './loader.ts';
import { ScenarioError } from './scenario.ts';

const ACCEPTED = 'a file that exports a device model by default (docs/writing-a-device.md)';

/** Returns true for `./my-device.ts`, false for `edu`. */
const isPath = (model: string): boolean => /[/\\]|\.[cm]?[jt]s$/.test(model);

function modelUrl(path: string): string {
  const file = resolve(path);
  if (!existsSync(file)) throw new ScenarioError(`model ${path}: no such file; accepted: ${ACCEPTED}`);
  if (!statSync(file).isFile()) throw new ScenarioError(`model ${path}: not a file; accepted: ${ACCEPTED}`);
  return pathToFileURL(file).href;
}

/** The device model, as device workers load it. */
export interface ResolvedModel {
  /** Name of a built-in model, a comma-separated list of names, or the URL of a file. */
  readonly model: string;
  /**
   * The file's text without types; if empty, each worker reads the file. A worker that strips the types itself takes
   * 11 MiB more.
   */
  readonly source: string;
}

/**
 * Resolves a model setting. A path is relative to the working directory. Each model is built once, in a worker with a
 * device worker's limits, so that a model that throws, never ends or is too large is refused here.
 * @throws ScenarioError naming the file and what is accepted
 */
export async function resolveModel(model: string, timeoutMs = LOAD_TIMEOUT_MS): Promise<ResolvedModel> {
  if (model === DEFAULT_MODEL) return { model, source: '' };
  if (!isPath(model) && modelNames(model).length > 1) return resolveSeveral(model, timeoutMs);
  const target = isPath(model) ? modelUrl(model) : model;
  const answer = await askWorker<{ source: string }>('model', target, timeoutMs, WORKER_LIMITS);
  if ('error' in answer) throw new ScenarioError(`model ${model}: ${answer.error}`);
  return { model: target, source: answer.source };
}

/** Resolves a list. `vgpu` cannot be in it: the guest's drivers run either all devices or none. */
async function resolveSeveral(models: string, timeoutMs: number): Promise<ResolvedModel> {
  const names = modelNames(models);
  if (names.includes(DEFAULT_MODEL))
    throw new ScenarioError(
      `model ${models}: ${DEFAULT_MODEL} in a list; accepted: ${DEFAULT_MODEL} alone, or a list of others`,
    );
  for (const name of new Set(names)) await resolveModel(name, timeoutMs);
  return { model: names.join(','), source: '' };
}
