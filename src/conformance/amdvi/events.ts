/**
 * Comparison of an event log with the recorded events.
 */
import { bytesHex } from '../vector-text.ts';
import type { AmdEventFields, AmdEventsStep } from './vectors.ts';

/** An event of 16 bytes. */
export type RawEvent = Uint8Array;

export interface Compared {
  readonly expected: string;
  readonly got: string;
}

/** Bits of the first 64 that each field has: shift and width. */
const FIELDS: Readonly<
  Record<Exclude<keyof AmdEventFields, 'addr'>, readonly [shift: bigint, mask: bigint]>
> = {
  code: [60n, 0xfn],
  devid: [0n, 0xffffn],
  domid: [32n, 0xffffn],
  i: [51n, 1n],
  pr: [52n, 1n],
  rw: [53n, 1n],
  pe: [54n, 1n],
  rz: [55n, 1n],
};

/** Compares by the recorded bytes: the first 8 of each event, in order. */
export function compareRaw(events: readonly RawEvent[], step: AmdEventsStep): Compared {
  const expected = step.expect.map(({ raw, count }) => ({ raw: raw.slice(0, 16).toLowerCase(), count }));
  const got = events.map((event) => ({ raw: bytesHex(event.subarray(0, 8)), count: 1 }));
  return { expected: folded(expected), got: folded(got) };
}

/** Returns the text of events with equal neighbours counted. */
function folded(events: readonly { readonly raw: string; readonly count: number }[]): string {
  const runs: { raw: string; count: number }[] = [];
  for (const { raw, count } of events) {
    const last = runs.at(-1);
    if (last?.raw === raw) last.count += count;
    else runs.push({ raw, count });
  }
  return runs.map(({ raw, count }) => `${raw}×${count}`).join(' ');
}

/** Compares the fields that the specification determines. */
export function compareFields(
  events: readonly RawEvent[],
  expected: readonly (AmdEventFields | null)[],
): Compared {
  const differs =
    events.length !== expected.length || events.some((event, i) => !matches(event, expected[i]));
  return {
    expected: JSON.stringify(expected),
    got: differs ? events.map(bytesHex).join(' ') : JSON.stringify(expected),
  };
}

function matches(event: RawEvent, expected: AmdEventFields | null | undefined): boolean {
  if (!expected) return true;
  const view = new DataView(event.buffer, event.byteOffset);
  const [head, address] = [view.getBigUint64(0, true), view.getBigUint64(8, true)];
  return Object.entries(expected).every(([name, value]) => {
    if (name === 'addr') return (address ^ BigInt(value as string)) >> 12n === 0n;
    const [shift, mask] = FIELDS[name as keyof typeof FIELDS];
    const got = Number((head >> shift) & mask);
    return (Array.isArray(value) ? value : [value]).some((each) => Number(each) === got);
  });
}
