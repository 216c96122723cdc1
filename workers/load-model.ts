/**
 * Loads device models by name, or by the URL of a user's file.
 */
import { registerHooks } from 'node:module';
import { DeviceDefinitionError } from '../src/device/errors.ts';
import type { ModelFactory } from '../src/device/model.ts';
import { factoryOf } from '../src/device/sdk/definition.ts';
import { MODELS } from '../src/models/index.ts';
import { nearest } from '../src/platform/nearest.ts';
import { boundOutput } from './bound-output.ts';

/** Makes this thread load a module from the given text. */
function provideSource(module: string, source: string): void {
  registerHooks({
    load: (url, context, next) =>
      url === module ? { format: 'module', source, shortCircuit: true } : next(url, context),
  });
}

/** Loads a model. @throws DeviceDefinitionError for an invalid model; any error that the file throws */
export async function loadModel(model: string, source = ''): Promise<ModelFactory> {
  if (model.startsWith('file:')) {
    boundOutput();
    const { resolvePackageHere } = await import('../src/scenario/package-hook.ts');
    resolvePackageHere();
    // The last hook runs first, so no file is read whose source is given.
    if (source !== '') provideSource(model, source);
    return factoryOf(((await import(model)) as { readonly default?: unknown }).default);
  }
  const factory = MODELS[model];
  if (factory) return factory;
  const names = Object.keys(MODELS);
  throw new DeviceDefinitionError(
    `no such device model; nearest: ${nearest(model, names)}; accepted: ${names.join(', ')}, or the path of a file`,
  );
}
