/**
 * One-line texts of the errors that a user's file throws, with the place in it.
 */
import { fileURLToPath } from 'node:url';
import { loadedFiles } from '../src/scenario/loaded-files.ts';

/** Maximum count of characters in such a line. */
const ERROR_TEXT_LIMIT = 400;

/** Returns name, message and, if known, file, line and column of an error of the file at `url`. Never throws. */
export function errorText(error: unknown, url: string): string {
  try {
    if (!(error instanceof Error)) return `threw ${String(error)}`.slice(0, ERROR_TEXT_LIMIT);
    return withPlace(`${error.name}: ${firstLine(error.message)}`, error, url);
  } catch {
    return 'threw something that cannot be described';
  }
}

/** Does as {@link errorText} for an error of a file's top level; leaves out the name of a plain Error. */
export function loadErrorText(error: unknown, url: string): string {
  if (!(error instanceof Error) || error.name !== 'Error') return errorText(error, url);
  return withPlace(firstLine(error.message), error, url);
}

/** Returns the first line of a text, cut. */
const firstLine = (text: string): string => text.split('\n', 1)[0]!.slice(0, ERROR_TEXT_LIMIT);

function withPlace(text: string, error: Error, url: string): string {
  const stack = error.stack ?? '';
  const place =
    syntaxPlace(stack) ?? (error instanceof SyntaxError ? checkedPlace() : framePlace(stack, url));
  return place === undefined
    ? text.slice(0, ERROR_TEXT_LIMIT)
    : `${text.slice(0, ERROR_TEXT_LIMIT)} (${place})`;
}

/** Returns the place in Node's report of a syntax error: `file:line`, then the source, then a caret below it. */
function syntaxPlace(report: string): string | undefined {
  const [, file, line] = /^(?:file:\/\/)?(\/[^\n]+):(\d+)\n/.exec(report) ?? [];
  if (file === undefined) return undefined;
  const caret = report.split('\n').find((text) => /^\s*\^+\s*$/.test(text));
  return caret === undefined ? `${file}:${line}` : `${file}:${line}:${caret.indexOf('^') + 1}`;
}

/** Maximum count of files that are compiled again to find the one with the error. */
const FILES_CHECKED = 8;
const CHECK_TIMEOUT_MS = 3_000;

/** Finds the place of a syntax error in JavaScript, which the error itself lacks: has Node check the user's files. */
function checkedPlace(): string | undefined {
  for (const url of loadedFiles().slice(-FILES_CHECKED).reverse()) {
    const options = { encoding: 'utf8', timeout: CHECK_TIMEOUT_MS } as const;
    // Imported only here: every device worker loads this module.
    const { spawnSync } = process.getBuiltinModule('node:child_process');
    const place = syntaxPlace(spawnSync(process.execPath, ['--check', fileURLToPath(url)], options).stderr);
    if (place !== undefined) return place;
  }
  return undefined;
}

/** Returns the first place of a stack in the file at `url`, or else in another file that the user has loaded. */
function framePlace(stack: string, url: string): string | undefined {
  const frames = stack.split('\n').filter((line) => line.trim().startsWith('at '));
  const frame = [url, ...loadedFiles()]
    .map((file) => (file.startsWith('file:') ? fileURLToPath(file) : file))
    .map((file) => frames.find((line) => line.includes(file)))
    .find((line) => line !== undefined);
  return frame?.trim().replace('file://', '');
}
