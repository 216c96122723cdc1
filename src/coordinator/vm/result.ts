/**
 * What a VM's run came to: the guest's report, the ledger's faults and violations, and its devices' figures as one.
 */

import type { GuestReport } from '../../guest/protocol.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { sumReports } from '../../report/device-report.ts';
import type { VmDevice } from './device.ts';
import type { VmVerdict } from './verdict.ts';

/** Lines of its devices, of each kind, that a VM's result has. */
const DEVICE_NOTES_LIMIT = 64;

/** What the coordinator knows of a VM at its end. */
export interface VmEnd {
  readonly devices: readonly VmDevice[];
  readonly ledger: VmVerdict;
  readonly audits: number;
  /** What the guest last said of its progress. */
  readonly operations: number;
  readonly bytesVerified: number;
  /** How it has moved to another host, in words; undefined if it has not. */
  readonly migration?: readonly string[] | undefined;
}

export function vmResult(report: GuestReport, end: VmEnd): FrameBodies['vmResult'] {
  const { devices, ledger } = end;
  if (ledger.missingFaults > 0)
    ledger.violation('missing-fault', `${ledger.missingFaults} announced DMA faults did not come`);
  const counters = devices.map((device) => device.container.counters);
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
  return {
    // A guest that could not report is known by what it last said of its progress.
    operations: Math.max(report.operations, end.operations),
    bytesVerified: Math.max(report.bytesVerified, end.bytesVerified),
    mismatches: report.mismatches,
    failures: [...report.failures, ...ledger.unexpectedFaults],
    faultsExpected: ledger.faultsExpected,
    faultsUnexpected: ledger.faultsUnexpected,
    violations: ledger.violations(),
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

/** What the watchdogs found about the guest, what the guest says, and what the devices have logged. */
function notesOf(report: GuestReport, devices: readonly VmDevice[]): string[] {
  const logged = (watchdog: boolean) =>
    devices
      .flatMap(({ name, logged }) =>
        logged.filter((line) => line.watchdog === watchdog).map(({ text }) => `${name}: ${text}`),
      )
      .slice(0, DEVICE_NOTES_LIMIT);
  return [...logged(true), ...report.notes, ...logged(false)];
}
