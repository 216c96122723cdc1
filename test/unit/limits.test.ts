import { expect } from 'chai';
import { describe, it } from 'mocha';
import { EXPECTED_FAULT_LIMIT, VIOLATION_LIMIT, VmVerdict } from '../../src/coordinator/vm/verdict.ts';
import {
  CapacityError,
  checkCapacity,
  MAPS_PER_PROCESS,
  MAPS_PER_WORKER,
} from '../../src/coordinator/workers/capacity.ts';
import type { Iova } from '../../src/memory/address.ts';
import { parseSettings, ScenarioError, VGPUS_LIMIT, VMS_LIMIT } from '../../src/scenario/scenario.ts';

const GIB = 2 ** 30;
const SIZE = { vms: 4, vgpus: 3, processes: 1, ramBytes: 2 ** 26 };

describe('the capacity check', () => {
  const machine = { maxMapCount: MAPS_PER_PROCESS + 4 * 4 * MAPS_PER_WORKER, memoryBytes: 64 * GIB };

  it('accepts what just fits, and refuses one map less', () => {
    checkCapacity(SIZE, machine);
    expect(() => checkCapacity(SIZE, { ...machine, maxMapCount: machine.maxMapCount - 1 })).to.throw(
      CapacityError,
      /vm\.max_map_count is \d+: at most 3 VMs per process/,
    );
  });

  it('counts per process', () => {
    checkCapacity({ ...SIZE, vms: 8, processes: 2 }, machine);
    expect(() => checkCapacity({ ...SIZE, vms: 9, processes: 2 }, machine)).to.throw(CapacityError);
  });

  it('refuses more RAM than may be planned, with the numbers', () => {
    expect(() => checkCapacity({ ...SIZE, ramBytes: 16 * GIB }, machine)).to.throw(
      CapacityError,
      /4 VMs of 16384 MiB RAM and 3 vGPUs may need \d+ MiB; 65536 MiB are available/,
    );
  });
});

describe('scenario settings', () => {
  it('are accepted at their limits and refused one beyond', () => {
    const base = { name: 'x' };
    expect(parseSettings({ ...base, vms: VMS_LIMIT, vgpus: VGPUS_LIMIT }).vms).to.equal(VMS_LIMIT);
    for (const [name, value] of Object.entries({
      vms: VMS_LIMIT + 1,
      vgpus: VGPUS_LIMIT + 1,
      ramMiB: 4100,
      timeoutMs: 0,
      baselineWorkers: 257,
    }))
      expect(() => parseSettings({ ...base, [name]: value }), name).to.throw(
        ScenarioError,
        new RegExp(`^${name}: `),
      );
  });

  it('refuse what they do not know', () => {
    expect(() => parseSettings({ name: 'x', vgpu: 4 })).to.throw(ScenarioError, /vgpu/);
  });
});

describe("a VM's ledger", () => {
  const fault = (iova: number) => ({ requesterId: 8, iova: iova as Iova, write: true, reason: 5, text: '' });

  it('matches announced faults by device and page, each once', () => {
    const ledger = new VmVerdict();
    ledger.expectFault(0, 0x1000);
    expect(ledger.fault(1, fault(0x1000)), 'another device').to.equal(false);
    expect(ledger.fault(0, fault(0x1ff8)), 'the same page').to.equal(true);
    expect(ledger.fault(0, fault(0x1000)), 'a second time').to.equal(false);
    expect([ledger.faultsExpected, ledger.faultsUnexpected]).to.deep.equal([1, 2]);
    expect(ledger.missingFaults).to.equal(0);
  });

  it('says how many announced faults never came', () => {
    const ledger = new VmVerdict();
    ledger.expectFault(0, 0);
    ledger.expectFault(0, 0);
    expect(ledger.missingFaults).to.equal(2);
  });

  it('stays bounded: violations are counted by kind, announcements refused', () => {
    const ledger = new VmVerdict();
    for (let i = 0; i < VIOLATION_LIMIT + 50; i++) ledger.violation(i % 2 ? 'odd' : 'even', String(i));
    expect(ledger.violations()).to.have.length(VIOLATION_LIMIT + 2);
    expect(ledger.violations().reduce((sum, { repeats }) => sum + repeats, 0)).to.equal(50);
    for (let page = 0; page <= EXPECTED_FAULT_LIMIT; page++) ledger.expectFault(0, page * 4096);
    expect(ledger.missingFaults).to.equal(EXPECTED_FAULT_LIMIT);
  });
});
