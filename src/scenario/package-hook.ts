/**
 * Resolves imports of `mdevsim` in a user's file to this installation, wherever the file is.
 */
import { registerHooks } from 'node:module';

/** Modules of the package, by import specifier. */
const MODULES: Readonly<Record<string, string>> = {
  mdevsim: '../index',
  'mdevsim/device': '../device/sdk/index',
};

const extension = import.meta.url.slice(-3);
let registered = false;

export function resolvePackageHere(): void {
  if (registered) return;
  registered = true;
  registerHooks({
    resolve: (specifier, context, next) => {
      const module = MODULES[specifier];
      return next(module ? new URL(`${module}${extension}`, import.meta.url).href : specifier, context);
    },
  });
}
