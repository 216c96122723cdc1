import { expect } from 'chai';
import { describe, it } from 'mocha';
import { VmVerdict } from '../../src/coordinator/vm/verdict.ts';
import type { Iova } from '../../src/memory/address.ts';

const record = (iova: number) => ({ requesterId: 8, iova: iova as Iova, write: true, reason: 5, text: '' });

describe("a VM's ledger", () => {
  it('misses the faults that were announced and did not come, but not those of a device that is gone', () => {
    const ledger = new VmVerdict();
    for (const device of [1, 2, 12]) ledger.expectFault(device, 0x5000);
    ledger.expectFault(1, 0x6000);
    expect(ledger.fault(2, record(0x5fff))).to.equal(true);
    expect(ledger.missingFaults).to.equal(3);
    ledger.deviceLost(1);
    ledger.expectFault(1, 0x7000);
    expect(ledger.missingFaults, 'that of device 12').to.equal(1);
    expect(ledger.fault(1, record(0x5000))).to.equal(false);
    expect([ledger.faultsExpected, ledger.faultsUnexpected]).to.deep.equal([1, 1]);
  });
});
