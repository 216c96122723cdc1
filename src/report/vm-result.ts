/**
 * Merges the results that a migrated VM has at its hosts.
 */
import type { FrameBodies } from '../proto/schema.ts';
import { sumReports } from './device-report.ts';

type VmResult = FrameBodies['vmResult'];

/** Adds a VM's result at one host to the sum of those at the following hosts. */
export function addResults(first: VmResult, rest: VmResult): VmResult {
  const devices = [first.devices, rest.devices].filter((report) => report !== undefined);
  return {
    operations: first.operations + rest.operations,
    bytesVerified: first.bytesVerified + rest.bytesVerified,
    mismatches: first.mismatches + rest.mismatches,
    failures: [...first.failures, ...rest.failures],
    faultsExpected: first.faultsExpected + rest.faultsExpected,
    faultsUnexpected: first.faultsUnexpected + rest.faultsUnexpected,
    violations: [...first.violations, ...rest.violations],
    // The summary merges histograms of the same name.
    histograms: [...first.histograms, ...rest.histograms],
    failedDevices: [...first.failedDevices, ...rest.failedDevices],
    scriptError: first.scriptError || rest.scriptError,
    maps: first.maps + rest.maps,
    unmaps: first.unmaps + rest.unmaps,
    switches: first.switches + rest.switches,
    audits: first.audits + rest.audits,
    devices: sumReports(devices),
    notes: [...first.notes, ...rest.notes],
    moved: rest.moved,
  };
}
