import { expect } from 'chai';
import { describe, it } from 'mocha';
import { GuestJournal, JOURNAL_LIMITS, JournalLine } from '../../src/channel/guest-journal.ts';

const { failure, note } = JournalLine;

describe('journal of a guest', () => {
  it('shows every counter and line at once to another reader of the memory', () => {
    const guest = new GuestJournal();
    const coordinator = new GuestJournal(guest.sab);
    guest.set('operations', 2 ** 40 + 7);
    guest.add('mismatches', 1);
    expect(guest.append(failure, 'page 3 differs')).to.equal(true);
    expect(guest.append(note, 'größer als ☃')).to.equal(true);
    const { operations, mismatches, checksFailed, failures, notes } = coordinator.read();
    expect([operations, mismatches, checksFailed]).to.deep.equal([2 ** 40 + 7, 1, 0]);
    expect([failures, notes]).to.deep.equal([['page 3 differs'], ['größer als ☃']]);
  });

  it('turns any value of a counter into a count, or ignores it', () => {
    const journal = new GuestJournal();
    const cases: readonly (readonly [value: unknown, count: number])[] = [
      [5, 5],
      [Number.NaN, 5],
      ['7', 5],
      [undefined, 5],
      [{}, 5],
      [3n, 3],
      [2.9, 2],
      [-4, 0],
      [Number.POSITIVE_INFINITY, Number.MAX_SAFE_INTEGER],
      [2n ** 80n, Number.MAX_SAFE_INTEGER],
    ];
    for (const [value, count] of cases) {
      journal.set('operations', value);
      expect(journal.get('operations'), String(value)).to.equal(count);
    }
  });

  it('keeps a limited count of lines of each kind, of a limited length', () => {
    const journal = new GuestJournal();
    const kept = Array.from({ length: JOURNAL_LIMITS[note] + 5 }, () =>
      journal.append(note, '☃'.repeat(5000)),
    );
    expect(kept.filter(Boolean)).to.have.length(JOURNAL_LIMITS[note]);
    for (let i = 0; i < JOURNAL_LIMITS[failure]; i++) expect(journal.append(failure, `${i}`)).to.equal(true);
    expect(journal.append(failure, 'one more')).to.equal(false);
    expect(journal.read().failures).to.have.length(JOURNAL_LIMITS[failure]);
    expect(journal.read().notes.every((text) => text.length <= 1024)).to.equal(true);
  });

  it('reads memory that a script has overwritten within its limits', () => {
    const { sab } = new GuestJournal();
    new Uint8Array(sab).fill(0xff);
    const { operations, failures, notes } = new GuestJournal(sab).read();
    expect(operations).to.be.at.most(Number.MAX_SAFE_INTEGER);
    expect(failures.length + notes.length).to.be.at.most(JOURNAL_LIMITS[failure] + JOURNAL_LIMITS[note]);
  });
});
