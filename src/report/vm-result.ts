/**
 * Merges the results that a migrated VM has at its hosts.
 */
import type { FrameBodies } from '../proto/schema.ts';
import { sumReports } from './device-report.ts';
import { Latencies } from './histograms.ts';
import { mergeAll } from './vm-summary.ts';

type VmResult = FrameBodies['vmResult'];
type VgpuResult = VmResult['vgpus'][number];

/** Maximum count of notes, and of failures, of a VM over all its hosts; it does not grow with its migrations. */
const LINES_LIMIT = 256;

/** Adds a VM's result at one host to the sum of those at the following hosts. */
export function addResults(first: VmResult, rest: VmResult): VmResult {
  const devices = [first.devices, rest.devices].filter((report) => report !== undefined);
  const notes = [...first.notes, ...rest.notes];
  return {
    operations: first.operations + rest.operations,
    bytesVerified: first.bytesVerified + rest.bytesVerified,
    mismatches: first.mismatches + rest.mismatches,
    checksFailed: first.checksFailed + rest.checksFailed,
    failures: [...first.failures, ...rest.failures].slice(0, LINES_LIMIT),
    faultsExpected: first.faultsExpected + rest.faultsExpected,
    faultsUnexpected: first.faultsUnexpected + rest.faultsUnexpected,
    violations: [...first.violations, ...rest.violations],
    histograms: mergeHistograms(first.histograms, rest.histograms),
    failedDevices: [...first.failedDevices, ...rest.failedDevices],
    scriptError: first.scriptError || rest.scriptError,
    maps: first.maps + rest.maps,
    unmaps: first.unmaps + rest.unmaps,
    switches: first.switches + rest.switches,
    audits: first.audits + rest.audits,
    devices: sumReports(devices),
    notes: notes.slice(0, LINES_LIMIT),
    notesCut: first.notesCut + rest.notesCut + Math.max(0, notes.length - LINES_LIMIT),
    moved: rest.moved,
    interrupted: first.interrupted || rest.interrupted,
    lost: first.lost || rest.lost,
    vgpus: rest.vgpus.map((last, index) => addVgpus(first.vgpus[index], last)),
  };
}

const mergeHistograms = (
  first: VmResult['histograms'],
  rest: VmResult['histograms'],
): VmResult['histograms'] => mergeAll(mergeAll(new Latencies(), first), rest).encode();

/** Adds a device's result at one host to its sum at the following hosts. Its GPU is that of the last. */
function addVgpus(first: VgpuResult | undefined, rest: VgpuResult): VgpuResult {
  if (!first) return rest;
  const reports = [first.report, rest.report].filter((report) => report !== undefined);
  return {
    ...rest,
    operations: first.operations + rest.operations,
    busyUs: first.busyUs + rest.busyUs,
    waitedUs: first.waitedUs + rest.waitedUs,
    preemptions: first.preemptions + rest.preemptions,
    clockUs: first.clockUs + rest.clockUs,
    histograms: mergeHistograms(first.histograms, rest.histograms),
    ...(reports.length > 0 && { report: sumReports(reports) }),
    failure: first.failure || rest.failure,
  };
}
