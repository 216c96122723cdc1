/**
 * The result that a host has of a VM: what of its verdict and of its devices fails the run.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { GuestJournal } from '../../src/channel/guest-journal.ts';
import type { VmDevice } from '../../src/coordinator/vm/device.ts';
import { vmResult } from '../../src/coordinator/vm/result.ts';
import { VmVerdict } from '../../src/coordinator/vm/verdict.ts';
import type { Iova } from '../../src/memory/address.ts';

const OUTCOME = { histograms: [], deviceHistograms: [], error: '', interrupted: false, halted: false };
const RECORD = { requesterId: 8, iova: 0x5000 as Iova, write: true, reason: 5, text: 'no' };

type End = Parameters<typeof vmResult>[1];

/** Returns the result of a VM with a given end. */
function resultOf(verdict: VmVerdict, end: Partial<End> = {}, interrupted = false) {
  const journal = new GuestJournal().read();
  return vmResult(
    { ...OUTCOME, interrupted },
    { vm: 3, devices: [], journal, verdict, audits: 1, vgpus: [], lost: '', ...end },
  );
}

/** A device as far as a result has it. */
const device = (name: string, failure: string, loss: VmDevice['loss']) =>
  ({
    name,
    failure,
    loss,
    logged: [],
    linesCut: 0,
    report: undefined,
    container: { counters: { maps: 1, unmaps: 1 } },
    space: { counters: { switches: 1 }, unmapped: { lines: () => [] } },
  }) as unknown as VmDevice;

const kindsOf = (result: ReturnType<typeof resultOf>) => result.violations.map(({ kind }) => kind);

describe('the result of a VM at a host', () => {
  const ways: [way: string, end: Partial<End>][] = [
    ['that it has left', { migration: ['moved'] }],
    ['where it ended', {}],
  ];
  for (const [way, end] of ways)
    it(`has the violations and unexpected faults of the host ${way}`, () => {
      const verdict = new VmVerdict();
      verdict.violation('use-after-unpin', 'gpu0 writes');
      verdict.fault(0, RECORD);
      const result = resultOf(verdict, end);
      expect(kindsOf(result)).to.deep.equal(['use-after-unpin']);
      expect(result.faultsUnexpected).to.equal(1);
      expect(result.failures).to.deep.equal(['VM 3: DMA write by 00:01.0 to 0x5000 faulted: reason 0x5 no']);
    });

  it('lacks what was announced only if nothing more can come', () => {
    const announced = () => {
      const verdict = new VmVerdict();
      verdict.expectFault(0, 0x5000);
      verdict.expectRemoval(1);
      return verdict;
    };
    expect(kindsOf(resultOf(announced()))).to.deep.equal(['missing-fault', 'missing-removal']);
    expect(kindsOf(resultOf(announced(), {}, true)), 'interrupted').to.deep.equal([]);
    expect(kindsOf(resultOf(announced(), { migration: [] })), 'moved').to.deep.equal([]);
    expect(kindsOf(resultOf(announced(), { lost: 'no' })), 'lost').to.deep.equal([]);
    expect(kindsOf(resultOf(new VmVerdict())), 'nothing announced').to.deep.equal([]);
  });

  it('is interrupted only if the VM neither moved nor was lost before', () => {
    const interrupted = (end: Partial<End>) => resultOf(new VmVerdict(), end, true).interrupted;
    expect([interrupted({}), interrupted({ migration: [] }), interrupted({ lost: 'no' })]).to.deep.equal([
      true,
      false,
      false,
    ]);
  });

  it('counts a loss as a failure, as a note, or at the last host', () => {
    const devices = [
      device('vm3/gpu0', 'crashed', 'failure'),
      device('vm3/gpu1', 'removed', 'announced'),
      device('vm3/gpu2', 'crashed there', 'earlier'),
      device('vm3/gpu3', '', 'failure'),
    ];
    const result = resultOf(new VmVerdict(), { devices });
    expect(result.failedDevices).to.deep.equal(['vm3/gpu0 crashed']);
    expect(result.notes).to.deep.equal(['vm3/gpu1 removed']);
    expect([result.maps, result.unmaps, result.switches]).to.deep.equal([4, 4, 4]);
  });
});
