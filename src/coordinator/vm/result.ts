/**
 * The result of a VM's run: the guest's report, the verdict's faults and violations, and the devices' counters.
 */

import type { GuestJournal, JournalContent } from '../../channel/guest-journal.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { sumReports } from '../../report/device-report.ts';
import { counted } from '../../report/text.ts';
import type { VmDevice } from './device.ts';
import type { GuestOutcome } from './guest-worker.ts';
import type { VmVerdict } from './verdict.ts';

/** Maximum count of lines of each kind that the devices add to a VM's result. */
const DEVICE_NOTES_LIMIT = 64;

/** The coordinator's own record of a VM that has ended. */
interface VmEnd {
  readonly vm: number;
  readonly devices: readonly VmDevice[];
  readonly journal: JournalContent;
  readonly verdict: VmVerdict;
  readonly audits: number;
  /** Lines about its migration to another host; undefined if it has not migrated. */
  readonly migration?: readonly string[] | undefined;
  readonly vgpus: FrameBodies['vmResult']['vgpus'];
  /** Why the VM was lost, or empty. */
  readonly lost: string;
}

/** A guest's phase and counters. */
export interface VmProgress {
  readonly phase: string;
  readonly operations: number;
  readonly bytesVerified: number;
}

export const vmProgress = (phase: string, journal: GuestJournal): VmProgress => ({
  phase,
  operations: journal.get('operations'),
  bytesVerified: journal.get('bytesVerified'),
});

/** Returns the result of a VM of which nothing is known but why it was lost. */
export const lostResult = (lost: string): FrameBodies['vmResult'] => ({
  operations: 0,
  bytesVerified: 0,
  mismatches: 0,
  checksFailed: 0,
  failures: [],
  faultsExpected: 0,
  faultsUnexpected: 0,
  violations: [],
  histograms: [],
  failedDevices: [],
  scriptError: '',
  maps: 0,
  unmaps: 0,
  switches: 0,
  audits: 0,
  devices: sumReports([]),
  notes: [],
  notesCut: 0,
  moved: false,
  interrupted: false,
  vgpus: [],
  lost,
});

export function vmResult(outcome: GuestOutcome, end: VmEnd): FrameBodies['vmResult'] {
  const { devices, journal, verdict, migration } = end;
  const interrupted = outcome.interrupted && migration === undefined && end.lost === '';
  // Announced faults may still have been to come in a run that ended early. A VM that has moved takes them along.
  const expectsNoMore = !outcome.interrupted && migration === undefined && end.lost === '';
  if (expectsNoMore && verdict.missingFaults > 0)
    verdict.violation(
      'missing-fault',
      `${counted(verdict.missingFaults, 'announced DMA fault')} did not occur`,
    );
  if (expectsNoMore && verdict.missingRemovals > 0)
    verdict.violation('missing-removal', `${verdict.missingRemovals} announced removals did not occur`);
  const counters = devices.map((device) => device.container.counters);
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
  const { operations, bytesVerified, mismatches, checksFailed } = journal;
  const { lines, cut } = notesOf(journal, devices);
  return {
    operations,
    bytesVerified,
    mismatches,
    checksFailed,
    failures: [
      ...journal.failures.map((text) => `VM ${end.vm}: ${text}`),
      ...verdict.unexpectedFaults.map((text) => `VM ${end.vm}: ${text}`),
    ],
    faultsExpected: verdict.faultsExpected,
    faultsUnexpected: verdict.faultsUnexpected,
    violations: verdict.violations(),
    histograms: outcome.histograms,
    failedDevices: lossesOf(devices, 'failure'),
    scriptError: outcome.error,
    maps: sum(counters.map((c) => c.maps)),
    unmaps: sum(counters.map((c) => c.unmaps)),
    switches: sum(devices.map((device) => device.space.counters.switches)),
    audits: end.audits,
    devices: sumReports(devices.flatMap((device) => device.report ?? [])),
    notes: [...lines, ...lossesOf(devices, 'announced'), ...(migration ?? [])],
    notesCut: cut,
    moved: migration !== undefined,
    interrupted,
    vgpus: end.vgpus,
    lost: end.lost,
  };
}

const lossesOf = (devices: readonly VmDevice[], kind: VmDevice['loss']): string[] =>
  devices.filter(({ failure, loss }) => failure !== '' && loss === kind).map((d) => `${d.name} ${d.failure}`);

/**
 * Returns the watchdogs' findings and what was not mapped, then the guest's notes, then the devices' log lines, with the
 * count of the rest.
 */
function notesOf(journal: JournalContent, devices: readonly VmDevice[]): { lines: string[]; cut: number } {
  const logged = (watchdog: boolean) =>
    devices.flatMap(({ name, logged }) =>
      logged.filter((line) => line.watchdog === watchdog).map(({ text }) => `${name}: ${text}`),
    );
  const unmapped = devices.flatMap(({ name, space }) =>
    space.unmapped.lines().map((line) => `${name} ${line}`),
  );
  const [found, log] = [[...logged(true), ...unmapped], logged(false)];
  const beyond = (lines: readonly string[]) => Math.max(0, lines.length - DEVICE_NOTES_LIMIT);
  return {
    lines: [...found.slice(0, DEVICE_NOTES_LIMIT), ...journal.notes, ...log.slice(0, DEVICE_NOTES_LIMIT)],
    cut: journal.notesCut + beyond(found) + beyond(log) + devices.reduce((sum, d) => sum + d.linesCut, 0),
  };
}
