/**
 * Every scenario that the package includes has a question, a short run in CI, and a line in the README.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { compileLoad, lengthOf } from '../../src/load/compile.ts';
import { builtInScenarios, builtInUrl } from '../../src/scenario/built-in.ts';
import { isDataFile } from '../../src/scenario/data-path.ts';
import { loadSettings } from '../../src/scenario/load.ts';

/** Longest declared load of a scenario, and most vGPUs, with default settings. */
const LOAD_SECONDS_MAX = 15;
const VGPUS_MAX = 32;

/** Scenarios that are larger on purpose; their test runs a short form. */
const LARGE = ['thousand-vgpus'];

/** Tests that start no run, so that a name in them proves nothing. */
const REFUSALS = ['bad-input.test.ts'];

const runs = readdirSync('test/e2e')
  .filter((file) => file.endsWith('.test.ts') && !REFUSALS.includes(file))
  .map((file) => ({ file, text: readFileSync(`test/e2e/${file}`, 'utf8') }));

/** Returns the end-to-end tests that run a scenario: by its name or its path, as an argument of a call. */
function testsOf(name: string): string[] {
  const call = new RegExp(
    `(\\brun(Scenario)?\\(\\s*|'run',\\s*|scenario: |FIRST_LIGHT = |readFileSync\\()'(${name}|scenarios/${name}\\.(ts|yaml))'`,
  );
  return runs.filter(({ text }) => call.test(text)).map(({ file }) => file);
}

describe('shipped scenarios', () => {
  const files = readdirSync('scenarios').map((file) => file.replace(/\.[a-z]+$/, ''));

  it('are all built in', () => {
    expect(builtInScenarios()).to.deep.equal(files.sort());
    expect(testsOf('no-such-scenario')).to.deep.equal([]);
  });

  for (const name of files) {
    it(`${name}: an end-to-end test runs it`, () => {
      expect(testsOf(name)).to.not.deep.equal([]);
    });

    it(`${name}: a question, a size and a length for CI, a line in the README`, async () => {
      const { settings } = await loadSettings(name);
      expect(settings.question).to.match(/^[A-Z].*\?$/);
      expect(settings.name).to.equal(name);
      expect(LARGE.includes(name) ? 1 : settings.vms * settings.vgpus).to.be.at.most(VGPUS_MAX);
      for (const stage of compileLoad(LARGE.includes(name) ? {} : (settings.load ?? {}))) {
        const ends = 'iterations' in stage.pattern ? stage.startUs : stage.startUs + lengthOf(stage);
        expect(ends / 1e6, stage.name).to.be.at.most(LOAD_SECONDS_MAX);
      }
      expect(readFileSync('README.md', 'utf8')).to.include(`\n| \`${name}\` | `);
      const header = readFileSync(
        `scenarios/${name}.${isDataFile(builtInUrl(name) as string) ? 'yaml' : 'ts'}`,
        'utf8',
      );
      expect(header, 'the header').to.match(/^(\/\*\*| *#|\/\/)/);
    });
  }
});
