/**
 * Compares the virtio-iommu model with recorded vectors: the specification's answers and those of QEMU 11.1.3.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { VectorFormatError } from '../../src/conformance/outcome.ts';
import { runVirtioIommuVectors } from '../../src/conformance/virtio-iommu/run.ts';
import { readRecorded, recordedNames } from '../support/recorded-files.ts';

for (const quirks of ['spec', 'qemu'] as const)
  describe(`virtio-iommu vectors, ${quirks === 'spec' ? "the specification's" : "QEMU's"} answers`, () => {
    for (const name of recordedNames('virtio-iommu'))
      it(name, () => {
        const outcomes = runVirtioIommuVectors(readRecorded('virtio-iommu', name), { quirks });
        expect(outcomes).to.have.length.above(0);
        expect(outcomes.filter(({ status }) => status !== 'passed')).to.deep.equal([]);
      });
  });

describe('virtio-iommu vector files', () => {
  const iommu = { granule: '4k', aw_bits: 39, boot_bypass: false };
  const device = { bdf: '00:04.0' };
  const run = (...steps: unknown[]) =>
    runVirtioIommuVectors([{ name: 'x', iommu, device, steps }], { quirks: 'spec' });

  it('report a step that differs, with expected and actual result', () => {
    const [outcome] = run({ op: 'request', type: 'attach', domain: 1, endpoint: 32, status: 'RANGE' });
    expect(outcome).to.deep.equal({
      name: 'x',
      status: 'failed',
      failures: [{ step: 0, op: 'request', expected: 'status RANGE', got: 'status OK' }],
    });
  });

  it('report every kind of difference', () => {
    const fails = (step: object) => expect(run(step)[0]?.failures, JSON.stringify(step)).to.have.length(1);
    fails({ op: 'dma_read', iova: '0x1000', len: 4, expect: 'ok', data: '00000000' });
    fails({ op: 'mem_read', gpa: 0, len: 2, expect: '0001' });
    fails({ op: 'config_read', field: 'bypass', expect: 1 });
    fails({ op: 'common_read', field: 'num_queues', expect: 3 });
    fails({ op: 'queue_info', queue: 0, expect: { size: 256, enabled: 0 } });
    fails({ op: 'events', expect: [{ reason: 'DOMAIN', endpoint: 32, address: '0x1000' }] });
    fails({ op: 'isr_read', expect: 1 });
    fails({ op: 'init', features: '0x100000077', features_ok: false });
  });

  it('do not compare implementation-defined answers', () => {
    expect(run({ op: 'isr_read', expect: 1, impl_defined: true })[0]?.status).to.equal('passed');
  });

  it('are refused with position and reason if malformed', () => {
    const refused = (vectors: unknown, message: RegExp) =>
      expect(() => runVirtioIommuVectors(vectors, { quirks: 'spec' })).to.throw(VectorFormatError, message);
    const steps = (...list: unknown[]) => [{ name: 'x', iommu, device, steps: list }];
    refused(null, /vector 0: vector: /);
    refused([], /no vectors/);
    refused(steps(), /x has no steps/);
    refused(steps({ op: 'isr_read', expect: 0, expct: 1 }), /steps\.0: .*expct/);
    refused([{ name: 'x', iommu: { ...iommu, bypass: true }, steps: [{ op: 'reset' }] }], /iommu: .*bypass/);
    refused(
      [{ name: 'x', iommu: { ...iommu, granule: '5k' }, steps: [{ op: 'isr_read' }] }],
      /\(x\): iommu\.granule: /,
    );
    refused(steps({ op: 'jump' }), /\(x\): steps\.0\.op: /);
    refused(steps({ op: 'request', status: 'OK' }), /steps\.0\.type: request has no type/);
    refused(steps({ op: 'mem_write', gpa: 0, data: '0' }), /steps\.0\.data: not an even number/);
    refused(steps({ op: 'events', expect: [{}] }), /steps\.0\.expect: /);
    refused(steps({ op: 'config_write', off: 0, value: '0x10000000000000000' }), /more than 64 bits/);
    refused(
      steps({ op: 'mem_write', gpa: '0x90000000', data: '00' }),
      /x, step 0 \(mem_write\): .*not guest RAM/,
    );
    refused(steps({ op: 'dma_read', dev: 7, iova: 0, len: 4, expect: 'fault' }), /no device 7/);
  });
});
