/**
 * Host memory of VMs that are closed: the next VM takes it, without a byte of the last one.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { HostSlabs } from '../../src/coordinator/host-slabs.ts';
import { type Hpa, PAGE_2M } from '../../src/memory/address.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';

const [FIRST, SECOND] = [HPA_BASE as Hpa, (HPA_BASE + 64 * PAGE_2M) as Hpa];

describe('host memory of VMs', () => {
  it('is used again at once, zeroed and at its own address', () => {
    const slabs = new HostSlabs();
    const old = slabs.take(FIRST, PAGE_2M);
    old.fill32(FIRST, PAGE_2M, 0xdead_beef);
    slabs.give(old);
    const next = slabs.take(SECOND, PAGE_2M);
    expect([next.base, next === old, next.load32(FIRST)]).to.deep.equal([FIRST, true, 0]);
  });

  it('is never that of a VM that still has it, nor of another size', () => {
    const slabs = new HostSlabs();
    const used = slabs.take(FIRST, PAGE_2M);
    expect(slabs.take(SECOND, PAGE_2M)).to.not.equal(used);
    slabs.give(used);
    expect(slabs.take(SECOND, 2 * PAGE_2M).base).to.equal(SECOND);
    expect(slabs.take(SECOND, PAGE_2M)).to.equal(used);
    expect(slabs.take(SECOND, PAGE_2M)).to.not.equal(used);
  });
});
