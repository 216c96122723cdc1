import { expect } from 'chai';
import { describe, it } from 'mocha';
import { EXPECTED_FAULT_LIMIT, VIOLATION_LIMIT, VmVerdict } from '../../src/coordinator/vm/verdict.ts';
import type { Iova } from '../../src/memory/address.ts';

const record = (iova: number) => ({ requesterId: 8, iova: iova as Iova, write: true, reason: 5, text: '' });

describe('VM verdict', () => {
  it('counts missing announced faults, except those of a lost device', () => {
    const verdict = new VmVerdict();
    for (const device of [1, 2, 12]) verdict.expectFault(device, 0x5000);
    verdict.expectFault(1, 0x6000);
    expect(verdict.fault(2, record(0x5fff))).to.equal(true);
    expect(verdict.missingFaults).to.equal(3);
    verdict.deviceLost(1);
    verdict.expectFault(1, 0x7000);
    expect(verdict.missingFaults, 'the fault of device 12').to.equal(1);
    expect(verdict.fault(1, record(0x5000))).to.equal(false);
    expect([verdict.faultsExpected, verdict.faultsUnexpected]).to.deep.equal([1, 1]);
  });

  it('matches announced faults by device and page, each once', () => {
    const verdict = new VmVerdict();
    verdict.expectFault(0, 0x1000);
    expect(verdict.fault(1, record(0x1000)), 'another device').to.equal(false);
    expect(verdict.fault(0, record(0x1ff8)), 'the same page').to.equal(true);
    expect(verdict.fault(0, record(0x1000)), 'a second time').to.equal(false);
    expect([verdict.faultsExpected, verdict.faultsUnexpected]).to.deep.equal([1, 2]);
    expect(verdict.missingFaults).to.equal(0);
  });

  it('counts announced faults that never came', () => {
    const verdict = new VmVerdict();
    verdict.expectFault(0, 0);
    verdict.expectFault(0, 0);
    expect(verdict.missingFaults).to.equal(2);
  });

  it('takes what was announced along to the next host, except for devices that are lost there', () => {
    const last = new VmVerdict();
    last.expectFault(0, 0x5000);
    last.expectFault(0, 0x5000);
    for (const device of [1, 2]) {
      last.expectFault(device, 0x6000);
      last.expectRemoval(device);
    }
    const next = new VmVerdict();
    next.deviceLost(1);
    next.expectations = JSON.parse(JSON.stringify(last.expectations));
    expect([next.missingFaults, next.missingRemovals]).to.deep.equal([3, 1]);
    expect([next.fault(0, record(0x5008)), next.fault(0, record(0x5008))]).to.deep.equal([true, true]);
    expect([next.fault(0, record(0x5008)), next.fault(1, record(0x6000))]).to.deep.equal([false, false]);
    expect([next.removed(2), next.removed(2), next.removed(1)]).to.deep.equal([true, false, false]);
  });

  it('bounds the texts of violations and the count of their kinds', () => {
    const verdict = new VmVerdict();
    for (let i = 0; i < 1000; i++) verdict.violation(`${i} ${'k'.repeat(1e4)}`, 'd'.repeat(1e4));
    const violations = verdict.violations();
    expect(violations.length).to.be.below(VIOLATION_LIMIT + 100);
    expect(violations.reduce((sum, { repeats }) => sum + repeats, 0)).to.equal(1000 - VIOLATION_LIMIT);
    for (const { kind, detail } of violations) expect(kind.length + detail.length).to.be.below(1200);
  });

  it('stores a bounded count of violations and announced faults', () => {
    const verdict = new VmVerdict();
    for (let i = 0; i < VIOLATION_LIMIT + 50; i++) verdict.violation(i % 2 ? 'odd' : 'even', String(i));
    expect(verdict.violations()).to.have.length(VIOLATION_LIMIT + 2);
    expect(verdict.violations().reduce((sum, { repeats }) => sum + repeats, 0)).to.equal(50);
    for (let page = 0; page <= EXPECTED_FAULT_LIMIT; page++) verdict.expectFault(0, page * 4096);
    expect(verdict.missingFaults).to.equal(EXPECTED_FAULT_LIMIT);
  });
});
