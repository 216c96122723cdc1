/**
 * The vfio-user server against a bare server in C on the same kind of socket, with the same client in C.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ServedDevices } from '../src/serve/serve.ts';
import { format, type Report, takeTurns } from './report.ts';
import { Rival } from './rival.ts';

const READS = 20_000;
const PAIRS = 10_000;
const LIVE = 100_000;
/** Reads of each device, when all are read at the same time. */
const READS_OF_MANY = 3_000;
const DEVICES = 16;
const ROUNDS = 9;

const READ_BOUND = 1.7;
const PAIRS_PER_SECOND = 12_000;
const PAIRS_BOUND = 0.6;
const LIVE_BOUND = 1.3;
const MANY_BOUND = 1.5;

export async function benchVfioUser(report: Report): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'mdevsim-bench-'));
  const bare = join(folder, 'bare');
  const socket = join(folder, 's');
  const devices = await ServedDevices.start({
    type: 'edu',
    model: { model: 'edu', source: '' },
    socket,
    count: DEVICES,
    onEvent: () => {},
  });
  const client = new Rival('vfio-user.c', [bare]);
  try {
    const served = `${socket}.0`;
    const ask = (what: string, path: string, count: number) => () => client.ask(`${what} ${path} ${count}`);
    report.say('vfio-user: ns of a command and its reply, served device / bare C server');
    const read = await takeTurns([ask('read', served, READS), ask('read', bare, READS)], ROUNDS);
    report.say(`  read of 4 bytes: ${read.ns.map(format).join(' / ')}`);
    report.bound('vfio-user: REGION_READ, served / bare C', read.ratio(0, 1), '≤', READ_BOUND);
    const pairs = await takeTurns([ask('pairs', served, PAIRS), ask('pairs', bare, PAIRS)], ROUNDS);
    report.say(`  map with a descriptor, and unmap: ${pairs.ns.map(format).join(' / ')}`);
    report.bound(
      'vfio-user: pairs of map and unmap per second',
      1e9 / pairs.ns[0]!,
      '≥',
      PAIRS_PER_SECOND,
      '/s',
    );
    report.bound('vfio-user: pairs per second, served / bare C', pairs.ratio(1, 0), '≥', PAIRS_BOUND);
    const one = await client.ask(`many ${socket} 1 ${READS_OF_MANY}`);
    const many = await takeTurns([() => client.ask(`many ${socket} ${DEVICES} ${READS_OF_MANY}`)], ROUNDS);
    report.say(`  a read of one device: ${format(one)}; of ${DEVICES} at once: ${format(many.ns[0]!)} each`);
    report.bound(`vfio-user: ${DEVICES} devices at once / one`, many.ns[0]! / one, '≤', MANY_BOUND);
    await client.ask(`live ${served} ${LIVE}`);
    const full = await takeTurns([ask('pairs', served, PAIRS)], ROUNDS);
    report.bound(
      'vfio-user: pairs with 100,000 live maps / without',
      full.ns[0]! / pairs.ns[0]!,
      '≤',
      LIVE_BOUND,
    );
  } finally {
    client.close();
    await devices.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}
