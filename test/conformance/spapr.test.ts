/**
 * Compares the sPAPR model with recorded vectors of QEMU's pseries machine: LoPAR's answers and QEMU's.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { VectorFormatError } from '../../src/conformance/outcome.ts';
import { runSpaprVectors } from '../../src/conformance/spapr/run.ts';
import { readRecorded, recordedNames } from '../support/recorded-files.ts';

for (const quirks of ['spec', 'qemu'] as const)
  describe(`sPAPR vectors, ${quirks === 'spec' ? "LoPAR's answers" : "QEMU's answers"}`, () => {
    for (const name of recordedNames('spapr'))
      it(name, () => {
        const outcomes = runSpaprVectors(readRecorded('spapr', name), { quirks });
        expect(outcomes).to.have.length.above(0);
        expect(outcomes.filter(({ status }) => status !== 'passed')).to.deep.equal([]);
      });
  });

describe('sPAPR vector files', () => {
  const window = { liobn: '0x80000000', start: '0x0', size: '0x40000000', page_shift: 12 };

  it('report a step that differs, with expected and actual result', () => {
    const steps = [{ op: 'hcall', name: 'H_GET_TCE', args: ['0x80000000', '0x0'], ret: 'H_P4', out: [] }];
    const [outcome] = runSpaprVectors([{ name: 'wrong', window, steps }], { quirks: 'spec' });
    expect(outcome).to.deep.include({ name: 'wrong', status: 'failed' });
    expect(outcome?.failures).to.deep.equal([
      { step: 0, op: 'hcall', expected: 'H_GET_TCE H_P4 []', got: 'H_GET_TCE H_SUCCESS [0x0]' },
    ]);
  });

  it('are compared with the answers of the requested mode', () => {
    const steps = [
      {
        op: 'hcall',
        name: 'H_STUFF_TCE',
        args: ['0x80000000', '0x0', '0x3', '0x0'],
        ret: 'H_PARAMETER',
        spec: { ret: 'H_SUCCESS' },
      },
    ];
    for (const quirks of ['spec', 'qemu'] as const)
      expect(runSpaprVectors([{ name: 'both', window, steps }], { quirks })[0]?.status).to.equal('passed');
  });

  it('may lack answers after the recorded machine died: such steps run without comparison', () => {
    const steps = [
      { op: 'rtas', name: 'ibm,remove-pe-dma-window', args: ['0x71000001'], nret: 1, status: null },
      { op: 'hcall', name: 'H_PUT_TCE', args: ['0x80000000', '0x0', '0x3'], ret: null, out: null },
      { op: 'dma_read', iova: '0x0', len: 4096 },
      { op: 'mem_read', gpa: '0x0', len: 8 },
    ];
    const machine = { vio: ['spapr-vscsi,reg=0x71000001'] };
    const outcomes = runSpaprVectors([{ name: 'died', window, machine, steps }], { quirks: 'qemu' });
    expect(outcomes).to.deep.equal([{ name: 'died', status: 'passed', failures: [] }]);
  });

  it('are refused with position and reason if malformed', () => {
    const run = (vectors: unknown) => () => runSpaprVectors(vectors, { quirks: 'spec' });
    const write = { op: 'mem_write', gpa: '0x0', data: '00' };
    expect(run({})).to.throw(VectorFormatError, /^sPAPR vectors: not an array of vectors$/);
    expect(run([])).to.throw(VectorFormatError, /^sPAPR vectors: no vectors$/);
    expect(run([{ name: 'x', window, steps: [] }])).to.throw(VectorFormatError, /x has no steps$/);
    expect(run([{ window, steps: [write] }])).to.throw(VectorFormatError, /0\.name: /);
    expect(run([{ name: 'x', window, steps: [{ ...write, expct: 'ok' }] }])).to.throw(
      VectorFormatError,
      /0\.steps\.0: .*expct/,
    );
    expect(run([{ name: 'x', window, steps: [{ op: 'jump' }] }])).to.throw(
      VectorFormatError,
      /0\.steps\.0\.op/,
    );
    const read = { op: 'mem_read', gpa: 'here', len: 4 };
    expect(run([{ name: 'x', window, steps: [read] }])).to.throw(VectorFormatError, /0\.steps\.0\.gpa/);
    const machine = { phbs: 1, phb0: { numa: 3 } };
    expect(run([{ name: 'x', window, machine, steps: [write] }])).to.throw(
      VectorFormatError,
      /0\.machine\.phb0: .*numa/,
    );
  });
});
