/**
 * The option `--out KIND=PATH`: checks the paths before a run, and writes the files after it.
 *
 * A file is written under another name beside it and renamed, so that no reader sees a part of it. A file that cannot be
 * written at the end changes neither the other outputs nor the exit code.
 */
import {
  accessSync,
  constants,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { nearest } from '../platform/nearest.ts';
import { OUTPUTS } from '../report/outputs/outputs.ts';
import type { RunRecord } from '../report/record.ts';

/** Path that stands for stdout. */
const STDOUT = '-';

/** The output that `mdevsim merge` reads. The record does not have all of it. */
const BLOB = 'blob';
const KINDS: readonly string[] = [...Object.keys(OUTPUTS), BLOB];

export interface OutputRequest {
  readonly kind: string;
  readonly path: string;
}

/** Thrown for outputs that cannot be written. The run has not started. */
export class OutputError extends Error {
  override name = 'OutputError';
}

/** Parses `KIND=PATH` and adds it to the previous outputs. @throws InvalidArgumentError */
export function outputOption(text: string, before: readonly OutputRequest[]): OutputRequest[] {
  const [, kind, path] = /^([^=]*)=(.+)$/s.exec(text) ?? [];
  if (kind === undefined || path === undefined)
    throw new InvalidArgumentError(`accepted: KIND=PATH; kinds: ${KINDS.join(', ')}`);
  if (!KINDS.includes(kind))
    throw new InvalidArgumentError(
      `no output '${kind}'; nearest: ${nearest(kind, KINDS)}; accepted: ${KINDS.join(', ')}`,
    );
  return [...before, { kind, path }];
}

/** Adds the option to a command. */
export const addOutputs = (command: Command): Command =>
  command.addOption(
    new Option(
      '--out <kind=path>',
      `write an output, ${STDOUT} for stdout; repeatable; kinds: ${KINDS.join(', ')}`,
    )
      .argParser(outputOption)
      .default([], 'none'),
  );

/** Returns whether an output has a sample of the iterations. */
export const wantsIterations = (outputs: readonly OutputRequest[]): boolean =>
  outputs.some(({ kind }) => kind === BLOB || kind === 'perfetto');

export const wantsBlob = (outputs: readonly OutputRequest[]): boolean =>
  outputs.some(({ kind }) => kind === BLOB);

/** Checks that each output can be written, without writing. @param json whether `--json` takes stdout @throws OutputError */
export function checkOutputs(outputs: readonly OutputRequest[], json: boolean): void {
  const onStdout = [...(json ? ['--json'] : []), ...outputs.filter(isOnStdout).map(nameOf)];
  if (onStdout.length > 1)
    throw new OutputError(`${onStdout.join(', ')}: more than one output on stdout; accepted: one`);
  for (const output of outputs)
    if (output.kind === BLOB && isOnStdout(output))
      throw new OutputError(`${nameOf(output)}: bytes on stdout; accepted: path of a file`);
  const files = outputs.filter((output) => !isOnStdout(output));
  for (const [i, output] of files.entries()) {
    const same = files.slice(0, i).find(({ path }) => resolve(path) === resolve(output.path));
    if (same) throw new OutputError(`${nameOf(output)}: ${nameOf(same)} has this path, too`);
    checkPath(output);
  }
}

/** Returns whether an output takes stdout, so that the summary belongs on stderr. */
export const takesStdout = (outputs: readonly OutputRequest[]): boolean => outputs.some(isOnStdout);

/** Outputs that are files now, and a line for each one that has failed. */
interface WrittenOutputs {
  readonly written: readonly OutputRequest[];
  readonly failures: readonly string[];
}

/** Writes all outputs. @param blob returns the output `blob`; a run that has not started has none */
export function writeOutputs(
  outputs: readonly OutputRequest[],
  record: RunRecord,
  blob: () => Uint8Array | undefined = () => undefined,
): WrittenOutputs {
  const written: OutputRequest[] = [];
  const failures: string[] = [];
  for (const output of outputs)
    try {
      const content = output.kind === BLOB ? blob() : OUTPUTS[output.kind]?.(record);
      if (content === undefined) throw new OutputError('not written, because the run has not started');
      if (isOnStdout(output)) {
        process.stdout.write(content);
        continue;
      }
      writeWhole(output.path, content);
      written.push(output);
    } catch (error) {
      failures.push(`${nameOf(output)}: ${error instanceof Error ? error.message : String(error)}`);
    }
  return { written, failures };
}

const isOnStdout = ({ path }: OutputRequest): boolean => path === STDOUT;
const nameOf = ({ kind, path }: OutputRequest): string => `--out ${kind}=${path}`;
const statOf = (path: string): Stats | undefined => statSync(path, { throwIfNoEntry: false });

/** @throws OutputError */
function checkPath(output: OutputRequest): void {
  const { path } = output;
  try {
    const stat = statOf(path);
    if (stat?.isDirectory()) throw new OutputError(`${nameOf(output)}: a folder; accepted: path of a file`);
    if (stat) accessSync(path, constants.W_OK);
    // A device is written directly, a file by a new one in its folder.
    if (!stat || stat.isFile()) checkFolder(output, dirname(targetOf(path)));
  } catch (error) {
    if (error instanceof OutputError) throw error;
    throw new OutputError(`${nameOf(output)}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** @throws OutputError, the file system's errors */
function checkFolder(output: OutputRequest, folder: string): void {
  if (!statSync(folder).isDirectory()) throw new OutputError(`${nameOf(output)}: ${folder} is not a folder`);
  accessSync(folder, constants.W_OK | constants.X_OK);
}

/** Returns the file that a path leads to, also through a symbolic link. */
const targetOf = (path: string): string => (statOf(path) ? realpathSync(path) : resolve(path));

/** @throws the file system's errors, and leaves nothing behind */
function writeWhole(path: string, content: string | Uint8Array): void {
  const stat = statOf(path);
  if (stat && !stat.isFile()) {
    writeFileSync(path, content);
    return;
  }
  const target = targetOf(path);
  const part = join(dirname(target), `.${basename(target)}.${process.pid}.part`);
  try {
    writeFileSync(part, content, stat ? { mode: stat.mode } : {});
    renameSync(part, target);
  } catch (error) {
    rmSync(part, { force: true });
    throw error;
  }
}
