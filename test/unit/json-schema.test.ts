/**
 * The JSON Schema of scenarios: accepts every shipped data file, and refuses what editors must mark.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { parse } from 'yaml';
import { z } from 'zod';
import { METRICS } from '../../src/metrics/catalogue.ts';
import { type JsonSchema, scenarioJsonSchema } from '../../src/scenario/json-schema.ts';
import { starterOf } from '../../src/scenario/starter.ts';

const FOLDERS = ['scenarios', 'test/fixtures/scenarios'];
const SMALL = { name: 'x', load: { s: { executor: 'constant-vus', duration: '1s', workload: 'copy' } } };

/** A copy of SMALL with other values; `load` has options of the stage. */
const changed = (settings: object, stage: object = {}) => ({
  ...SMALL,
  load: { s: { ...SMALL.load.s, ...stage } },
  ...settings,
});

const REFUSED: readonly (readonly [title: string, value: unknown])[] = [
  ['an unknown setting', changed({ vgpu: 2 })],
  ['an unknown option of a stage', changed({}, { vu: 2 })],
  ['an unknown executor', changed({}, { executor: 'constant-vu' })],
  ['an unknown workload', changed({}, { workload: 'copi' })],
  ['an unknown workload in a mix', changed({}, { workload: { copi: 1 } })],
  ['a duration without a unit', changed({}, { duration: '5' })],
  ['a duration as a number', changed({}, { duration: 5 })],
  ['a count out of range', changed({ vms: 0 })],
  ['RAM that is not a multiple of 4', changed({ ramMiB: 65 })],
  ['an unknown metric', changed({ thresholds: { comand_latency: ['max<1s'] } })],
  ['no load', { name: 'x' }],
  ['no name', { load: SMALL.load }],
  ['an option of another executor', changed({}, { rate: 5 })],
];

describe('the JSON Schema of scenarios', () => {
  const schema = scenarioJsonSchema();
  // Typed for draft 2020-12 by zod; this value is read back from its text.
  const read = z.fromJSONSchema(JSON.parse(JSON.stringify(schema)));

  const files = FOLDERS.flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => /\.ya?ml$/.test(name) && name !== 'malformed.yaml')
      .map((name) => `${folder}/${name}`),
  );
  for (const file of files)
    it(`accepts ${file}`, () => {
      expect(read.safeParse(parse(readFileSync(file, 'utf8'))).error?.issues ?? []).to.deep.equal([]);
    });

  it('accepts the starters of init', () => {
    for (const file of ['x.yaml', 'x.json'])
      expect(read.safeParse(parse(starterOf(file) as string)).success, file).to.equal(true);
  });

  it('accepts $schema, selectors and the conditions of a run', () => {
    const thresholds = { 'iterations{stage:s}': ['count>1', { threshold: 'count>0', abortOnFail: true }] };
    expect(read.safeParse({ $schema: './s.json', ...changed({ thresholds }) }).success).to.equal(true);
  });

  for (const [title, value] of REFUSED)
    it(`refuses ${title}`, () => {
      expect(read.safeParse(value).success).to.equal(false);
    });

  it('describes every setting, also those of groups and stages', () => {
    const without: string[] = [];
    const visit = (path: string, each: JsonSchema): void => {
      for (const [name, property] of Object.entries(each.properties ?? {})) {
        if (!property.description && property.const === undefined) without.push(`${path}.${name}`);
        visit(`${path}.${name}`, property);
      }
      for (const inner of [
        ...(each.oneOf ?? []),
        ...(each.anyOf ?? []),
        each.items,
        each.additionalProperties,
      ])
        if (typeof inner === 'object') visit(path, inner);
    };
    visit('scenario', schema);
    expect(without).to.deep.equal([]);
  });

  it('lists the metrics for editors', () => {
    const names = schema.properties?.thresholds?.propertyNames?.anyOf?.[0]?.enum;
    expect(names).to.deep.equal(Object.keys(METRICS));
  });
});
