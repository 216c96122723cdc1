import { expect } from 'chai';
import { describe, it } from 'mocha';
import { MigrationState, migrationRoute, migrationStateName } from '../../src/device/migration/states.ts';

const { ERROR, RUNNING_P2P, PRE_COPY_P2P } = MigrationState;
const NUMBERS = [0, 1, 2, 3, 4, 5, 6, 7];
const SUPPORTED = ['STOP', 'RUNNING', 'STOP_COPY', 'RESUMING', 'PRE_COPY'] as const;

/**
 * The arcs that the kernel requests from a driver with STOP_COPY and PRE_COPY but without P2P. They are the
 * combination transitions of vfio_mig_get_next_state without the P2P states, which its loop skips.
 */
const ROUTES = [
  'PRE_COPY RUNNING',
  'PRE_COPY RUNNING STOP',
  'PRE_COPY RUNNING STOP RESUMING',
  'PRE_COPY STOP_COPY',
  'RESUMING STOP',
  'RESUMING STOP RUNNING',
  'RESUMING STOP RUNNING PRE_COPY',
  'RESUMING STOP STOP_COPY',
  'RUNNING PRE_COPY',
  'RUNNING STOP',
  'RUNNING STOP RESUMING',
  'RUNNING STOP STOP_COPY',
  'STOP RESUMING',
  'STOP RUNNING',
  'STOP RUNNING PRE_COPY',
  'STOP STOP_COPY',
  'STOP_COPY STOP',
  'STOP_COPY STOP RESUMING',
  'STOP_COPY STOP RUNNING',
];
const ARCS = new Set([
  'RUNNING STOP',
  'STOP RUNNING',
  'STOP STOP_COPY',
  'STOP_COPY STOP',
  'STOP RESUMING',
  'RESUMING STOP',
  'RUNNING PRE_COPY',
  'PRE_COPY RUNNING',
  'PRE_COPY STOP_COPY',
]);

/** Returns the state that vfio_mig_get_next_state returns; undefined where the kernel returns EINVAL. */
function nextState(current: number, target: number): number | undefined {
  const route = migrationRoute(current, target);
  return route && (route[0]?.to ?? target);
}

/** Returns the states on the way to `to` by repeated calls, or undefined if one is refused. */
function walk(from: number, to: number): string[] | undefined {
  const states = [migrationStateName(from)];
  for (let at = from; at !== to; ) {
    const next = nextState(at, to);
    if (next === undefined) return undefined;
    expect(ARCS.has(`${migrationStateName(at)} ${migrationStateName(next)}`), `${at} to ${next}`).to.equal(
      true,
    );
    expect(states.length, `endless way from ${from} to ${to}`).to.be.below(8);
    states.push(migrationStateName(next));
    at = next;
  }
  return states;
}

describe('device migration states', () => {
  it('have the names and numbers of enum vfio_device_mig_state', () => {
    const names = 'ERROR STOP RUNNING STOP_COPY RESUMING RUNNING_P2P PRE_COPY PRE_COPY_P2P 8'.split(' ');
    expect(names.map((_, number) => migrationStateName(number))).to.deep.equal(names);
  });

  it('are all reached by the kernel’s arcs and ways', () => {
    const found: string[] = [];
    for (const from of SUPPORTED)
      for (const to of SUPPORTED) {
        if (from === to) continue;
        const states = walk(MigrationState[from], MigrationState[to]);
        if (states) found.push(states.join(' '));
        const route = migrationRoute(MigrationState[from], MigrationState[to]);
        expect(route?.map((step) => migrationStateName(step.to))).to.deep.equal(states?.slice(1));
      }
    expect(found.sort()).to.deep.equal(ROUTES);
  });

  it('refuse exactly the transitions that the kernel refuses', () => {
    const refused = NUMBERS.flatMap((from) =>
      NUMBERS.filter((to) => nextState(from, to) === undefined).map((to) => `${from} ${to}`),
    );
    const odd: readonly number[] = [ERROR, RUNNING_P2P, PRE_COPY_P2P];
    const expected = NUMBERS.flatMap((from) =>
      NUMBERS.filter(
        (to) =>
          odd.includes(from) ||
          odd.includes(to) ||
          (from === MigrationState.STOP_COPY && to === MigrationState.PRE_COPY),
      ).map((to) => `${from} ${to}`),
    );
    expect(refused).to.deep.equal(expected);
    for (const state of [-1, 8, 1.5, Number.NaN]) {
      expect(nextState(MigrationState.RUNNING, state)).to.equal(undefined);
      expect(nextState(state, MigrationState.RUNNING)).to.equal(undefined);
      expect(nextState(state, state)).to.equal(undefined);
    }
  });

  it('stay unchanged in a transition to themselves', () => {
    for (const name of SUPPORTED) {
      const state = MigrationState[name];
      expect([nextState(state, state), migrationRoute(state, state)]).to.deep.equal([state, []]);
    }
  });
});
