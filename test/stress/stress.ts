/**
 * `npm run stress -- --seconds 60 --seed N --readers 2`: the protocol must show no violation, the control some.
 */
import { parseArgs } from 'node:util';
import { drawSeed } from '#host';
import { MAX_READERS } from '../../src/pin-table/layout.ts';
import { type StressReport, stress } from './harness.ts';

const DEFAULT_SECONDS = 10;
const MAX_SECONDS = 24 * 3600;
const DEFAULT_READERS = 2;
const MAX_SEED = 2 ** 31 - 1;
/** The control's share of the time, and the longest it takes: its answer comes early or not at all. */
const CONTROL_SHARE = 0.2;
const CONTROL_LIMIT_S = 10;

/** @throws RangeError */
function wholeNumber(name: string, text: string, most: number): number {
  const value = Number(text);
  if (!(Number.isInteger(value) && value >= 1 && value <= most))
    throw new RangeError(`--${name} ${text}; accepted: 1 to ${most}`);
  return value;
}

function line(name: string, report: StressReport): string {
  const perSecond = (count: number) => Math.round(count / report.seconds).toString();
  return [
    name.padEnd(10),
    report.seconds.toFixed(1).padStart(8),
    perSecond(report.lookups).padStart(12),
    perSecond(report.pins).padStart(10),
    perSecond(report.unmaps).padStart(10),
    String(report.uses).padStart(12),
    String(report.violations).padStart(12),
  ].join(' ');
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { seconds: { type: 'string' }, seed: { type: 'string' }, readers: { type: 'string' } },
  });
  const seconds = wholeNumber('seconds', values.seconds ?? String(DEFAULT_SECONDS), MAX_SECONDS);
  const readers = wholeNumber('readers', values.readers ?? String(DEFAULT_READERS), MAX_READERS);
  const seed = wholeNumber('seed', values.seed ?? String(drawSeed()), MAX_SEED);
  const controlSeconds = Math.min(seconds * CONTROL_SHARE, CONTROL_LIMIT_S);
  console.log(`stress: ${readers} readers, ${seconds} s, seed ${seed}`);
  console.log('            seconds    lookups/s     pins/s   unmaps/s         uses   violations');
  const control = await stress({ seconds: controlSeconds, seed, readers }, false);
  console.log(line('control', control));
  const protocol = await stress({ seconds: seconds - controlSeconds, seed, readers }, true);
  console.log(line('protocol', protocol));
  for (const kind of new Set(protocol.quarantines)) console.log(`✗ a reader was given up on: ${kind}`);
  if (protocol.lostNodes > 0) console.log(`✗ ${protocol.lostNodes} nodes never came back`);
  if (protocol.lateWrites > 0) console.log(`✗ ${protocol.lateWrites} words written after their unmap`);
  if (protocol.violations > 0) console.log('FAILED  the protocol let a page be used after its unmap');
  else if (control.violations === 0)
    console.log('FAILED  the control saw no violation: this run shows nothing');
  else console.log('PASSED');
  if (protocol.violations > 0 || control.violations === 0) process.exitCode = 1;
}

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
