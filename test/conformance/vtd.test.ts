/**
 * Compares the VT-d model with recorded vectors in both modes: the specification's answers and QEMU's.
 */
import { expect } from 'chai';
import { after, describe, it } from 'mocha';
import { VectorFormatError } from '../../src/conformance/outcome.ts';
import { runVtdVectors } from '../../src/conformance/vtd/run.ts';
import { readRecorded, recordedNames } from '../support/recorded-files.ts';

for (const quirks of ['spec', 'qemu'] as const)
  describe(`VT-d vectors, quirks: ${quirks}`, () => {
    let passed = 0;
    for (const name of recordedNames('vtd')) {
      const vectors = readRecorded('vtd', name) as unknown[];
      it(`${name}: ${vectors.length} vectors`, () => {
        const outcomes = runVtdVectors(vectors, { quirks, file: name });
        const failed = outcomes.filter(({ status }) => status !== 'passed');
        passed += outcomes.length - failed.length;
        expect(outcomes).to.have.length(vectors.length);
        expect(failed).to.deep.equal([]);
      });
    }
    after(() => console.log(`    ${passed} vectors passed`));
  });

describe('malformed VT-d vectors', () => {
  const good = {
    name: 'x/y',
    iommu: { caching_mode: false, aw_bits: 48 },
    device: { bdf: '00:04.0' },
    steps: [{ op: 'reg_read', off: '0x0', size: 4, expect: '0x10' }],
  };
  const wrong: [string, unknown, RegExp][] = [
    ['no array', {}, /^f\.json: not an array of vectors$/],
    ['no vector', [7], /^f\.json: vector 0: /],
    ['an empty file', [], /^f\.json: no vectors$/],
    ['a vector without steps', [{ ...good, steps: [] }], /^f\.json: x\/y has no steps$/],
    [
      'an unknown field of a step',
      [{ ...good, steps: [{ ...good.steps[0], expct: '0x10' }] }],
      /x\/y step 0: .*expct/,
    ],
    ['an unknown field of a vector', [{ ...good, cache: true }], /x\/y: .*cache/],
    [
      'steps that move too many bytes',
      [
        {
          ...good,
          steps: Array.from({ length: 20 }, () => ({ op: 'mem_read', gpa: '0x0', len: 2 ** 24, expect: '' })),
        },
      ],
      /x\/y: the steps move too many bytes/,
    ],
    [
      'a width',
      [{ ...good, iommu: { caching_mode: true, aw_bits: 57 } }],
      /x\/y, iommu\.aw_bits: expected 39 or 48/,
    ],
    ['an operation', [{ ...good, steps: [{ op: 'jump' }] }], /x\/y step 0, op: /],
    [
      'an offset',
      [{ ...good, steps: [{ ...good.steps[0], off: '12' }] }],
      /x\/y step 0, off: expected a hex number/,
    ],
    [
      'a device',
      [{ ...good, steps: [{ op: 'dma_read', dev: 1, iova: '0x0', len: 4, expect: 'ok' }] }],
      /x\/y step 0, dev: the vector has 1 devices/,
    ],
  ];

  for (const [what, vectors, message] of wrong)
    it(`${what}: the error names the position`, () => {
      expect(() => runVtdVectors(vectors, { quirks: 'spec', file: 'f.json' })).to.throw(
        VectorFormatError,
        message,
      );
    });

  it('reports expected and actual result of a step', () => {
    const steps = [{ ...good.steps[0], expect: '0x11' }];
    expect(runVtdVectors([{ ...good, steps }, good], { quirks: 'spec' })).to.deep.equal([
      {
        name: 'x/y',
        status: 'failed',
        failures: [{ step: 0, op: 'reg_read', expected: '11', got: '10' }],
      },
      { name: 'x/y', status: 'passed', failures: [] },
    ]);
  });
});
