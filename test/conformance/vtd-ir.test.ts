/**
 * Compares VT-d's interrupt remapping with recorded vectors in both modes: the specification's answers and QEMU's.
 */
import { expect } from 'chai';
import { after, describe, it } from 'mocha';
import { VectorFormatError } from '../../src/conformance/outcome.ts';
import { runIrVectors } from '../../src/conformance/vtd-ir/run.ts';
import { readRecorded, recordedNames } from '../support/recorded-files.ts';

for (const quirks of ['spec', 'qemu'] as const)
  describe(`interrupt remapping vectors, quirks: ${quirks}`, () => {
    let passed = 0;
    for (const name of recordedNames('vtd-ir')) {
      const vectors = readRecorded('vtd-ir', name) as unknown[];
      it(`${name}: ${vectors.length} vectors`, () => {
        const outcomes = runIrVectors(vectors, { quirks, file: name });
        const failed = outcomes.filter(({ status }) => status !== 'passed');
        passed += outcomes.length - failed.length;
        expect(outcomes).to.have.length(vectors.length);
        expect(failed).to.deep.equal([]);
      });
    }
    after(() => console.log(`    ${passed} vectors passed`));
  });

describe('malformed interrupt remapping vectors', () => {
  const message = { op: 'msi', address: '0xfee01000', data: '0x41', expect: { silent: true } };
  const good = {
    name: 'x/y',
    iommu: { caching_mode: false, aw_bits: 48, intremap: true, eim: false },
    devices: [{ bdf: '00:04.0', rid: '0x20' }],
    steps: [message],
  };
  const withStep = (step: object) => [{ ...good, steps: [step] }];
  const wrong: readonly (readonly [string, unknown, RegExp])[] = [
    ['no array', {}, /^f\.json: not an array of vectors$/],
    ['no device', [{ ...good, devices: [] }], /x\/y, devices: /],
    ['a device', withStep({ ...message, dev: 1 }), /x\/y step 0, dev: the vector has 1 devices/],
    [
      'a result',
      withStep({ ...message, expect: { lost: true } }),
      /x\/y step 0, expect: expected delivered, blocked, silent or memory/,
    ],
    ['a way', withStep({ ...message, via: 'pigeon' }), /x\/y step 0, via: /],
  ];

  for (const [what, vectors, error] of wrong)
    it(`${what}: the error names the position`, () => {
      expect(() => runIrVectors(vectors, { quirks: 'spec', file: 'f.json' })).to.throw(
        VectorFormatError,
        error,
      );
    });

  it('reports expected and actual message of a step, and a message of the unit that is missing', () => {
    const steps = [{ ...message, events: [{ address: '0xfee00000', data: '0x1' }] }];
    expect(runIrVectors([{ ...good, steps }], { quirks: 'spec' })).to.deep.equal([
      {
        name: 'x/y',
        status: 'failed',
        failures: [
          { step: 0, op: 'msi', expected: 'silent', got: 'delivered 1 0 0 65 0 0 remapped false' },
          { step: 0, op: 'msi', expected: 'sent fee00000=1', got: 'sent ' },
        ],
      },
    ]);
  });
});
