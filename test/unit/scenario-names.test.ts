import { mkdirSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { nearest } from '../../src/platform/nearest.ts';
import { builtInScenarios } from '../../src/scenario/built-in.ts';
import { loadSettings, scenarioUrl } from '../../src/scenario/load.ts';
import { isModule } from '../../src/scenario/package-hook.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const TYPED = `import { scenario, type GuestVm } from 'mdevsim';
import { name } from './name.ts';
export default scenario({ name, async guest(_vm: GuestVm) {} });`;
const PLAIN = TYPED.replace(', type GuestVm', '').replace(': GuestVm', '').replace('name.ts', 'name.js');
const SCRIPT = `const { scenario } = require('mdevsim');
module.exports = scenario({ name: 'own', async guest() {} });`;

describe('a scenario of the command line', () => {
  const at = temporaryFolder();

  it('is built in if it has such a name', () => {
    expect(builtInScenarios()).to.include.members(['first-light', 'edu-device', 'many-vgpus']);
    expect(scenarioUrl('first-light')).to.equal(
      pathToFileURL(`${import.meta.dirname}/../../scenarios/first-light.ts`).href,
    );
  });

  it('is refused with the nearest built-in name if there is no such file', () => {
    const refused = (path: string) => expect(() => scenarioUrl(path), path);
    for (const path of ['frist-light', 'firstlight', 'scenarios/first-light.js', './First-Light'])
      refused(path).to.throw(
        /no such file; nearest built-in scenario: first-light; accepted: .*edu-device, engines/,
      );
  });

  const projects: readonly (readonly [file: string, text: string])[] = [
    ['own.ts', TYPED],
    ['own.mts', TYPED],
    ['own.js', PLAIN],
    ['own.mjs', PLAIN],
    ['own.js', SCRIPT],
    ['own.cjs', SCRIPT],
  ];
  for (const type of ['commonjs', 'module', undefined])
    for (const folder of ['', 'node_modules/other/'])
      for (const [file, text] of projects) {
        if (type === 'module' && file === 'own.js' && text === SCRIPT) continue;
        // JavaScript of an installed package is what the package says.
        if (type === 'commonjs' && folder !== '' && text === PLAIN) continue;
        it(`${folder}${file} with ${text === SCRIPT ? 'require' : 'import'} loads in a package of type ${type}`, async () => {
          mkdirSync(at(folder), { recursive: true });
          writeFileSync(at(`${folder}package.json`), JSON.stringify({ type }));
          writeFileSync(at(`${folder}${file}`), text);
          writeFileSync(at(`${folder}name.ts`), "export const name: string = 'own';");
          writeFileSync(at(`${folder}name.js`), "export const name = 'own';");
          expect((await loadSettings(at(`${folder}${file}`))).settings.name).to.equal('own');
        });
      }
});

describe('the form of a file', () => {
  it('is that of a module if it has a module’s syntax outside of texts and comments', () => {
    for (const text of ["import 'x'", 'export {}', 'import.meta.url', 'await 1', 'export default 1'])
      expect(isModule(text), text).to.equal(true);
    for (const text of [
      "require('x')",
      '// import x\nmodule.exports = `\nexport default`',
      'import("x")',
      '{',
    ])
      expect(isModule(text), text).to.equal(false);
  });
});

describe('the nearest name', () => {
  it('has the fewest edits', () => {
    const names = ['rounds', 'pages', 'seed'];
    for (const [word, name] of [
      ['round', 'rounds'],
      ['PAGES', 'pages'],
      ['sede', 'seed'],
      ['', 'seed'],
    ] as const)
      expect(nearest(word, names), word).to.equal(name);
    expect(nearest('x', [])).to.equal(undefined);
    expect(nearest('x'.repeat(1e6), names)).to.be.oneOf(names);
  });
});
