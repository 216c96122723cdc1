/**
 * Mutants of the report: verdict, sums over hosts and devices, latencies, pictures.
 */
import type { Mutant } from '../mutant.ts';

const SUMMARY = 'src/report/summary.ts';
const RESULT = 'src/report/vm-result.ts';
const VMS = 'src/report/vm-summary.ts';
const DEVICES = 'src/report/device-report.ts';
const HISTOGRAMS = 'src/report/histograms.ts';
const PNG = 'src/report/png.ts';
const TEXT = 'src/report/text.ts';

const REPORT = ['test/unit/report.test.ts'];
const MOVED = ['test/unit/vm-result.test.ts'];
const PICTURES = ['test/unit/serial-display.test.ts'];

export const REPORT_MUTANTS: readonly Mutant[] = [
  {
    id: 'report/script-error-hides-failure',
    file: SUMMARY,
    find: `  if (failures > 0) return { verdict: 'failed', exitCode: ExitCode.failed };
  if (scriptErrors > 0) return { verdict: 'script error', exitCode: ExitCode.scriptError };`,
    replace: `  if (scriptErrors > 0) return { verdict: 'script error', exitCode: ExitCode.scriptError };
  if (failures > 0) return { verdict: 'failed', exitCode: ExitCode.failed };`,
    why: 'A wrong byte is reported as an error of the script.',
    killedBy: REPORT,
  },
  {
    id: 'report/interrupted-vm-passes',
    file: SUMMARY,
    find: 'interrupted === true || all.some((result) => result.interrupted)',
    replace: 'interrupted === true',
    why: 'A run whose VMs were interrupted passes.',
    killedBy: MOVED,
  },
  {
    id: 'report/lost-vm-passes',
    file: SUMMARY,
    find: 'const problems: string[] = lost.map(',
    replace: 'const problems: string[] = lost.slice(0, 0).map(',
    why: 'A run that lost a VM passes.',
    killedBy: REPORT,
  },
  {
    id: 'report/violations-pass',
    file: SUMMARY,
    find: '    problems.push(...violationLines(result.violations));\n',
    replace: '',
    why: 'A run with violations passes.',
    killedBy: REPORT,
  },
  {
    id: 'report/faults-without-text-pass',
    file: SUMMARY,
    find: 'result.mismatches + result.checksFailed + result.faultsUnexpected',
    replace: 'result.mismatches + result.checksFailed',
    why: 'Unannounced faults beyond the limit of texts pass.',
    killedBy: MOVED,
  },
  {
    id: 'report/checks-without-text-pass',
    file: SUMMARY,
    find: 'result.mismatches + result.checksFailed + result.faultsUnexpected',
    replace: 'result.mismatches + result.faultsUnexpected',
    why: 'Failed checks beyond the limit of texts pass.',
    killedBy: MOVED,
  },
  {
    id: 'report/failed-device-passes',
    file: SUMMARY,
    find: 'for (const device of result.failedDevices)',
    replace: 'for (const device of result.failedDevices.slice(1))',
    why: 'A run that lost a device passes.',
    killedBy: REPORT,
  },
  {
    id: 'report/repeats-uncounted',
    file: VMS,
    find: 'sum + 1 + repeats',
    replace: 'sum + 1',
    why: 'Violations beyond the limit of texts are not counted.',
    killedBy: MOVED,
  },
  {
    id: 'report/cut-trace-is-whole',
    file: SUMMARY,
    find: 'if (dropped === 0 && errors.size === 0) return [];',
    replace: 'if (dropped === 0 || errors.size === 0) return [];',
    why: 'A trace that ended at its limit looks complete.',
    killedBy: MOVED,
  },
  {
    id: 'report/moved-violations-lost',
    file: RESULT,
    find: 'violations: [...first.violations, ...rest.violations],',
    replace: 'violations: rest.violations,',
    why: 'Violations at the host that a VM has left do not fail the run.',
    killedBy: MOVED,
  },
  {
    id: 'report/moved-failures-lost',
    file: RESULT,
    find: 'failures: [...first.failures, ...rest.failures].slice(0, LINES_LIMIT),',
    replace: 'failures: rest.failures,',
    why: 'The texts of failures at the host that a VM has left are lost.',
    killedBy: MOVED,
  },
  {
    id: 'report/moved-mismatches-lost',
    file: RESULT,
    find: 'mismatches: first.mismatches + rest.mismatches,',
    replace: 'mismatches: rest.mismatches,',
    why: 'Wrong bytes at the host that a VM has left do not count.',
    killedBy: MOVED,
  },
  {
    id: 'report/moved-devices-lost',
    file: RESULT,
    find: 'failedDevices: [...first.failedDevices, ...rest.failedDevices],',
    replace: 'failedDevices: rest.failedDevices,',
    why: 'Devices that failed at the host that a VM has left are forgotten.',
    killedBy: MOVED,
  },
  {
    id: 'report/moved-error-lost',
    file: RESULT,
    find: 'scriptError: first.scriptError || rest.scriptError,',
    replace: 'scriptError: rest.scriptError,',
    why: 'An error of the script before a move is forgotten.',
    killedBy: MOVED,
  },
  {
    id: 'report/moved-vgpus-start-anew',
    file: RESULT,
    find: 'vgpus: rest.vgpus.map((last, index) => addVgpus(first.vgpus[index], last)),',
    replace: 'vgpus: rest.vgpus,',
    why: 'The report of a vGPU begins at its last host.',
    killedBy: MOVED,
  },
  {
    id: 'report/moved-clock-lost',
    file: RESULT,
    find: 'clockUs: first.clockUs + rest.clockUs,',
    replace: 'clockUs: rest.clockUs,',
    why: 'A moved vGPU has used more than the engine has.',
    killedBy: MOVED,
  },
  {
    id: 'report/metrics-of-last-device',
    file: DEVICES,
    find: 'metrics.set(name, (metrics.get(name) ?? 0) + value);',
    replace: 'metrics.set(name, value);',
    why: 'A metric is that of the last device.',
    killedBy: MOVED,
  },
  {
    id: 'report/accesses-of-last-device',
    file: DEVICES,
    find: 'count: access.count + (accesses.get(key)?.count ?? 0)',
    replace: 'count: access.count',
    why: 'Accesses to an unimplemented register are those of the last device.',
    killedBy: MOVED,
  },
  {
    id: 'report/reads-and-writes-mixed',
    file: DEVICES,
    find: ` \${access.write}\``,
    replace: '`',
    why: 'Reads and writes of an unimplemented register are one row.',
    killedBy: MOVED,
  },
  {
    id: 'report/rows-beyond-limit-lost',
    file: DEVICES,
    find: 'unimplementedOthers: left + sumBy(',
    replace: 'unimplementedOthers: sumBy(',
    why: 'Accesses beyond the limit of rows are not counted.',
    killedBy: MOVED,
  },
  {
    id: 'report/latencies-unlimited',
    file: HISTOGRAMS,
    find: 'if (this.#histograms.size >= LATENCIES_LIMIT || name.length > LATENCY_NAME_LIMIT) return undefined;',
    replace: 'if (name.length > LATENCY_NAME_LIMIT) return undefined;',
    why: 'A script makes any count of histograms.',
    killedBy: MOVED,
  },
  {
    id: 'report/vm-without-device-latencies',
    file: HISTOGRAMS,
    find: 'for (const part of [this, ...this.#parts])',
    replace: 'for (const part of [this])',
    why: 'The latencies of a VM lack those of its devices.',
    killedBy: MOVED,
  },
  {
    id: 'report/latency-beyond-range',
    file: HISTOGRAMS,
    find: 'Math.max(1, Math.min(HIGHEST_NS, nanoseconds))',
    replace: 'Math.max(1, nanoseconds)',
    why: 'A latency of hours throws.',
    killedBy: REPORT,
  },
  {
    id: 'report/picture-without-filter',
    file: PNG,
    find: '    above.set(line);\n',
    replace: '',
    why: 'A picture is filtered against a black line.',
    killedBy: PICTURES,
  },
  {
    id: 'report/picture-without-stride',
    file: PNG,
    find: 'const at = y * stride + x * PIXEL_BYTES;',
    replace: 'const at = (y * width + x) * PIXEL_BYTES;',
    why: 'A picture with bytes between its lines is skewed.',
    killedBy: PICTURES,
  },
  {
    id: 'report/control-characters-pass',
    file: TEXT,
    find: '[\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]',
    replace: '[\\u0000-\\u001a]',
    why: 'A text moves the cursor.',
    killedBy: MOVED,
  },
];
