/**
 * The vIOMMUs in one thread: strict map and unmap of single pages through the guest's tables and queues, replay of a
 * million pages, and the cost of an event with many devices. Each has a baseline in the same run.
 */

import { INTERRUPT_RANGE_END, INTERRUPT_RANGE_START } from '../src/abi/vtd.ts';
import { PAGE_SIZE } from '../src/memory/address.ts';
import { AmdGuest } from './amd-rig.ts';
import { format, type Report, takeTurns } from './report.ts';
import { timed } from './tables.ts';
import { VirtioGuest, VtdGuest } from './viommu-rigs.ts';

const PAIRS = 4096;
const PAIR_RATE = 100_000;
const REPLAY_PAGES = 2 ** 20;
/** Count of pages in the interrupt range, which is never translated. */
const INTERRUPT_PAGES = (INTERRUPT_RANGE_END - INTERRUPT_RANGE_START) / PAGE_SIZE;
const REPLAY_RATE = 5e6;
const WALK_ROUNDS = 5;
const MANY_DEVICES = 1024;
const FLAT = 1.3;
/** Maximum ratio of a map and unmap to an insert and delete of a Map. */
const PAIR_TO_MAP = 100;
/** Maximum ratio of a replayed page to a step over an array. */
const REPLAY_TO_WALK = 200;

interface Guest {
  map(page: number): void;
  unmap(page: number): void;
}

const pairs = (guest: Guest) => () =>
  timed(PAIRS, () => {
    for (let page = 0; page < PAIRS; page++) {
      guest.map(page);
      guest.unmap(page);
    }
  });

/** Inserts and deletes the same pages in a Map. */
function mapBaseline(): () => number {
  const held = new Map<number, number>();
  return () =>
    timed(PAIRS, () => {
      for (let page = 0; page < PAIRS; page++) {
        held.set(page * PAGE_SIZE, page);
        held.delete(page * PAGE_SIZE);
      }
    });
}

export async function benchViommu(report: Report): Promise<void> {
  await benchPairs(report);
  await benchReplay(report, 'VT-d', new VtdGuest(1, REPLAY_PAGES), INTERRUPT_PAGES);
  await benchReplay(report, 'AMD-Vi', new AmdGuest(1, REPLAY_PAGES), INTERRUPT_PAGES);
}

async function benchPairs(report: Report): Promise<void> {
  const [vtd, crowdedVtd] = [new VtdGuest(1, PAIRS), new VtdGuest(MANY_DEVICES, PAIRS)];
  const [virtio, crowdedVirtio] = [new VirtioGuest(1), new VirtioGuest(MANY_DEVICES)];
  const [amd, crowdedAmd] = [new AmdGuest(1, PAIRS), new AmdGuest(MANY_DEVICES, PAIRS)];
  report.say(
    `viommu: ns per map and unmap of a page: VT-d / virtio-iommu / AMD-Vi / all with ${MANY_DEVICES} devices / a Map`,
  );
  const sides = [vtd, virtio, amd, crowdedVtd, crowdedVirtio, crowdedAmd].map(pairs);
  const result = await takeTurns([...sides, mapBaseline()]);
  report.say(result.ns.map((ns) => format(ns).padStart(9)).join(' '));
  const [vtdNs, virtioNs, amdNs] = result.ns as [number, number, number];
  report.bound('VT-d legacy: map and unmap through the queue', 1e9 / vtdNs, '≥', PAIR_RATE, 'pairs/s');
  report.bound('virtio-iommu: MAP and UNMAP', 1e9 / virtioNs, '≥', PAIR_RATE, 'pairs/s');
  report.bound('AMD-Vi: map and unmap through the command buffer', 1e9 / amdNs, '≥', PAIR_RATE, 'pairs/s');
  report.bound('VT-d pair to insert and delete of a Map', result.ratio(0, 6), '≤', PAIR_TO_MAP);
  report.bound('virtio-iommu pair to insert and delete of a Map', result.ratio(1, 6), '≤', PAIR_TO_MAP);
  report.bound('AMD-Vi pair to insert and delete of a Map', result.ratio(2, 6), '≤', PAIR_TO_MAP);
  report.bound(`VT-d pair with ${MANY_DEVICES} devices to one`, result.ratio(3, 0), '≤', FLAT);
  report.bound(`virtio-iommu pair with ${MANY_DEVICES} devices to one`, result.ratio(4, 1), '≤', FLAT);
  report.bound(`AMD-Vi pair with ${MANY_DEVICES} devices to one`, result.ratio(5, 2), '≤', FLAT);
  for (const { container } of [vtd, virtio, amd, crowdedVtd, crowdedVirtio, crowdedAmd])
    if (container.liveMappings !== 0) throw new Error('mappings are left');
}

async function benchReplay(
  report: Report,
  name: string,
  guest: VtdGuest | AmdGuest,
  skipped: number,
): Promise<void> {
  report.say(`viommu: ns per page of a replay of ${REPLAY_PAGES}: ${name} / its tables alone / an array`);
  for (let page = 0; page < REPLAY_PAGES; page++) guest.setEntry(page);
  const words = new Uint32Array(2 * REPLAY_PAGES).fill(1);
  let seen = 0;
  const result = await takeTurns(
    [
      () => {
        guest.disable();
        return timed(REPLAY_PAGES, () => guest.enable());
      },
      () => timed(REPLAY_PAGES, () => guest.walk(() => void seen++)),
      () =>
        timed(REPLAY_PAGES, () => {
          for (let i = 0; i < words.length; i++) seen += words[i] as number;
        }),
    ],
    WALK_ROUNDS,
  );
  if (guest.container.liveMappings !== REPLAY_PAGES - skipped || seen === 0)
    throw new Error('the replay is not complete');
  report.say(result.ns.map((ns) => format(ns).padStart(9)).join(' '));
  const [replayNs, walkNs] = result.ns as [number, number];
  report.bound(`${name} replay into a container`, 1e9 / replayNs / 1e6, '≥', REPLAY_RATE / 1e6, 'M pages/s');
  report.bound(`${name} replay, tables alone`, 1e9 / walkNs / 1e6, '≥', REPLAY_RATE / 1e6, 'M pages/s');
  report.bound(`${name} replay to a walk over an array`, result.ratio(0, 2), '≤', REPLAY_TO_WALK);
}
