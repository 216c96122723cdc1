/**
 * The coordinator's service of a guest's register accesses: what has been posted is served before it settles.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { MMIO_RING_ENTRIES, MmioPort, REGION_BAR0 } from '../../src/channel/mmio-channel.ts';
import { IommuRegisters } from '../../src/coordinator/vm/iommu-registers.ts';
import type { Completion } from '../../src/platform/completion.ts';
import { NoIommu } from '../../src/viommu/none.ts';
import { smallRam } from '../fixtures/recording-notifier.ts';

/** A vIOMMU whose register writes complete when the test says so. */
class SlowIommu extends NoIommu {
  written = 0;
  readonly pending: (() => void)[] = [];
  slow = false;

  override writeRegister(): Completion {
    this.written++;
    return this.slow ? new Promise((resolve) => this.pending.push(resolve)) : undefined;
  }
}

function rig() {
  const iommu = new SlowIommu(smallRam());
  const violations: string[] = [];
  const registers = new IommuRegisters(iommu, {
    reschedule: () => {},
    violation: (kind) => violations.push(kind),
    lose: (error) => violations.push(String(error)),
  });
  const port = new MmioPort(registers.mmio, 0, () => {});
  const post = (count: number) => {
    for (let i = 0; i < count; i++) void port.write(REGION_BAR0, 0, 4, 0n);
  };
  return { iommu, registers, violations, post };
}

describe("a guest's register accesses", () => {
  it('are all served, also a full ring of them', async () => {
    const { iommu, registers, post } = rig();
    post(MMIO_RING_ENTRIES);
    await registers.serveAll();
    expect(iommu.written).to.equal(MMIO_RING_ENTRIES);
  });

  it('settle only when writes that are still in the ring are complete, too', async () => {
    const { iommu, registers, violations, post } = rig();
    iommu.slow = true;
    post(3);
    let settled = false;
    const settling = registers.settle().then(() => {
      settled = true;
    });
    while (iommu.written < 3) await new Promise(setImmediate);
    expect(settled).to.equal(false);
    for (const complete of iommu.pending) complete();
    await settling;
    expect(violations).to.deep.equal([]);
  });

  it('are served as far as the limit of writes in progress allows, and later', async () => {
    const { iommu, registers, post } = rig();
    iommu.slow = true;
    post(40);
    const served = registers.serveAll();
    while (iommu.pending.length > 0 || iommu.written < 40) {
      for (const complete of iommu.pending.splice(0)) complete();
      await new Promise(setImmediate);
    }
    await served;
    expect(iommu.written).to.equal(40);
  });
});
