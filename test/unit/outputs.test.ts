/**
 * The option `--out`: what it accepts, and files that are written whole or not at all.
 */
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { checkOutputs, OutputError, outputOption, writeOutputs } from '../../src/cli/outputs.ts';
import { recordFixture } from '../fixtures/record.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const parse = (...texts: readonly string[]) =>
  texts.reduce((outputs, text) => outputOption(text, outputs), [] as ReturnType<typeof outputOption>);

describe('--out', () => {
  const inFolder = temporaryFolder();

  it('takes KIND=PATH, also several times and with = in the path', () => {
    expect(parse('json=a', 'csv=b=c')).to.deep.equal([
      { kind: 'json', path: 'a' },
      { kind: 'csv', path: 'b=c' },
    ]);
  });

  it('names the nearest kind and the accepted form', () => {
    expect(() => parse('jsno=a')).to.throw(/^no output 'jsno'; nearest: json; accepted: .*json, csv/);
    expect(() => parse('toString=a')).to.throw(/^no output 'toString'; nearest: /);
    for (const text of ['json', 'json=', 'a'])
      expect(() => parse(text)).to.throw(/^accepted: KIND=PATH; kinds: .*json, csv/);
  });

  it('refuses, before the run, paths that cannot be written', () => {
    mkdirSync(inFolder('folder'));
    writeFileSync(inFolder('file'), '');
    const refused: Record<string, RegExp> = {
      [inFolder('folder')]: /^--out json=.*folder: a folder; accepted: path of a file$/,
      [inFolder('missing/a.json')]: /^--out json=.*a\.json: ENOENT: no such file or directory/,
      [inFolder('file/a.json')]: /^--out json=.*a\.json: .*file is not a folder$/,
    };
    for (const [path, why] of Object.entries(refused))
      expect(() => checkOutputs(parse(`json=${path}`), false), path).to.throw(OutputError, why);
    expect(readdirSync(inFolder('folder')), 'nothing is written').to.deep.equal([]);
  });

  it('refuses one path for two outputs, and two outputs on stdout', () => {
    const twice = parse(`json=${inFolder('x')}`, `csv=${inFolder('./x')}`);
    expect(() => checkOutputs(twice, false)).to.throw(/^--out csv=.*: --out json=.* has this path, too$/);
    expect(() => checkOutputs(parse('json=-', 'csv=-'), false)).to.throw(
      '--out json=-, --out csv=-: more than one output on stdout; accepted: one',
    );
    expect(() => checkOutputs(parse('csv=-'), true)).to.throw(/^--json, --out csv=-: more than one/);
    checkOutputs(parse('csv=-', `json=${inFolder('y')}`), false);
  });

  it('replaces a file at once, also behind a symbolic link, and leaves no part behind', () => {
    writeFileSync(inFolder('old.json'), 'old');
    symlinkSync('old.json', inFolder('link.json'));
    const outputs = parse(`json=${inFolder('link.json')}`, `csv=${inFolder('new.csv')}`);
    checkOutputs(outputs, false);
    expect(writeOutputs(outputs, recordFixture())).to.deep.equal({ written: outputs, failures: [] });
    expect(JSON.parse(readFileSync(inFolder('old.json'), 'utf8')).scenario).to.equal('fixture');
    expect(readdirSync(inFolder('.')).filter((name) => name.endsWith('.part'))).to.deep.equal([]);
  });

  it('writes the blob of a run that has started', () => {
    const outputs = parse(`blob=${inFolder('run.blob')}`);
    expect(writeOutputs(outputs, recordFixture()).failures).to.deep.equal([
      `--out blob=${inFolder('run.blob')}: not written, because the run has not started`,
    ]);
    expect(readdirSync(inFolder('.'))).to.deep.equal([]);
    expect(writeOutputs(outputs, recordFixture(), () => Uint8Array.of(1, 2)).failures).to.deep.equal([]);
    expect([...readFileSync(inFolder('run.blob'))]).to.deep.equal([1, 2]);
    const tooLarge = () => {
      throw new RangeError('Invalid string length');
    };
    const { written, failures } = writeOutputs(
      [...outputs, ...parse(`csv=${inFolder('run.csv')}`)],
      recordFixture(),
      tooLarge,
    );
    expect([written.map(({ kind }) => kind), failures]).to.deep.equal([
      ['csv'],
      [`--out blob=${inFolder('run.blob')}: Invalid string length`],
    ]);
    expect(() => checkOutputs(parse('blob=-'), false)).to.throw(
      '--out blob=-: bytes on stdout; accepted: path of a file',
    );
  });

  it('names an output that fails at the end, and writes the others', () => {
    const outputs = parse('json=/dev/full', `csv=${inFolder('other.csv')}`);
    checkOutputs(outputs, false);
    expect(writeOutputs(outputs, recordFixture())).to.deep.equal({
      written: outputs.slice(1),
      failures: ['--out json=/dev/full: ENOSPC: no space left on device, write'],
    });
    expect(readFileSync(inFolder('other.csv'), 'utf8')).to.match(/^metric,stage,/);
  });
});
