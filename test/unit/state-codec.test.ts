/**
 * Saved states: each value is checked when it is read.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { decodeState, encodeState, StateError, type StateValues } from '../../src/proto/state-codec.ts';

const read = (values: StateValues) => decodeState(encodeState('part', 2, values), 'part', 2);

describe('saved state', () => {
  it('has its values, by type and name', () => {
    const values = {
      number: -1.5,
      count: 7,
      register: 2n ** 64n - 1n,
      isOn: true,
      name: 'Grüße',
      bytes: Uint8Array.of(1, 2, 3),
      list: [1, 2.5],
      'part.inner': 3,
    };
    const state = read(values);
    expect(state.number('number')).to.equal(-1.5);
    expect(state.integer('count', 7, 7)).to.equal(7);
    expect(state.bigint('register')).to.equal(2n ** 64n - 1n);
    expect(state.boolean('isOn')).to.equal(true);
    expect(state.text('name')).to.equal('Grüße');
    expect([...state.bytes('bytes', 3)]).to.deep.equal([1, 2, 3]);
    expect(state.numbers('list', 2)).to.deep.equal([1, 2.5]);
    expect(state.part('part').integer('inner')).to.equal(3);
    expect([state.has('list'), state.has('inner')]).to.deep.equal([true, false]);
  });

  it('refuses a value beyond its bits, its bounds or its length', () => {
    const state = read({ register: 256n, count: 8, list: [1, 2, 3], bytes: new Uint8Array(3), half: 0.5 });
    expect(state.bigint('register', 9)).to.equal(256n);
    const wrong = [
      () => state.bigint('register', 8),
      () => state.integer('count', 7),
      () => state.integer('count', 9, 9),
      () => state.integer('half'),
      () => state.numbers('list', 2),
      () => state.bytes('bytes', 4),
      () => state.text('count'),
      () => state.number('absent'),
    ];
    for (const [i, action] of wrong.entries()) expect(action, `${i}`).to.throw(StateError, 'state of part');
  });

  it('refuses numbers that are not finite, alone and in lists', () => {
    for (const number of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const state = read({ number, list: [0, number] });
      expect(() => state.number('number')).to.throw(StateError, 'number is not finite');
      expect(() => state.numbers('list', 2)).to.throw(StateError, 'list is not finite');
    }
  });

  it('refuses another kind, and a version out of range', () => {
    const bytes = encodeState('part', 2, {});
    expect(() => decodeState(bytes, 'other', 2)).to.throw(StateError, "state of 'part'; accepted: other");
    for (const [newest, oldest] of [
      [1, 1],
      [4, 3],
    ] as const)
      expect(() => decodeState(bytes, 'part', newest, oldest)).to.throw(StateError, 'version 2');
    expect(decodeState(bytes, 'part', 3, 1).version).to.equal(2);
  });
});
