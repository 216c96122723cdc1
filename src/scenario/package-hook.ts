/**
 * Hooks for a user's scenario and model files, wherever they are.
 *
 * - Imports of `mdevsim` resolve to this installation.
 * - A file with `import` or `export` is an ES module, also in a package of `"type": "commonjs"`, which `npm init` makes.
 * - TypeScript below node_modules loses its types here, because Node refuses to strip them there.
 */
import { readFileSync } from 'node:fs';
import { type LoadFnOutput, type LoadHookSync, registerHooks, stripTypeScriptTypes } from 'node:module';
import { fileURLToPath } from 'node:url';
import { compileFunction } from 'node:vm';
import { rememberFile } from './loaded-files.ts';

/** Modules of the package, by import specifier. */
const MODULES: Readonly<Record<string, string>> = {
  mdevsim: '../index',
  'mdevsim/device': '../device/sdk/index',
  'mdevsim/explore': '../explore/index',
};

const extension = import.meta.url.slice(-3);
let registered = false;

export function resolvePackageHere(): void {
  if (registered) return;
  registered = true;
  registerHooks({
    resolve: (specifier, context, next) => {
      const module = MODULES[specifier];
      if (!module) return next(specifier, context);
      return { url: new URL(`${module}${extension}`, import.meta.url).href, shortCircuit: true };
    },
    load: loadUserFile,
  });
}

const loadUserFile: LoadHookSync = (url, context, next): LoadFnOutput => {
  if (!url.startsWith('file:')) return next(url, context);
  rememberFile(url);
  const typed = /\.m?ts$/.test(url);
  const installed = url.includes('/node_modules/');
  if (installed && typed) {
    const source = plainSource(url);
    return { format: isModule(source) ? 'module' : 'commonjs', source, shortCircuit: true };
  }
  const declared = context.format === 'commonjs' || context.format === 'commonjs-typescript';
  if (installed || !declared || !isModule(plainSource(url))) return next(url, context);
  return next(url, { ...context, format: typed ? 'module-typescript' : 'module' });
};

/** Returns a file's text without types. @throws SyntaxError for TypeScript that has more than types to strip */
function plainSource(url: string): string {
  const text = readFileSync(fileURLToPath(url), 'utf8');
  if (!url.endsWith('ts')) return text;
  // Each guest would print that the function is experimental.
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return stripTypeScriptTypes(text);
  } finally {
    process.emitWarning = emitWarning;
  }
}

/** The compiler's errors for a module's syntax in a script, as Node's own detection of modules uses them. */
const MODULE_SYNTAX =
  /^(Cannot use import statement outside a module|Unexpected token 'export'|Cannot use 'import\.meta' outside a module|await is only valid in async)/;

/** Returns whether a text without types is an ES module: as CommonJS it does not compile, for a module's syntax. */
export function isModule(source: string): boolean {
  try {
    compileFunction(source, ['exports', 'require', 'module', '__filename', '__dirname']);
    return false;
  } catch (error) {
    return error instanceof SyntaxError && MODULE_SYNTAX.test(error.message);
  }
}
