/**
 * Device models by name, or by the URL of a user's file.
 */
import { registerHooks } from 'node:module';
import { DeviceDefinitionError } from '../src/device/errors.ts';
import type { ModelFactory } from '../src/device/model.ts';
import { factoryOf } from '../src/device/sdk/definition.ts';
import { MODELS } from '../src/models/index.ts';

/** Has this thread take a module's text from here. */
function serve(module: string, source: string): void {
  registerHooks({
    load: (url, context, next) =>
      url === module ? { format: 'module', source, shortCircuit: true } : next(url, context),
  });
}

/** Lines that a model may print, rather than log; the rest are dropped. */
const CONSOLE_LINES_LIMIT = 100;

/** Printing crosses to the main thread through a queue that has no limit of its own. */
function boundConsole(): void {
  let printed = 0;
  for (const name of ['debug', 'error', 'info', 'log', 'warn'] as const) {
    const print = console[name];
    console[name] = (...parts: unknown[]) => {
      if (++printed <= CONSOLE_LINES_LIMIT) print(...parts);
    };
  }
}

/** @throws DeviceDefinitionError for what is no model, or whatever the file throws */
export async function loadModel(model: string, source = ''): Promise<ModelFactory> {
  if (model.startsWith('file:')) {
    boundConsole();
    if (source !== '') serve(model, source);
    const { resolvePackageHere } = await import('../src/scenario/package-hook.ts');
    resolvePackageHere();
    return factoryOf(((await import(model)) as { readonly default?: unknown }).default);
  }
  const factory = MODELS[model];
  if (!factory)
    throw new DeviceDefinitionError(
      `no such device model; accepted: ${Object.keys(MODELS).join(', ')}, or the path of a file`,
    );
  return factory;
}
