/**
 * Migrations of VMs that lose a device before, during or after them, and of VMs that arrive at a host which is starting.
 */
import { pathToFileURL } from 'node:url';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { until } from '../support/until.ts';
import { expectSound } from './expect-sound.ts';
import { type Hosts, type MovingOptions, VM_TIMEOUT_MS, vmEnd, withHosts } from './migration-hosts.ts';
import type { VmResult } from './run-in-process.ts';

const options = (params: MovingOptions['params'] & {}): MovingOptions => ({
  scenario: 'test/fixtures/scenarios/losses.ts',
  model: pathToFileURL('test/fixtures/models/dies.ts').href,
  viommu: 'none',
  params,
});

/** Runs `test` with both hosts started. Returns the results of the VM, in the order of its hosts. */
async function resultsOf(
  params: MovingOptions['params'] & {},
  test: (hosts: Hosts) => Promise<void>,
): Promise<VmResult[]> {
  let received: Hosts['received'] = [];
  await withHosts(options(params), async (hosts) => {
    received = hosts.received;
    hosts.start(0);
    hosts.start(1);
    await test(hosts);
  });
  return received.flatMap(({ results }) => results.map(({ result }) => result));
}

/** Expects that the VM has lost its first device and nothing else. */
function expectOneLoss(results: readonly VmResult[], why: RegExp): void {
  const failed = results.flatMap(({ failedDevices }) => failedDevices);
  expect(failed).to.have.length(1);
  expect(failed[0]).to.match(why);
  for (const result of results) expectSound({ ...result, failedDevices: [] });
}

const notesOf = (results: readonly VmResult[]): string => results.flatMap(({ notes }) => notes).join('\n');

describe('a VM that loses a device', function () {
  this.timeout(90_000);

  for (const when of ['copying', 'paused'])
    it(`ends its migration at once if the device dies while the VM is ${when}`, async () => {
      const results = await resultsOf({ when }, (hosts) => vmEnd(hosts, 0));
      expectOneLoss(results, /^vm0\/dev0 worker ended: Error: as requested/);
      expect(notesOf(results)).to.match(/stayed: vm0\/dev0 is lost: worker ended[\s\S]*alive: false,true/);
    });

  it('can migrate later, without the device', async () => {
    const results = await resultsOf({ when: 'before' }, (hosts) => vmEnd(hosts, 1));
    expect(results.map(({ moved }) => moved)).to.deep.equal([true, false]);
    expectOneLoss(results, /^vm0\/dev0 worker ended/);
    expect(notesOf(results)).to.match(/0 bytes differ[\s\S]*alive: false,true/);
  });

  for (const announced of [false, true])
    it(`loses a device that is removed at its hand-over${announced ? ', as announced' : ''}`, async () => {
      const results = await resultsOf({ when: 'removed', announced }, async (hosts) => {
        const { received, remove } = hosts;
        await until(() => received[1]?.arrived.length === 1, 'the arrival', VM_TIMEOUT_MS);
        remove(0, 0, 0); // too late: the VM has left
        await vmEnd(hosts, 0);
        remove(1, 0, 0);
        await vmEnd(hosts, 1);
        expect(received.map(({ released }) => released)).to.deep.equal([[], [0]]);
      });
      if (announced) for (const result of results) expectSound(result);
      else expectOneLoss(results, /^vm0\/dev0 surprise removal: mdev x was removed while the VM used it/);
      if (announced) expect(notesOf(results)).to.match(/vm0\/dev0 removal, as announced: mdev x/);
      expect(notesOf(results)).to.match(/alive: false,true/);
    });

  it('must lose one whose removal it has announced', async () => {
    const results = await resultsOf({ announced: true }, (hosts) => vmEnd(hosts, 1));
    expect(results.map(({ violations }) => violations.map(({ kind }) => kind))).to.deep.equal([
      [],
      ['missing-removal'],
    ]);
  });
});

describe('a VM that arrives at a host which has not started its own VMs', function () {
  this.timeout(90_000);

  it('is not started a second time', async () => {
    await withHosts({ hosts: [[0], [1]] }, async ({ start, startLate, received }) => {
      const startGuests = await startLate(1);
      start(0);
      await until(() => received[1]?.arrived.length === 1, 'the arrival', VM_TIMEOUT_MS);
      startGuests();
      const ended = () => received.flatMap(({ results }) => results).filter(({ result }) => !result.moved);
      await until(() => ended().length === 2, 'the end of both VMs', VM_TIMEOUT_MS);
      for (const { result } of received.flatMap(({ results }) => results)) expectSound(result);
      expect(received.map(({ arrived }) => arrived)).to.deep.equal([[1], [0]]);
    });
  });

  it('arrives although the host does not listen yet', async () => {
    await withHosts({}, async (hosts) => {
      hosts.start(0);
      await new Promise((resolve) => setTimeout(resolve, 1000));
      hosts.start(1);
      await vmEnd(hosts, 1);
      for (const { result } of hosts.received.flatMap(({ results }) => results)) expectSound(result);
    });
  });
});
