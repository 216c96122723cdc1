/**
 * `npm run stress -- --seconds 60 --seed N --readers 2`: the protocol must show no violation, the control at least one.
 */
import { parseArgs } from 'node:util';
import { drawSeed } from '#host';
import { MAX_READERS } from '../../src/pin-table/layout.ts';
import { wholeNumber } from '../support/whole-number.ts';
import { type StressReport, stress } from './harness.ts';

const DEFAULT_SECONDS = 10;
const MAX_SECONDS = 24 * 3600;
const DEFAULT_READERS = 2;
const MAX_SEED = 2 ** 31 - 1;
/** The control's share of the time and its time limit. It finds a violation early or not at all. */
const CONTROL_SHARE = 0.2;
const CONTROL_LIMIT_S = 10;

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
  const seconds = wholeNumber('seconds', values.seconds ?? String(DEFAULT_SECONDS), 1, MAX_SECONDS);
  const readers = wholeNumber('readers', values.readers ?? String(DEFAULT_READERS), 1, MAX_READERS);
  const seed = wholeNumber('seed', values.seed ?? String(drawSeed()), 1, MAX_SEED);
  const controlSeconds = Math.min(seconds * CONTROL_SHARE, CONTROL_LIMIT_S);
  console.log(`stress: ${readers} readers, ${seconds} s, seed ${seed}`);
  console.log('            seconds    lookups/s     pins/s   unmaps/s         uses   violations');
  const control = await stress({ seconds: controlSeconds, seed, readers }, false);
  console.log(line('control', control));
  const protocol = await stress({ seconds: seconds - controlSeconds, seed, readers }, true);
  console.log(line('protocol', protocol));
  for (const kind of new Set(protocol.quarantines)) console.log(`✗ a reader was quarantined: ${kind}`);
  if (protocol.lostNodes > 0) console.log(`✗ ${protocol.lostNodes} nodes were never freed`);
  if (protocol.lateWrites > 0) console.log(`✗ ${protocol.lateWrites} words written after their unmap`);
  if (protocol.violations > 0) console.log('FAILED  the protocol let a page be used after its unmap');
  else if (control.violations === 0)
    console.log('FAILED  the control found no violation: this run proves nothing');
  else console.log('PASSED');
  if (protocol.violations > 0 || control.violations === 0) process.exitCode = 1;
}

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
