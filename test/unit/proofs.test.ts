import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { MODELS, RUNS } from '../proofs/models.ts';

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

/** Families of sites that are steps of the two protocols. */
const FAMILIES = ['dma', 'pin', 'unpin', 'unmap', 'map'];
/** Sites of these families that no model has, with the reason. */
const NOT_MODELLED = [
  'unmap.force', // used only for a thread that has ended
];

const isStep = (site: string): boolean =>
  FAMILIES.includes(site.split('.')[0] as string) && !NOT_MODELLED.includes(site);
const labelOf = (site: string): string => site.replaceAll('.', '_');

const withoutComments = (text: string): string =>
  text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|\s)\/\/.*$/gm, '$1');

/** Returns the sites that a TypeScript text names, in order. */
const sitesIn = (text: string): string[] =>
  [...withoutComments(text).matchAll(/'([a-z]+(?:\.[a-z]+)+)'/g)].map((match) => match[1] as string);

/** Returns the labels of a model, in order. */
const labelsIn = (text: string): string[] =>
  [...withoutComments(text).matchAll(/^\s*([a-z_]+):(?!:)/gm)].map((match) => match[1] as string);

const ALL_SITES = sitesIn(read('src/platform/schedule-points.ts'));
const models = MODELS.map((name) => {
  const text = read(`docs/proofs/${name}.pml`);
  return { name, text, labels: labelsIn(text) };
});

/** The exported functions of protocol.ts, each with its sites in order. */
const kernels = read('src/pin-table/protocol.ts')
  .split(/^export /m)
  .slice(1)
  .map((text) => ({
    name: /^(?:function|const) (\w+)/.exec(text)?.[1] ?? '?',
    sites: sitesIn(text).filter(isStep),
  }))
  .filter(({ sites }) => sites.length > 0);

/** Returns true if `part` is a subsequence of `whole`. */
function isSubsequence(part: readonly string[], whole: readonly string[]): boolean {
  let found = 0;
  for (const item of whole) if (item === part[found]) found++;
  return found === part.length;
}

describe('models of the protocols', () => {
  it('have a label for every step of the kernels and of the writer', () => {
    const labels = new Set(models.flatMap((model) => model.labels));
    const used = ['protocol', 'writer'].flatMap((file) => sitesIn(read(`src/pin-table/${file}.ts`)));
    const steps = [...new Set(used.filter(isStep))];
    expect(steps.length, 'steps that the sources name').to.be.greaterThan(15);
    expect(steps.filter((site) => !labels.has(labelOf(site)))).to.deep.equal([]);
  });

  it('have no label without a step in the sources', () => {
    const known = new Set(ALL_SITES.map(labelOf));
    const steps = models.flatMap(({ labels }) =>
      labels.filter((label) => /^(dma|pin|unpin|unmap|map|walk)_/.test(label)),
    );
    expect(steps.length).to.be.greaterThan(20);
    expect(steps.filter((label) => !known.has(label))).to.deep.equal([]);
  });

  it('have the steps of every kernel in order', () => {
    expect(kernels.map(({ name }) => name)).to.include.members([
      'dmaEnter',
      'dmaExit',
      'pinAcquire',
      'pinRelease',
      'leafPublish',
    ]);
    const strangers = kernels.filter(
      ({ sites }) => !models.some(({ labels }) => isSubsequence(sites.map(labelOf), labels)),
    );
    expect(strangers).to.deep.equal([]);
  });

  for (const { name, text } of models)
    it(`run exactly the mutants of ${name}`, () => {
      const switches = new Set([...text.matchAll(/^#ifn?def (\w+)/gm)].map((match) => match[1] as string));
      const run = new Set(
        RUNS.filter(({ model }) => model === name).flatMap(({ defines }) =>
          defines.map((define) => define.split('=')[0] as string),
        ),
      );
      expect([...run].sort()).to.deep.equal([...switches].sort());
    });

  it('are checked with the seven mutants and without a mutation', () => {
    const named = (name: string) => RUNS.filter((run) => run.name === name);
    for (const name of [
      'store for and',
      'check before add',
      'no bump',
      'late epoch',
      'skipped reader',
      'no undo',
      'lost notify',
    ])
      expect(
        named(name).some(({ expected }) => expected !== 'proved'),
        name,
      ).to.equal(true);
    expect(named('sound').map(({ model, expected }) => [model, expected])).to.deep.equal([
      ['short-dma', 'proved'],
      ['long-pin', 'proved'],
      ['table-pin', 'proved'],
    ]);
  });
});

describe('comparison of models and sources', () => {
  it('reads sites and labels outside comments', () => {
    expect(sitesIn("add(t, e, 2, 'pin.inc'); // 'pin.undo'\n/* 'pin.no' */ x('./a.ts')")).to.deep.equal([
      'pin.inc',
    ]);
    expect(labelsIn('pin_inc:\n  x;\n/* pin_no: */\n  :: a\npin_undo: skip')).to.deep.equal([
      'pin_inc',
      'pin_undo',
    ]);
  });

  it('detects a swapped and a missing step', () => {
    expect(isSubsequence(['a', 'c'], ['a', 'b', 'c'])).to.equal(true);
    expect(isSubsequence(['c', 'a'], ['a', 'b', 'c'])).to.equal(false);
    expect(isSubsequence(['a', 'd'], ['a', 'b', 'c'])).to.equal(false);
  });
});
