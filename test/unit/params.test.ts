import { expect } from 'chai';
import { describe, it } from 'mocha';
import {
  PARAMS_DEPTH_LIMIT,
  PARAMS_LENGTH_LIMIT,
  paramsProblem,
  unknownParam,
} from '../../src/scenario/params.ts';
import { parseSettings, ScenarioError } from '../../src/scenario/scenario.ts';

function nested(levels: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < levels; i++) value = { a: value };
  return value;
}

/** Returns an object that refers to itself. */
function circle(): object {
  const self: Record<string, unknown> = {};
  self.list = [{ self }];
  return self;
}

/** Returns a small object whose JSON has 2^40 parts. */
function manyTimes(): unknown {
  let value: unknown = 'x';
  for (let i = 0; i < 20; i++) value = [value, value, value, value];
  return value;
}

describe('parameters of a scenario', () => {
  const bad: Record<string, readonly [value: unknown, problem: RegExp]> = {
    'a function': [
      { list: [{ f: () => 1 }] },
      /^x\.list\.0\.f: a value of type function; accepted: what JSON/,
    ],
    'a bigint': [1n, /^x: a value of type bigint/],
    undefined: [undefined, /^x: a value of type undefined/],
    NaN: [Number.NaN, /^x: NaN; accepted/],
    'a Map': [new Map(), /^x: a Map; accepted/],
    'a typed array': [new Uint8Array(4), /^x: a Uint8Array; accepted/],
    'a list with holes': [new Array(1e9), /^x\.0: a value of type undefined/],
    'a circle': [circle(), /^x\.list\.0\.self: refers to an object that contains it/],
    'a deep object': [nested(100_000), new RegExp(`deeper than ${PARAMS_DEPTH_LIMIT} levels`)],
    'a long text': ['x'.repeat(PARAMS_LENGTH_LIMIT), /^more than \d+ characters of JSON/],
    'many parts': [manyTimes(), /^more than \d+ characters of JSON/],
    'a long name': [{ ['n'.repeat(PARAMS_LENGTH_LIMIT)]: 1 }, /^names of more than \d+ characters/],
    'a getter that throws': [
      Object.defineProperty({}, 'y', {
        enumerable: true,
        get: () => {
          throw new Error('no');
        },
      }),
      /^cannot be read: Error: no/,
    ],
  };
  for (const [what, [value, problem]] of Object.entries(bad))
    it(`refuse ${what} with one short line`, () => {
      const text = paramsProblem({ x: value });
      expect(text).to.match(problem);
      expect(text.length).to.be.below(300);
      expect(text).not.to.include('\n');
      expect(() => parseSettings({ name: 'x', params: { x: value } })).to.throw(ScenarioError, /^params: /);
    });

  it('accept everything that JSON can say, at the limits', () => {
    const params = {
      n: null,
      t: true,
      s: 'ü',
      d: 1.5,
      list: [1, ['a']],
      deep: nested(PARAMS_DEPTH_LIMIT - 1),
    };
    expect(paramsProblem(params)).to.equal('');
    expect(parseSettings({ name: 'x', params }).params).to.deep.equal(params);
  });

  it('of the command line must be declared, if the scenario declares any', () => {
    expect(unknownParam({ hops: 1, stage: 'first' }, ['hops', 'bufferPages'])).to.equal('');
    expect(unknownParam({ hop: 1 }, ['hops', 'bufferPages'])).to.equal(
      "unknown parameter 'hop'; nearest: hops; accepted: hops, bufferPages, stage",
    );
    expect(unknownParam({ x: 1 }, [])).to.match(/^unknown parameter 'x'; accepted: none, but stage$/);
    expect(unknownParam({ anything: 1 }, undefined)).to.equal('');
  });
});
