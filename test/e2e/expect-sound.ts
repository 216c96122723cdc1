/**
 * Assertions on the result of a VM that must have run without an error.
 */
import { expect } from 'chai';
import type { VmResult } from './run-in-process.ts';

/** Expects no failure, violation, wrong page, failed check or unannounced fault. */
export function expectSound(result: VmResult): void {
  expect([result.scriptError, result.lost]).to.deep.equal(['', '']);
  expect(result.failures).to.deep.equal([]);
  expect(result.violations).to.deep.equal([]);
  expect(result.failedDevices).to.deep.equal([]);
  expect(result.mismatches).to.equal(0);
  expect(result.checksFailed).to.equal(0);
  expect(result.faultsUnexpected).to.equal(0);
}

/** As {@link expectSound}. Also expects that the devices have released every pin. */
export function expectSoundAndUnpinned(result: VmResult): void {
  expectSound(result);
  expect(result.devices?.pins).to.equal(result.devices?.unpins);
}
