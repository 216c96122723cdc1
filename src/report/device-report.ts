/**
 * Sums of the devices' counters, and the registers that their models do not implement.
 */
import { hexDigits } from '../memory/address.ts';
import type { FrameBodies } from '../proto/schema.ts';
import { counted, titledLines } from './text.ts';

type DeviceReport = FrameBodies['deviceReport'];
type Access = DeviceReport['unimplemented'][number];

/** Maximum count of unimplemented registers listed in a sum; accesses to further ones are only counted. */
const BURNDOWN_ROWS_LIMIT = 256;
/** Maximum count of them shown in the summary. */
const BURNDOWN_ROWS_SHOWN = 16;

const sumBy = (reports: readonly DeviceReport[], pick: (report: DeviceReport) => number): number =>
  reports.reduce((total, report) => total + pick(report), 0);

/** Adds up the counters of several devices. */
export function sumReports(reports: readonly DeviceReport[]): DeviceReport {
  const metrics = new Map<string, number>();
  for (const { name, value } of reports.flatMap((report) => report.metrics))
    metrics.set(name, (metrics.get(name) ?? 0) + value);
  const accesses = new Map<string, Access>();
  for (const access of reports.flatMap((report) => report.unimplemented)) {
    const key = `${access.bar} ${access.offset} ${access.write}`;
    accesses.set(key, { ...access, count: access.count + (accesses.get(key)?.count ?? 0) });
  }
  const rows = [...accesses.values()].sort(byPlace);
  const left = rows.slice(BURNDOWN_ROWS_LIMIT).reduce((total, { count }) => total + count, 0);
  return {
    pins: sumBy(reports, (r) => r.pins),
    unpins: sumBy(reports, (r) => r.unpins),
    faults: sumBy(reports, (r) => r.faults),
    faultsDropped: sumBy(reports, (r) => r.faultsDropped),
    stalls: sumBy(reports, (r) => r.stalls),
    interrupts: sumBy(reports, (r) => r.interrupts),
    metrics: [...metrics].map(([name, value]) => ({ name, value })),
    unimplemented: rows.slice(0, BURNDOWN_ROWS_LIMIT),
    unimplementedOthers: left + sumBy(reports, (r) => r.unimplementedOthers),
  };
}

const byPlace = (a: Access, b: Access): number =>
  a.bar - b.bar || a.offset - b.offset || Number(a.write) - Number(b.write);

/** Returns the register burndown: registers that guests use and the model does not implement. Empty if there are none. */
export function burndownLines({ unimplemented, unimplementedOthers }: DeviceReport): string[] {
  const hidden = unimplemented.slice(BURNDOWN_ROWS_SHOWN);
  const total = unimplemented.reduce((sum, { count }) => sum + count, unimplementedOthers);
  if (total === 0) return [];
  const lines = [
    `  unimplemented  ${counted(total, 'access', 'accesses')} where the model declares no register`,
  ];
  for (const { bar, offset, write, count } of unimplemented.slice(0, BURNDOWN_ROWS_SHOWN)) {
    const place = `BAR${bar}+0x${hexDigits(offset, 4)}`;
    lines.push(`    ${place.padEnd(16)}${(write ? 'write' : 'read').padEnd(6)}${String(count).padStart(10)}`);
  }
  const others = hidden.reduce((sum, { count }) => sum + count, unimplementedOthers);
  if (others > 0) lines.push(`    ${'elsewhere'.padEnd(22)}${String(others).padStart(10)}`);
  return lines;
}

/** Returns the models' own metrics. Empty if there are none. */
export function metricLines({ metrics }: DeviceReport): string[] {
  const shown = metrics.filter(({ value }) => value > 0).map(({ name, value }) => `${name} ${value}`);
  return shown.length === 0 ? [] : titledLines('devices', shown);
}
