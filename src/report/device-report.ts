/**
 * Device counters, added up.
 */
import type { FrameBodies } from '../channel/schema.ts';

/** Adds up the counters of several devices. */
export function sumReports(reports: readonly FrameBodies['deviceReport'][]): FrameBodies['deviceReport'] {
  const sum = (name: Exclude<keyof FrameBodies['deviceReport'], 'unimplemented'>) =>
    reports.reduce((total, report) => total + report[name], 0);
  const accesses = new Map<number, number>();
  for (const report of reports)
    for (const { offset, count } of report.unimplemented)
      accesses.set(offset, (accesses.get(offset) ?? 0) + count);
  return {
    commands: sum('commands'),
    bytesFilled: sum('bytesFilled'),
    bytesCopied: sum('bytesCopied'),
    bytesSummed: sum('bytesSummed'),
    pins: sum('pins'),
    unpins: sum('unpins'),
    faults: sum('faults'),
    faultsDropped: sum('faultsDropped'),
    stalls: sum('stalls'),
    interrupts: sum('interrupts'),
    unimplemented: [...accesses].map(([offset, count]) => ({ offset, count })),
  };
}
