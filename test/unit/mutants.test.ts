import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { MUTANTS } from '../mutants/list.ts';
import { mutate } from '../mutants/mutant.ts';

const read = (file: string): string => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');

describe('the list of mutants', () => {
  it('names each mutant once', () => {
    const ids = MUTANTS.map(({ id }) => id);
    expect(ids).to.have.length(new Set(ids).size);
  });

  it('fits the sources', () => {
    for (const mutant of MUTANTS) expect(mutate(mutant, read(mutant.file)), mutant.id).to.not.equal('');
  });

  it('names tests that exist, and a reason for each change', () => {
    for (const { id, killedBy, why, equivalent } of MUTANTS) {
      for (const test of killedBy) expect(read(test), id).to.not.equal('');
      expect(killedBy.length > 0 || equivalent !== undefined, id).to.equal(true);
      expect(why, id).to.not.equal('');
    }
  });

  it('refuses text that is not there, or there twice, and a test of another kind', () => {
    const mutant = {
      id: 'x',
      file: 'f',
      find: 'a',
      replace: 'b',
      why: 'w',
      killedBy: ['test/unit/x.test.ts'],
    };
    expect(mutate(mutant, 'cad')).to.equal('cbd');
    expect(() => mutate(mutant, 'ccc')).to.throw('x: its text occurs 0 times; accepted: once');
    expect(() => mutate(mutant, 'caca')).to.throw('occurs 2 times');
    expect(() => mutate({ ...mutant, killedBy: ['test/e2e/x.test.ts'] }, 'cad')).to.throw('accepted: unit');
  });
});
