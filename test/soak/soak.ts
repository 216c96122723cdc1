/**
 * `npm run soak -- [--moves N] [--viommu KIND]`: moves VMs under load between two hosts, with all of RAM compared at each
 * move. Prints the count of moves and of differing bytes; exits with 1 after any failure.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { RunSummary } from '../../src/report/summary.ts';

const COMMAND = fileURLToPath(new URL('../../dist/src/cli/bin.js', import.meta.url));
const SCENARIO = fileURLToPath(new URL('back-and-forth.ts', import.meta.url));
const VMS = 2;
const DEFAULT_MOVES = 20;
/** Time limit of a script for each of its moves, and in addition. Generous, for busy machines. */
const MOVE_MS = 10_000;
const EXTRA_MS = 60_000;
const OUTPUT_BYTES_LIMIT = 256 * 1024 * 1024;

const { values } = parseArgs({
  options: {
    moves: { type: 'string', default: String(DEFAULT_MOVES) },
    viommu: { type: 'string', default: 'intel' },
  },
});
const moves = Number(values.moves);
if (!Number.isInteger(moves) || moves < VMS || moves > 100_000) {
  process.stderr.write(`soak: --moves ${values.moves}; accepted: ${VMS} to 100000\n`);
  process.exit(104);
}

const each = Math.ceil(moves / VMS);
const timeoutMs = Math.min(86_400_000, each * MOVE_MS + EXTRA_MS);
const flags = ['--json', '--viommu', values.viommu, '--timeout', String(timeoutMs), '-p', `moves=${each}`];
const run = spawnSync(process.execPath, [COMMAND, 'run', SCENARIO, ...flags], {
  encoding: 'utf8',
  maxBuffer: OUTPUT_BYTES_LIMIT,
  stdio: ['ignore', 'pipe', 'inherit'],
});
if (run.error || run.stdout === '') {
  process.stderr.write(`soak: the run has no summary${run.error ? `: ${run.error.message}` : ''}\n`);
  process.exit(1);
}

const summary = JSON.parse(run.stdout) as RunSummary;
const moved = summary.latencies.find(({ name }) => name === 'downtime')?.count ?? 0;
const texts = [...summary.problems, ...summary.notes];
const different = texts.map((text) => Number(/(\d+) bytes (?:of RAM )?differ/.exec(text)?.[1] ?? 0));
const bytes = different.reduce((sum, count) => sum + count, 0);
process.stdout.write(
  `${moved} of ${each * VMS} moves, ${bytes} bytes differ, ${summary.mismatches} mismatches, ` +
    `${summary.operations} operations, ${summary.wallSeconds.toFixed(1)} s: ${summary.verdict}\n`,
);
for (const problem of summary.problems) process.stdout.write(`  ${problem}\n`);
process.exit(moved === each * VMS && bytes === 0 && run.status === 0 ? 0 : 1);
