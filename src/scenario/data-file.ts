/**
 * Scenarios as data: YAML and JSON files. Errors name file, line and column.
 */
import { readFileSync, statSync } from 'node:fs';
import { type Document, isMap, isNode, isPair, isScalar, LineCounter, type Node, parseDocument } from 'yaml';
import { functionProblems, loadProblems } from '../load/check.ts';
import { type Problem, problemText } from '../load/settings.ts';
import { ScenarioError, type ScenarioSettings, settingsOrProblems } from './scenario.ts';

/** Maximum size of a file. */
const BYTES_LIMIT = 2 ** 20;
/** Maximum count of nodes that the aliases of a file may stand for, per alias. */
const ALIASES_LIMIT = 100;
/** Maximum count of problems in one message. */
const PROBLEMS_LIMIT = 20;

/** Settings of a data file, and the names of its parameters; undefined if it takes any. */
interface DataScenario {
  readonly settings: ScenarioSettings;
  readonly parameters: readonly string[] | undefined;
}

/** Reads and checks the settings in a file. @throws ScenarioError with a line for each problem */
export function readDataFile(path: string): DataScenario {
  const { size } = statSync(path);
  if (size > BYTES_LIMIT)
    throw new ScenarioError(`scenario ${path}: ${size} bytes; accepted: up to ${BYTES_LIMIT}`);
  const lines = new LineCounter();
  const document = parseDocument(readFileSync(path, 'utf8'), {
    lineCounter: lines,
    prettyErrors: false,
    uniqueKeys: true,
    stringKeys: true,
  });
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return `${path}:${line}:${col}`;
  };
  const faults = [...document.errors, ...document.warnings];
  if (faults.length > 0) throw refusal(faults.map(({ pos, message }) => `${at(pos[0])}: ${message}`));
  const checked = settingsOrProblems(withoutSchema(plainValue(document, path)));
  const problems =
    'problems' in checked
      ? checked.problems
      : [
          ...loadProblems(checked.settings),
          ...functionProblems(checked.settings, { guest: false, iteration: false }),
        ];
  if ('settings' in checked && checked.settings.load === undefined)
    throw refusal([`${at(0)}: load: missing; accepted: stages of load, because a data file has no script`]);
  if (problems.length > 0)
    throw refusal(problems.map((problem) => `${at(offsetOf(document, problem))}: ${problemText(problem)}`));
  const { settings } = checked as { readonly settings: ScenarioSettings };
  const declared = Object.keys(settings.params);
  return { settings, parameters: declared.length > 0 ? declared : undefined };
}

function refusal(lines: readonly string[]): ScenarioError {
  const more = lines.length - PROBLEMS_LIMIT;
  const shown = lines.slice(0, PROBLEMS_LIMIT).join('\n');
  return new ScenarioError(more > 0 ? `${shown}\nand ${more} more` : shown);
}

/** Returns the document's value. @throws ScenarioError for aliases that grow without end */
function plainValue(document: Document, path: string): unknown {
  try {
    return document.toJS({ maxAliasCount: ALIASES_LIMIT });
  } catch (error) {
    throw new ScenarioError(`scenario ${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Returns the value without `$schema`, by which a JSON file names its schema for editors. */
function withoutSchema(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const { $schema, ...rest } = value as Readonly<Record<string, unknown>>;
  return typeof $schema === 'string' ? rest : value;
}

/** Returns where a problem is in the text: at its setting, or at the innermost map around it. */
function offsetOf(document: Document, { path, isName = false }: Problem): number {
  let node: unknown = document.contents;
  let offset = startOf(node) ?? 0;
  for (const [depth, key] of path.entries()) {
    const next = childOf(node, key);
    if (!next) break;
    const isValue = depth === path.length - 1 && !isName;
    offset = (isValue ? startOf(next.value) : undefined) ?? next.keyOffset ?? offset;
    node = next.value;
  }
  return offset;
}

interface Child {
  readonly value: unknown;
  readonly keyOffset: number | undefined;
}

function childOf(node: unknown, key: PropertyKey): Child | undefined {
  if (isMap(node)) {
    const pair = node.items.find(({ key: name }) => isScalar(name) && name.value === key);
    return pair && isPair(pair) ? { value: pair.value, keyOffset: startOf(pair.key) } : undefined;
  }
  const items = (node as { readonly items?: readonly unknown[] } | undefined)?.items;
  const value = items?.[Number(key)];
  return value === undefined ? undefined : { value, keyOffset: startOf(value) };
}

const startOf = (node: unknown): number | undefined => (isNode(node) ? (node as Node).range?.[0] : undefined);
