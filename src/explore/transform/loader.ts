/**
 * Loader of modules for the model: a harness and all that it imports, rewritten, beside the modules of production.
 *
 * A load has a number, which is the query of its modules' URLs. A load may change the text of modules, so that a mutant
 * is the source with one change.
 */
import { readFileSync } from 'node:fs';
import { registerHooks, stripTypeScriptTypes } from 'node:module';
import { fileURLToPath } from 'node:url';
import { parse } from 'acorn';
import { nearest } from '../../platform/nearest.ts';
import { type Analysis, analyse, type ModuleSource } from './analyse.ts';
import { ModelLoadError, type Patch, patched } from './patch.ts';
import { rewrite } from './rewrite.ts';
import { type AnyNode, boundNames, childrenOf } from './syntax.ts';

const extension = import.meta.url.slice(-3);
const urlOf = (path: string): string => new URL(`../${path}${extension}`, import.meta.url).href;

/** Modules that the model replaces, and those that it uses instead. */
const REPLACED: ReadonlyMap<string, string> = new Map([
  [urlOf('../platform/shared-memory'), urlOf('model/operations')],
  [urlOf('sdk'), urlOf('model/operations')],
  [urlOf('../platform/platform'), urlOf('model/host')],
  [urlOf('../pin-table/wasm/kernels'), urlOf('model/plain-tables')],
]);
const OPERATIONS = urlOf('model/operations');
const RUNTIME = urlOf('model/runtime');

/** Module that exports the operations beside other names. */
const EXPLORE = urlOf('index');

/** Names of modules of this installation. */
const NAMED: ReadonlyMap<string, string> = new Map([
  ['#mem', urlOf('../platform/shared-memory')],
  ['#host', urlOf('../platform/platform')],
  ['mdevsim', urlOf('../index')],
  ['mdevsim/device', urlOf('../device/sdk/index')],
  ['mdevsim/explore', EXPLORE],
]);

export { ModelLoadError, type Patch };

interface Graph {
  readonly texts: ReadonlyMap<string, string>;
}

const graphs = new Map<string, Graph>();
const QUERY = /\?model=(\d+)$/;

function resolved(specifier: string, parent: string): string | undefined {
  const named = NAMED.get(specifier);
  if (named !== undefined) return named;
  return /^\.{0,2}\//.test(specifier) || specifier.startsWith('file:')
    ? new URL(specifier, parent).href
    : undefined;
}

let registered = false;
function registerOnce(): void {
  if (registered) return;
  registered = true;
  registerHooks({
    resolve: (specifier, context, next) => {
      const number = QUERY.exec(context.parentURL ?? '')?.[1];
      if (number === undefined) return next(specifier, context);
      const url = resolved(specifier, context.parentURL as string);
      if (url === undefined) return next(specifier, context);
      const known = graphs.get(number)?.texts.has(url);
      return { url: known ? `${url}?model=${number}` : (REPLACED.get(url) ?? url), shortCircuit: true };
    },
    load: (url, context, next) => {
      const number = QUERY.exec(url)?.[1];
      const source = number === undefined ? undefined : graphs.get(number)?.texts.get(url.replace(QUERY, ''));
      if (source === undefined) return next(url, context);
      return { format: 'module', source, shortCircuit: true };
    },
  });
}

/** Returns a module's text without types, with the patches of its file. @throws ModelLoadError */
function sourceText(url: string, patches: readonly Patch[], applied: Set<Patch>): string {
  let text: string;
  try {
    text = readFileSync(fileURLToPath(url), 'utf8');
  } catch (error) {
    throw new ModelLoadError(`${fileURLToPath(url)}: ${(error as Error).message}`);
  }
  for (const patch of patches) {
    if (!url.replace(/\.[jt]s$/, '').endsWith(patch.file.replace(/\.[jt]s$/, ''))) continue;
    text = patched(text, patch);
    applied.add(patch);
  }
  return url.endsWith('ts') ? withoutTypes(text) : text;
}

function withoutTypes(text: string): string {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return stripTypeScriptTypes(text);
  } finally {
    process.emitWarning = emitWarning;
  }
}

/** Returns the specifiers that a module imports or re-exports. */
const importsOf = (ast: AnyNode): AnyNode[] =>
  (ast.body as unknown as readonly AnyNode[]).filter(
    ({ type, source }) =>
      (type === 'ImportDeclaration' ||
        type === 'ExportNamedDeclaration' ||
        type === 'ExportAllDeclaration') &&
      source !== null,
  );

function parseModule(url: string, code: string): ModuleSource {
  let ast: AnyNode;
  try {
    ast = parse(code, { ecmaVersion: 'latest', sourceType: 'module' }) as unknown as AnyNode;
  } catch (error) {
    throw new ModelLoadError(`${fileURLToPath(url)}: ${(error as Error).message}`);
  }
  const [operations, aliases] = [new Map<string, string>(), new Map<string, string>()];
  const namespaces = new Set<string>();
  for (const { source, specifiers, type } of importsOf(ast)) {
    if (type !== 'ImportDeclaration') continue;
    const target = resolved(String(source?.value), url);
    const isOperations = target !== undefined && (target === EXPLORE || REPLACED.get(target) === OPERATIONS);
    for (const specifier of specifiers) {
      const local = specifier.local.name;
      if (specifier.type === 'ImportNamespaceSpecifier') {
        if (isOperations) namespaces.add(local);
      } else if (isOperations && /^[a-z]/.test(specifier.imported.name))
        operations.set(local, specifier.imported.name);
      else if (specifier.type === 'ImportSpecifier') aliases.set(local, specifier.imported.name);
    }
  }
  addDestructured(ast, namespaces, operations);
  return { url, code, ast, operations, namespaces, aliases };
}

/** `const { ld, st } = mem;` at the top of a module names operations. */
function addDestructured(
  ast: AnyNode,
  namespaces: ReadonlySet<string>,
  operations: Map<string, string>,
): void {
  for (const statement of childrenOf(ast))
    for (const { id, init } of statement.type === 'VariableDeclaration' ? statement.declarations : [])
      if (init?.type === 'Identifier' && namespaces.has(init.name))
        for (const name of boundNames(id)) operations.set(name, name);
}

/** Reads the graph of modules from `entry` on. */
function readGraph(entry: string, patches: readonly Patch[]): ModuleSource[] {
  const modules = new Map<string, ModuleSource>();
  const applied = new Set<Patch>();
  const waiting = [entry];
  for (let url = waiting.pop(); url !== undefined; url = waiting.pop()) {
    if (modules.has(url) || REPLACED.has(url)) continue;
    const module = parseModule(url, sourceText(url, patches, applied));
    modules.set(url, module);
    for (const { source } of importsOf(module.ast)) {
      const target = resolved(String(source?.value), url);
      if (target !== undefined) waiting.push(target);
    }
  }
  const unused = patches.find((patch) => !applied.has(patch));
  if (unused) throw new ModelLoadError(unusedPatch(unused, [...modules.keys()]));
  return [...modules.values()];
}

function unusedPatch({ file }: Patch, urls: readonly string[]): string {
  const names = urls.map((url) => url.slice(url.lastIndexOf('/') + 1));
  const near = nearest(file.slice(file.lastIndexOf('/') + 1), names);
  return `${file} is not part of this harness${near === undefined ? '' : `; nearest: ${near}`}`;
}

/** Returns the rewritten text of each module from `entry` on. */
function modelTexts(entry: string, patches: readonly Patch[] = []): ReadonlyMap<string, string> {
  const modules = readGraph(entry, patches);
  const analysis: Analysis = analyse(modules);
  return new Map(modules.map((module) => [module.url, rewrite(module, analysis, RUNTIME)]));
}

/** Loads a module and its imports into the model. Returns its exports. @throws ModelLoadError */
export async function loadIntoModel(
  entry: string,
  patches: readonly Patch[] = [],
): Promise<Readonly<Record<string, unknown>>> {
  registerOnce();
  const number = String(graphs.size + 1);
  graphs.set(number, { texts: modelTexts(entry, patches) });
  return (await import(`${entry}?model=${number}`)) as Readonly<Record<string, unknown>>;
}
