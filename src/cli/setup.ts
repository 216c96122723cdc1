/**
 * The commands that prepare and describe runs: `init`, `schema`, `workloads`, `scenarios`.
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Help } from 'commander';
import { WORKLOADS } from '../load/workload-names.ts';
import { builtInScenarios, builtInUrl } from '../scenario/built-in.ts';
import { readDataFile } from '../scenario/data-file.ts';
import { isDataFile } from '../scenario/data-path.ts';
import { scenarioJsonSchema } from '../scenario/json-schema.ts';
import { importScenario } from '../scenario/load.ts';
import { ScenarioError } from '../scenario/scenario.ts';
import { starterExtensions, starterOf } from '../scenario/starter.ts';

const DEFAULT_FILE = 'load.yaml';
const WIDTH = 80;
const NAME_WIDTH = 20;

interface ListFlags {
  readonly json?: boolean;
}

/** Writes a starter scenario. @throws ScenarioError for a file that exists, and for an unknown extension */
export function initCommand(path = DEFAULT_FILE): void {
  const starter = starterOf(path);
  if (starter === undefined)
    throw new ScenarioError(
      `init ${path}: no starter of this kind; accepted: ${starterExtensions().join(', ')}`,
    );
  try {
    writeFileSync(path, starter, { flag: 'wx' });
  } catch (error) {
    if (!isExisting(error)) throw error;
    throw new ScenarioError(`init ${path}: the file exists, and is left as it is; accepted: a new path`);
  }
  process.stderr.write(`wrote ${path}; run it: npx mdevsim run ${path}\n`);
}

const isExisting = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === 'EEXIST';

/** Prints the JSON Schema of scenario files. */
export function schemaCommand(): void {
  process.stdout.write(`${JSON.stringify(scenarioJsonSchema(), null, 2)}\n`);
}

/** Prints the workloads and the metrics that each moves. */
export function workloadsCommand({ json }: ListFlags): void {
  const rows = Object.entries(WORKLOADS).map(([name, { meaning, translation, lazy }]) => ({
    name,
    iteration: meaning,
    needs: lazy ? 'iommu: lazy' : translation ? 'a vIOMMU' : '',
  }));
  if (json) process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
  else
    print(
      rows.map(({ name, iteration, needs }) => [
        name,
        needs === '' ? iteration : `${iteration} (needs ${needs})`,
      ]),
    );
}

/** Prints the built-in scenarios with their questions. */
export async function scenariosCommand({ json }: ListFlags): Promise<void> {
  const rows = await Promise.all(
    builtInScenarios().map(async (name) => ({ name, question: await questionOf(name) })),
  );
  if (json) process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
  else print(rows.map(({ name, question }) => [name, question]));
}

/** The files are this package's own, so they are imported in this thread. */
async function questionOf(name: string): Promise<string> {
  const url = builtInUrl(name) as string;
  if (isDataFile(url)) return readDataFile(fileURLToPath(url)).settings.question;
  return (await importScenario(url)).settings.question;
}

/** Prints names with texts, which are wrapped beside them. */
function print(rows: readonly (readonly [name: string, text: string])[]): void {
  const help = new Help();
  help.helpWidth = WIDTH;
  help.minWidthToWrap = NAME_WIDTH;
  const lines = rows.map(([name, text]) => help.formatItem(name, NAME_WIDTH, text, help));
  process.stdout.write(`${lines.join('\n')}\n`);
}
