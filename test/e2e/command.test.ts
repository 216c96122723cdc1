import { expect } from 'chai';
import { describe, it } from 'mocha';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { mdevsim, runScenario } from './run-command.ts';

const FIRST_LIGHT = 'scenarios/first-light.ts';
const SIZE = ['--vms', '2', '--vgpus', '2', '--ram', '32'];
const SMALL = ['run', FIRST_LIGHT, ...SIZE];

describe('mdevsim run', function () {
  this.timeout(120_000);

  it('prints the verdict first and the seed of the run', async () => {
    const { code, stdout } = await mdevsim(...SMALL, '--seed', '42');
    expect(code, stdout).to.equal(0);
    expect(stdout).to.match(/^PASSED {2}first-light: 2 VMs × 2 vGPUs in 1 host process, .* seed 42\n/);
    expect(stdout).to.match(/violations +0 .*VMs lost 0/);
    for (const name of ['map', 'unmap', 'switch', 'doorbell→interrupt'])
      expect(stdout).to.match(new RegExp(`\\b${name} +\\d+( +[\\d.]+ (µs|ms|s)){4}`));
  });

  it('distributes VMs over processes; a killed process loses only its own VMs', async () => {
    const { code, summary } = await runScenario(
      FIRST_LIGHT,
      ...SIZE,
      ...['--processes', '2', '--inject', 'host-kill'],
    );
    expect(code).to.equal(1);
    expect(summary.vmsLost).to.equal(1);
    expect(summary.problems).to.deep.equal(['VM 1 lost: host process 1 died (SIGKILL)']);
    expect(summary.mismatches).to.equal(0);
  });

  it('passes parameters of the command line to the guests', async () => {
    const { code, stdout } = await mdevsim(
      'run',
      'test/fixtures/scenarios/parameters.ts',
      ...['--param', 'rounds=40', '-p', 'name=two words'],
    );
    expect(code, stdout).to.equal(0);
    expect(stdout).to.include('{"rounds":40,"kind":"default","name":"two words"}');
  });

  it('runs many vGPUs, each in its own worker, beside baseline workers', async () => {
    const args = ['run', 'scenarios/many-vgpus.ts', '--vms', '4', '--vgpus', '2', '--processes', '2'];
    const { code, stdout } = await mdevsim(...args);
    expect(code, stdout).to.equal(0);
    expect(stdout).to.match(/vGPU start +8 in .* MiB each/);
    expect(stdout).to.match(/baseline +32 in [\s\S]* × the memory, .* × the time/);
  });
});

describe('mdevsim trace', function () {
  this.timeout(120_000);
  const inFolder = temporaryFolder();

  it('prints every control message of a run in order of time', async () => {
    const file = inFolder('run.trace');
    const run = await mdevsim(...SMALL, '--processes', '2', '--trace', file);
    expect(run.code, run.stdout).to.equal(0);
    const { code, stdout } = await mdevsim('trace', `${file}.0`, `${file}.1`);
    expect(code).to.equal(0);
    const lines = stdout.trimEnd().split('\n');
    const times = lines.map((line) => line.slice(0, 15));
    expect(times).to.deep.equal([...times].sort());
    for (const vm of ['vm0', 'vm1'])
      for (const kind of [
        'deviceReady',
        'dmaUnmap',
        'dmaUnmapDone',
        'dmaFault',
        'faultRecorded',
        'guestPhase',
        'addressSpaceSwitch',
        'vmResult',
      ])
        expect(
          lines.some((line) => line.includes(vm) && line.includes(` ${kind} `)),
          `${vm} ${kind}`,
        ).to.equal(true);
    expect(stdout).to.match(/guestPhase +name="pass-through and back"/);
  });
});
