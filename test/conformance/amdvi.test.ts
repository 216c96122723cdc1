/**
 * Compares the AMD-Vi model with recorded vectors in both modes: the specification's answers and QEMU's.
 */
import { expect } from 'chai';
import { after, describe, it } from 'mocha';
import { runAmdVectors } from '../../src/conformance/amdvi/run.ts';
import { VectorFormatError } from '../../src/conformance/outcome.ts';
import { readRecorded, recordedNames } from '../support/recorded-files.ts';

for (const quirks of ['spec', 'qemu'] as const)
  describe(`AMD-Vi vectors, quirks: ${quirks}`, () => {
    let passed = 0;
    for (const name of recordedNames('amd')) {
      const vectors = readRecorded('amd', name) as unknown[];
      it(`${name}: ${vectors.length} vectors`, () => {
        const outcomes = runAmdVectors(vectors, { quirks, file: name });
        const failed = outcomes.filter(({ status }) => status !== 'passed');
        passed += outcomes.length - failed.length;
        expect(outcomes).to.have.length(vectors.length);
        expect(failed).to.deep.equal([]);
      });
    }
    after(() => console.log(`    ${passed} vectors passed`));
  });

describe('malformed AMD-Vi vectors', () => {
  const read = { op: 'reg_read', off: '0x30', size: 8, expect: '0x29d3' };
  const good = { name: 'x/y', iommu: { dma_remap: true }, device: { bdf: '00:04.0' }, steps: [read] };
  const withStep = (step: object) => [{ ...good, steps: [step] }];
  const wrong: readonly (readonly [string, unknown, RegExp])[] = [
    ['no array', {}, /^f\.json: not an array of vectors$/],
    ['an unknown field of a step', withStep({ ...read, expct: '0x0' }), /x\/y step 0: .*expct/],
    ['an unknown field of spec', withStep({ ...read, spec: { data: '00' } }), /x\/y step 0, spec: .*data/],
    ['an operation', withStep({ op: 'jump' }), /x\/y step 0, op: /],
    ['a size', withStep({ ...read, size: 3 }), /x\/y step 0, size: expected 1, 2, 4 or 8/],
    [
      'a device',
      withStep({ op: 'dma_read', dev: 1, iova: '0x0', len: 4, expect: 'ok' }),
      /x\/y step 0, dev: the vector has 1 devices/,
    ],
    [
      'a function',
      withStep({ op: 'cfg_read', bdf: '00:02.0', off: '0x0', size: 4, expect: '0x0' }),
      /x\/y step 0, bdf: the IOMMU is 00:01\.0/,
    ],
  ];

  for (const [what, vectors, message] of wrong)
    it(`${what}: the error names the position`, () => {
      expect(() => runAmdVectors(vectors, { quirks: 'spec', file: 'f.json' })).to.throw(
        VectorFormatError,
        message,
      );
    });

  it('reports expected and actual result of a step, and an interrupt that is missing', () => {
    const steps = [{ ...read, expect: '0x11', irqs: 1 }];
    expect(runAmdVectors([{ ...good, steps }], { quirks: 'spec' })).to.deep.equal([
      {
        name: 'x/y',
        status: 'failed',
        failures: [
          { step: 0, op: 'reg_read', expected: '11', got: '29d3' },
          { step: 0, op: 'reg_read', expected: 'an interrupt', got: 'no interrupt' },
        ],
      },
    ]);
  });

  it('reports events that differ from the specification in one field', () => {
    const steps = [
      { op: 'events', base: '0x1000', entries: 256, expect: [], spec: { expect: [{ code: 2, devid: 32 }] } },
    ];
    const [outcome] = runAmdVectors([{ ...good, steps }], { quirks: 'spec' });
    expect(outcome?.failures[0]).to.include({ op: 'events', got: '' });
  });
});
