/**
 * Commands that read what runs have written: declarations.
 */
import { type Command, Option } from 'commander';
import { compareCommand, failOnOption } from './compare.ts';
import { mergeCommand } from './merge.ts';
import { addOutputs } from './outputs.ts';

export function addMerge(command: Command): void {
  const merge = command
    .command('merge <blobs...>')
    .description("merge the shards of a run (--out blob=PATH of each) and judge the whole run's thresholds");
  addOutputs(merge)
    .option('--json', 'print the summary as JSON')
    .action((paths, options) => {
      process.exitCode = mergeCommand(paths, options);
    });
}

export function addCompare(command: Command): void {
  command
    .command('compare <a> <b>')
    .description('compare the records of two runs (--out json=PATH of each), metric by metric')
    .addOption(
      new Option(
        '--fail-on <condition>',
        "exit with 99 if it holds, such as 'command_latency p(99) > 1.1x'; repeatable",
      )
        .argParser(failOnOption)
        .default([], 'none'),
    )
    .option('--json', 'print the comparison as JSON')
    .action((a, b, options) => {
      process.exitCode = compareCommand(a, b, options);
    });
}
