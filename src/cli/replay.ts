/**
 * `mdevsim replay`: replays captures with a real container. Prints the verdict, then one line per capture.
 */

import { type MessageCost, type ReplayResult, replayCapture } from '../conformance/vfio-user/replay.ts';
import { colours } from '../report/colours.ts';
import { ExitCode } from '../report/summary.ts';
import { counted } from '../report/text.ts';

/** Replays the captures in order and prints the results; resolves to the exit code. @throws CaptureError */
export async function replayCommand(
  files: readonly string[],
  { json }: { readonly json?: boolean },
): Promise<ExitCode> {
  const captures: ReplayResult[] = [];
  for (const file of files) captures.push(await replayCapture(file));
  const holds = captures.every((capture) => capture.holds);
  const verdict = holds ? 'passed' : 'failed';
  process.stdout.write(json ? `${JSON.stringify({ verdict, captures }, null, 2)}\n` : replayText(captures));
  return holds ? ExitCode.ok : ExitCode.failed;
}

/** Columns of the table: title, width and text. */
const COLUMNS: readonly (readonly [title: string, width: number, text: (result: ReplayResult) => string])[] =
  [
    ['maps', 7, ({ maps }) => String(maps)],
    ['unmaps', 8, ({ unmaps }) => String(unmaps)],
    ['removed', 9, ({ removed }) => String(removed)],
    ['live/rec', 10, ({ liveMaps, liveMapsRecorded }) => `${liveMaps}/${liveMapsRecorded}`],
    ['pages', 10, ({ pagesMapped }) => String(pagesMapped)],
    ['map mean/p50/p99 µs', 21, ({ mapCost }) => costText(mapCost)],
    ['unmap mean/p50/p99 µs', 23, ({ unmapCost }) => costText(unmapCost)],
    ['counts', 10, ({ countsDiffering }) => (countsDiffering === 0 ? 'equal' : `${countsDiffering} differ`)],
    ['R2', 10, ({ exclusiveBroken }) => (exclusiveBroken === 0 ? 'holds' : `${exclusiveBroken} broken`)],
    ['lookups', 9, ({ lookups }) => String(lookups)],
    ['wrong', 7, ({ lookupsWrong }) => String(lookupsWrong)],
    ['stale', 7, ({ stale }) => String(stale)],
    ['refused', 9, ({ refused }) => String(refused)],
  ];

const costText = ({ meanUs, p50Us, p99Us }: MessageCost): string =>
  [meanUs, p50Us, p99Us].map((us) => us.toFixed(us < 100 ? 1 : 0)).join('/');

function replayText(results: readonly ReplayResult[]): string {
  const failed = results.filter(({ holds }) => !holds).length;
  const messages = results.reduce((sum, { maps, unmaps }) => sum + maps + unmaps, 0);
  const verdict = failed === 0 ? colours.green('PASSED') : colours.red('FAILED');
  const what = failed === 0 ? 'all as recorded' : `${failed} not as recorded`;
  const lines = [
    `${verdict}  ${counted(results.length, 'capture')}, ${counted(messages, 'message')}: ${what}`,
  ];
  for (const result of results) lines.push(...problemLines(result));
  const nameWidth = Math.max(8, ...results.map(({ capture }) => capture.length));
  lines.push(
    `  ${'capture'.padEnd(nameWidth)}${COLUMNS.map(([title, width]) => title.padStart(width)).join('')}`,
  );
  for (const result of results)
    lines.push(
      `  ${result.capture.padEnd(nameWidth)}${COLUMNS.map(([, width, text]) => text(result).padStart(width)).join('')}`,
    );
  return `${lines.join('\n')}\n`;
}

function problemLines(result: ReplayResult): string[] {
  const lines = result.problems.map((problem) => `  ${colours.red('✗')} ${problem}`);
  const { refused, countsDiffering, exclusiveBroken, lookupsWrong, stale } = result;
  const more = refused + countsDiffering + exclusiveBroken + lookupsWrong + stale - lines.length;
  if (more > 0) lines.push(`  ${colours.red('✗')} ${result.file}: and ${more} more`);
  return lines;
}
