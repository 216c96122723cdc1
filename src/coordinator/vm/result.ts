/**
 * The result of a VM's run: the guest's report, the verdict's faults and violations, and the devices' counters.
 */

import type { GuestReport } from '../../guest/protocol.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { sumReports } from '../../report/device-report.ts';
import type { VmDevice } from './device.ts';
import type { VmVerdict } from './verdict.ts';

/** Maximum count of lines of each kind that the devices add to a VM's result. */
const DEVICE_NOTES_LIMIT = 64;

/** The coordinator's own record of a VM that has ended. */
interface VmEnd {
  readonly devices: readonly VmDevice[];
  readonly verdict: VmVerdict;
  readonly audits: number;
  /** The last progress that the guest has reported. */
  readonly progress: { readonly operations: number; readonly bytesVerified: number };
  /** Lines about its migration to another host; undefined if it has not migrated. */
  readonly migration?: readonly string[] | undefined;
}

export function vmResult(report: GuestReport, end: VmEnd): FrameBodies['vmResult'] {
  const { devices, verdict, progress } = end;
  if (verdict.missingFaults > 0)
    verdict.violation('missing-fault', `${verdict.missingFaults} announced DMA faults did not occur`);
  const counters = devices.map((device) => device.container.counters);
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
  return {
    // A guest that died reports nothing; its last progress still counts.
    operations: Math.max(report.operations, progress.operations),
    bytesVerified: Math.max(report.bytesVerified, progress.bytesVerified),
    mismatches: report.mismatches,
    failures: [...report.failures, ...verdict.unexpectedFaults],
    faultsExpected: verdict.faultsExpected,
    faultsUnexpected: verdict.faultsUnexpected,
    violations: verdict.violations(),
    histograms: report.histograms,
    failedDevices: devices.filter((d) => d.failure !== '').map((d) => `${d.name} ${d.failure}`),
    scriptError: report.error,
    maps: sum(counters.map((c) => c.maps)),
    unmaps: sum(counters.map((c) => c.unmaps)),
    switches: sum(devices.map((device) => device.space.counters.switches)),
    audits: end.audits,
    devices: sumReports(devices.flatMap((device) => device.report ?? [])),
    notes: [...notesOf(report, devices), ...(end.migration ?? [])],
    moved: end.migration !== undefined,
  };
}

/** Returns the watchdogs' findings, then the guest's notes, then the devices' log lines. */
function notesOf(report: GuestReport, devices: readonly VmDevice[]): string[] {
  const logged = (watchdog: boolean) =>
    devices
      .flatMap(({ name, logged }) =>
        logged.filter((line) => line.watchdog === watchdog).map(({ text }) => `${name}: ${text}`),
      )
      .slice(0, DEVICE_NOTES_LIMIT);
  return [...logged(true), ...report.notes, ...logged(false)];
}
