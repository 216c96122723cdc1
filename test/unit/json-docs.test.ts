/**
 * docs/json.md names every field of the record.
 */
import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { RECORD_PARTS, recordSchema } from '../support/record-schema.ts';

describe('docs/json.md', () => {
  const named = new Set(
    [...readFileSync('docs/json.md', 'utf8').matchAll(/`([^`\n]+)`/g)].flatMap(([, code = '']) =>
      code.replace(/[{}]/g, '').split(/[\s,]+/),
    ),
  );

  for (const [part, { shape }] of Object.entries({ record: recordSchema, ...RECORD_PARTS }))
    it(`names the fields of ${part}`, () => {
      expect(Object.keys(shape).filter((field) => !named.has(field))).to.deep.equal([]);
    });
});
