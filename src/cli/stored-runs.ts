/**
 * Commands that read what runs have written: declarations.
 */
import type { Command } from 'commander';
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
