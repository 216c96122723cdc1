/**
 * Mutants of the coordinator's part of a VM: its verdict and result, its devices, the reasons of faults.
 */
import type { Mutant } from '../mutant.ts';

const VERDICT = 'src/coordinator/vm/verdict.ts';
const RESULT = 'src/coordinator/vm/result.ts';
const VM = 'src/coordinator/vm/vm.ts';
const CLOSE = 'src/coordinator/vm/close-devices.ts';
const DEVICE = 'src/coordinator/vm/device.ts';
const AUDIT = 'src/coordinator/vm/vm-audit.ts';
const FAULT = 'src/coordinator/vm/dma-fault.ts';

const VERDICTS = ['test/unit/verdict.test.ts'];
const RESULTS = ['test/unit/vm-end.test.ts'];
const RUNS = ['test/unit/vm-run.test.ts'];
const AUDITS = ['test/unit/vm-audit.test.ts'];
const DEVICES = ['test/unit/vm-device.test.ts'];

export const COORDINATOR_MUTANTS: readonly Mutant[] = [
  {
    id: 'coordinator/left-host-violations',
    file: RESULT,
    find: 'violations: verdict.violations(),',
    replace: 'violations: migration ? [] : verdict.violations(),',
    why: 'Violations at the host that a VM has left do not fail the run.',
    killedBy: RESULTS,
  },
  {
    id: 'coordinator/left-host-faults',
    file: RESULT,
    find: 'faultsUnexpected: verdict.faultsUnexpected,',
    replace: 'faultsUnexpected: migration ? 0 : verdict.faultsUnexpected,',
    why: 'DMA faults at the host that a VM has left do not fail the run.',
    killedBy: RESULTS,
  },
  {
    id: 'coordinator/moved-misses-faults',
    file: RESULT,
    find: "const expectsNoMore = !outcome.interrupted && migration === undefined && end.lost === '';",
    replace: "const expectsNoMore = !outcome.interrupted && end.lost === '';",
    why: 'Faults that a migrated VM has taken along are missing at the host that it has left.',
    killedBy: RESULTS,
  },
  {
    id: 'coordinator/interrupted-misses-faults',
    file: RESULT,
    find: 'const expectsNoMore = !outcome.interrupted && migration',
    replace: 'const expectsNoMore = migration',
    why: 'An interrupted run is accused of faults that were still to come.',
    killedBy: RESULTS,
  },
  {
    id: 'coordinator/missing-faults-pass',
    file: RESULT,
    find: 'if (expectsNoMore && verdict.missingFaults > 0)',
    replace: 'if (expectsNoMore && verdict.missingFaults > 1)',
    why: 'One announced fault that never came does not fail the run.',
    killedBy: RESULTS,
  },
  {
    id: 'coordinator/missing-removal-passes',
    file: RESULT,
    find: '  if (expectsNoMore && verdict.missingRemovals > 0)\n',
    replace: '  if (verdict.missingRemovals > 1)\n',
    why: 'An announced removal that never came does not fail the run.',
    killedBy: RESULTS,
  },
  {
    id: 'coordinator/announced-loss-fails',
    file: RESULT,
    find: "failedDevices: lossesOf(devices, 'failure'),",
    replace: "failedDevices: [...lossesOf(devices, 'failure'), ...lossesOf(devices, 'announced')],",
    why: 'A removal that the script has announced fails the run.',
    killedBy: RESULTS,
  },
  {
    id: 'coordinator/fault-repeats',
    file: VERDICT,
    find: 'else this.#expected.set(key, announced - 1);',
    replace: 'else this.#expected.set(key, announced);',
    why: 'Faults that are announced twice stand for any count of faults.',
    killedBy: VERDICTS,
  },
  {
    id: 'coordinator/fault-of-other-device',
    file: VERDICT,
    find: 'const key = keyOf(device, record.iova);',
    replace: 'const key = keyOf(0, record.iova);',
    why: 'A fault of one device is taken for the announced one of another.',
    killedBy: VERDICTS,
  },
  {
    id: 'coordinator/lost-device-expected',
    file: VERDICT,
    find: '    this.#lost.add(device);\n    for',
    replace: '    for',
    why: 'Faults that are announced for a lost device count as missing.',
    killedBy: VERDICTS,
  },
  {
    id: 'coordinator/expectations-lost',
    file: VERDICT,
    find: '    for (const [key, count] of faults.slice(0, EXPECTED_FAULT_LIMIT)) this.#expected.set(key, count);\n',
    replace: '    void faults;\n',
    why: 'Faults that were announced at the last host count as unexpected.',
    killedBy: VERDICTS,
  },
  {
    id: 'coordinator/removals-lost',
    file: VERDICT,
    find: '    for (const device of removals) this.expectRemoval(device);\n',
    replace: '    void removals;\n',
    why: 'A removal that was announced at the last host fails the run.',
    killedBy: VERDICTS,
  },
  {
    id: 'coordinator/arrived-loss-expected',
    file: VERDICT,
    find: '    for (const device of this.#lost) this.deviceLost(device);\n',
    replace: '',
    why: 'A VM that arrives with a lost device still waits for its faults.',
    killedBy: VERDICTS,
  },
  {
    id: 'coordinator/more-violations-lost',
    file: VERDICT,
    find: 'return [...this.#violations, ...more];',
    replace: 'return this.#violations;',
    why: 'Violations beyond the limit are not counted.',
    killedBy: VERDICTS,
  },
  {
    id: 'coordinator/leaked-pins',
    file: CLOSE,
    find: 'if (pins > 0) vm.violation(',
    replace: "if (pins > 0 && device.failure !== '') vm.violation(",
    why: 'Pins that a stopped device has left are not reported.',
    killedBy: RUNS,
  },
  {
    id: 'coordinator/no-last-audit',
    file: VM,
    find: '      await this.#control.audit.last();\n',
    replace: '      this.#control.audit.count += 2;\n',
    why: 'A VM whose script has ended is not audited.',
    killedBy: RUNS,
  },
  {
    id: 'coordinator/last-audit-at-error',
    file: AUDIT,
    find: '    if ((await this.begin()) > 0) await sleep(ANNOUNCE_MS);\n    await this.end();\n',
    replace: '    if ((await this.begin()) > 0) await sleep(ANNOUNCE_MS);\n',
    why: 'The last audit accuses nobody.',
    killedBy: AUDITS,
  },
  {
    id: 'coordinator/audit-of-lost-device',
    file: AUDIT,
    find: 'if (device.alive) yield device;',
    replace: 'yield device;',
    why: 'An audit accuses the guest of a lost device.',
    killedBy: AUDITS,
  },
  {
    id: 'coordinator/failed-control-waits',
    file: DEVICE,
    find: '    this.control.lost(reason);\n',
    replace: '',
    why: 'A migration waits for the answer of a device that has failed.',
    killedBy: DEVICES,
  },
  {
    id: 'coordinator/failed-device-blocks',
    file: DEVICE,
    find: '    this.container.releaseUser(this);\n',
    replace: '',
    why: 'The pins and the section of a failed device block every later unmap.',
    killedBy: DEVICES,
  },
  {
    id: 'coordinator/failed-link-open',
    file: DEVICE,
    find: '    this.link.mmioServer().close();\n    this.link.setState(DeviceState.failed);',
    replace: '    this.link.setState(DeviceState.failed);',
    why: 'A guest waits for ever for the answer of a failed device.',
    killedBy: DEVICES,
  },
  {
    id: 'coordinator/failed-device-ready',
    file: DEVICE,
    find: '    this.link.setState(DeviceState.failed);\n',
    replace: '',
    why: 'A failed device counts as ready.',
    killedBy: DEVICES,
  },
  {
    id: 'coordinator/leaving-device-alive',
    file: DEVICE,
    find: "this.failure === '' && this.leaving === '' && this",
    replace: "this.failure === '' && this",
    why: 'A device that its host removes is audited and migrated.',
    killedBy: DEVICES,
  },
  {
    id: 'coordinator/arrived-loss-is-failure',
    file: DEVICE,
    find: "    this.loss = 'earlier';\n",
    replace: '',
    why: 'A device that was lost at the last host fails the run twice.',
    killedBy: DEVICES,
  },
  {
    id: 'coordinator/unsent-frame-traced',
    file: DEVICE,
    find: '    if (sent) this.#owner.sent(bytes);',
    replace: '    this.#owner.sent(bytes);',
    why: 'The trace has frames that found no room.',
    killedBy: DEVICES,
  },
  {
    id: 'coordinator/denied-peer-reason',
    file: FAULT,
    find: 'if (inMmioWindow(gpa) && denied) return',
    replace: 'if (denied) return',
    why: 'Any denied access is explained by a BAR.',
    killedBy: DEVICES,
  },
  {
    id: 'coordinator/peer-reason',
    file: FAULT,
    find: '  if (inMmioWindow(gpa)) return',
    replace: '  if (inMmioWindow(gpa) && denied) return',
    why: 'A DMA to an address that no device decodes is explained by missing RAM.',
    killedBy: DEVICES,
  },
  {
    id: 'coordinator/full-container-blames-guest',
    file: FAULT,
    find: '  if (refusal !== undefined) return',
    replace: "  if (refusal === '') return",
    why: 'The guest is blamed for a mapping that the container refused.',
    killedBy: DEVICES,
  },
];
