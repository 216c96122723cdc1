/**
 * Guests that map more than others: beyond RAM, far apart, more than a container holds, and while they audit.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { expectSound } from './expect-sound.ts';
import { type InProcessRun, runInProcess, type VmResult } from './run-in-process.ts';

const VIOMMUS = ['intel', 'intel-scalable', 'amd', 'virtio', 'spapr'];
const LIMIT = 'ENOSPC: limit of 65535 live mappings reached';

async function result(name: string, run: Partial<InProcessRun> = {}): Promise<VmResult> {
  const scenario = `test/fixtures/field/${name}.ts`;
  const [first] = await runInProcess({ viommu: 'intel', vgpus: 1, ...run, scenario });
  return first as VmResult;
}

describe('an audit under load', function () {
  this.timeout(120_000);

  const audited = (run: Partial<InProcessRun>) =>
    result('audit-under-load', { vgpus: 2, ramMib: 16, params: { rounds: 60 }, ...run });

  for (const viommu of VIOMMUS)
    it(`accuses nobody who is innocent: ${viommu}`, async () => {
      const found = await audited({ viommu });
      expectSound(found);
      expect(found.audits, 'audits besides the last one').to.be.above(1);
    });

  for (const viommu of ['intel', 'amd'])
    it(`finds the invalidations that a guest skips: ${viommu}`, async () => {
      const { violations } = await audited({ viommu, inject: 'skip-invalidation' });
      expect(violations.map(({ kind }) => kind)).to.include('missed-invalidation');
    });
});

describe('an audit of a guest with a driver of its own', function () {
  this.timeout(120_000);

  it('waits for invalidations that come late', async () => {
    expectSound(await result('late-invalidation', { ramMib: 16 }));
  });

  it('finds those that never come', async () => {
    const found = await result('late-invalidation', { ramMib: 16, params: { forget: true } });
    expect(found.failures).to.deep.equal([]);
    const kinds = new Set(found.violations.map(({ kind }) => kind));
    expect([...kinds]).to.deep.equal(['missed-invalidation']);
  });
});

describe('a full container', function () {
  this.timeout(120_000);

  for (const viommu of ['intel', 'virtio']) {
    it(`is named with the IOVA, and the guest is not blamed: ${viommu}`, async () => {
      const found = await result('entry-limit', { viommu, ramMib: 64 });
      expect(found.failures).to.deep.equal([]);
      expect(found.violations).to.have.length(1);
      const { kind, detail } = found.violations[0] as VmResult['violations'][number];
      expect(kind).to.equal('not-mapped');
      expect(detail).to.match(/^vm0\/gpu0 lacks \d+ translations .* the first at IOVA 0x80fff[0-9a-f]{4} /);
      expect(detail).to.include(LIMIT);
      expect(found.notes.join('\n')).to.match(/IOVA 0x80fff[0-9a-f]{4} \+0x1000 not mapped: ENOSPC/);
    });

    it(`takes the rest when there is room: ${viommu}`, async () => {
      const found = await result('entry-limit', { viommu, ramMib: 64, params: { room: true } });
      expectSound(found);
      expect(found.notes.join('\n')).to.include(`${LIMIT}; mapped when there is room`);
    });
  }
});

describe('a large address space', function () {
  this.timeout(120_000);

  for (const stride of [2 ** 21, 2 ** 30])
    it(`has room for mappings that lie ${stride / 2 ** 20} MiB apart`, async () => {
      const found = await result('sparse-iovas', { ramMib: 64, params: { count: 3000, stride } });
      expectSound(found);
      expect(found.notes).to.deep.equal([]);
    });

  const partly =
    /IOVA 0x[0-9a-f]+ \+0x[0-9a-f]+ leads to GPA 0x[0-9a-f]+: only the part in guest RAM is mapped/;

  for (const whole of [false, true])
    it(`lets a device reach the RAM within a larger mapping of virtio-iommu: ${whole ? 'identity' : '1 GiB'}`, async () => {
      const found = await result('map-beyond-ram', { viommu: 'virtio', params: { whole } });
      expectSound(found);
      expect(found.notes.join('\n')).to.match(partly);
    });

  it('lets a device reach the RAM below a leaf of VT-d that is larger than RAM', async () => {
    const found = await result('superpage-beyond-ram');
    expectSound(found);
    expect(found.notes.join('\n')).to.match(partly);
  });
});
