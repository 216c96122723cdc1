/**
 * Errors of users and faulty guests. Each ends the command with a clear message and its own exit code.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { loadSettings } from '../../src/scenario/load.ts';
import { fixture, mdevsim } from './run-command.ts';

/** Arguments of the command, its expected exit code and a pattern of its output. */
interface Case {
  readonly title: string;
  readonly args: readonly string[];
  readonly code: number;
  readonly output: RegExp;
}

const CONFIGURATION: readonly Case[] = [
  {
    title: 'a missing scenario',
    args: ['run', 'nowhere.ts'],
    code: 104,
    output: /scenario nowhere\.ts: no such file/,
  },
  {
    title: 'a scenario that is a folder',
    args: ['run', 'src'],
    code: 104,
    output: /scenario src: not a file/,
  },
  {
    title: 'a scenario that throws while loading',
    args: ['run', fixture('throws')],
    code: 104,
    output: /throws\.ts: this file throws while it is loaded/,
  },
  {
    title: 'a scenario without a default export',
    args: ['run', fixture('no-export')],
    code: 104,
    output: /no default export: it must be scenario/,
  },
  {
    title: 'settings out of range: every one is named',
    args: ['run', fixture('bad-settings')],
    code: 104,
    output: /vms: .*from 1 to 1024.*ramMiB: .*from 8 to 4096.*multiple of 4/,
  },
  {
    title: 'an option out of range',
    args: ['run', 'x.ts', '--vms', '0'],
    code: 104,
    output: /accepted: 1 to 1024/,
  },
  {
    title: 'an invalid parameter',
    args: ['run', 'scenarios/first-light.ts', '--param', 'speed'],
    code: 104,
    output: /accepted: name=value/,
  },
  {
    title: 'a parameter that the scenario does not have',
    args: ['run', 'scenarios/live-migration.ts', '-p', 'hopps=2'],
    code: 104,
    output: /unknown parameter 'hopps'; nearest: hops; accepted: hops, bufferPages/,
  },
  {
    title: 'a parameter of a scenario without any',
    args: ['run', 'scenarios/first-light.ts', '-p', 'rounds=2'],
    code: 104,
    output: /unknown parameter 'rounds'; accepted: none/,
  },
  {
    title: 'a parameter of great depth',
    args: ['run', fixture('parameters'), '-p', `name=${'['.repeat(30_000)}${']'.repeat(30_000)}`],
    code: 104,
    output: /params: name\.0\.0.*: deeper than 32 levels; accepted: up to that/,
  },
  {
    title: 'an unknown injection',
    args: ['run', 'scenarios/first-light.ts', '--inject', 'gremlins'],
    code: 104,
    output: /'gremlins' is invalid; nearest: [\w-]+; accepted: .*host-kill/,
  },
  {
    title: 'an unknown vIOMMU',
    args: ['run', 'scenarios/first-light.ts', '--viommu', 'smmu'],
    code: 104,
    output: /'smmu' is invalid; (?:nearest: \w+; )?accepted: none, intel, intel-scalable, amd, virtio, spapr/,
  },
  {
    title: 'skip-invalidation on a vIOMMU without invalidations',
    args: ['run', 'scenarios/first-light.ts', '--viommu', 'virtio', '--inject', 'skip-invalidation'],
    code: 104,
    output: /skip-invalidation needs invalidations: virtio-iommu has none/,
  },
  {
    title: 'more RAM than sPAPR maps with pages',
    args: ['run', 'scenarios/first-light.ts', '--viommu', 'spapr', '--ram', '256'],
    code: 104,
    output: /ramMiB: 256 behind spapr.*up to 128/,
  },
  {
    title: 'an unknown command',
    args: ['rnu'],
    code: 104,
    output: /no command 'rnu'; nearest: run; accepted: run, trace/,
  },
  {
    title: 'an unknown option',
    args: ['run', 'first-light', '--vgpu', '2'],
    code: 104,
    output: /no option '--vgpu' of mdevsim run; nearest: --vgpus; accepted: --/,
  },
  {
    title: 'an unknown argument among choices',
    args: ['conformance', 'vdt'],
    code: 104,
    output: /'vdt' is invalid for argument 'kind'; nearest: vtd; accepted: vfio, vtd/,
  },
  {
    title: 'a value out of range',
    args: ['run', 'first-light', '--vms', '0'],
    code: 104,
    output: /argument '0' is invalid; accepted: 1 to 1024 \(mdevsim run --help\)/,
  },
  {
    title: 'more workers than vm.max_map_count allows',
    args: ['run', 'scenarios/first-light.ts', '--vms', '1000', '--vgpus', '31'],
    code: 104,
    output: /vm\.max_map_count is \d+: at most \d+ VMs per process/,
  },
  {
    title: 'more VMs than memory allows',
    args: ['run', 'scenarios/first-light.ts', '--vms', '500', '--vgpus', '1', '--ram', '4096'],
    code: 104,
    output: /may need \d+ MiB; \d+ MiB are available/,
  },
  { title: 'a missing trace', args: ['trace', 'nowhere.trace'], code: 104, output: /nowhere\.trace/ },
  { title: 'a file that is not a trace', args: ['trace', 'package.json'], code: 104, output: /offset 0/ },
];

const GUESTS: readonly Case[] = [
  ...['loops', 'waits', 'exits', 'throws', 'allocates'].map((how) => ({
    title: `a script that fails checks and then ${how}: the checks count`,
    args: ['run', fixture('fails-then'), '-p', `how=${how}`],
    code: 1,
    output:
      /✗ VM 0: the first check\n.*✗ VM 0: a page of ones: guest page .*\n.*✗ VM 0 script: [\s\S]*operations +7 /,
  })),
  {
    title: 'a script that throws: the output names the line',
    args: ['run', fixture('guest-throws')],
    code: 107,
    output: /VM 0 script: RangeError: the guest has had enough \(.*guest-throws\.ts:\d+/,
  },
  {
    title: 'a script that loops forever',
    args: ['run', fixture('guest-loops')],
    code: 107,
    output: /script did not end within 1500 ms/,
  },
  {
    title: 'a script that waits forever',
    args: ['run', fixture('guest-hangs')],
    code: 107,
    output: /script did not end within 1500 ms/,
  },
  {
    title: 'a script that allocates without limit',
    args: ['run', fixture('guest-allocates')],
    code: 107,
    output: /VM 0 script: /,
  },
  {
    title: 'a script that holds buffers without limit: its neighbour passes',
    args: ['run', fixture('holds-buffers')],
    code: 107,
    output: /✗ VM 0 script: script holds \d+ MiB of buffers; accepted: 1024 MiB\n {2}operations +60 /,
  },
  {
    title: 'garbage in the VT-d tables',
    args: ['run', fixture('garbage-tables')],
    code: 1,
    output: /DMA (read|write) by 00:0\d\.0 to 0x[0-9a-f]+ faulted: reason 0x[0-9a-f]+ \w+/,
  },
  {
    title: 'a ring outside RAM',
    args: ['run', fixture('ring-outside-ram')],
    code: 1,
    output: /0x4000000000 is not guest RAM.*\n.*halted: its ring or completion area cannot be reached/,
  },
  {
    title: 'a page table that points to itself',
    args: ['run', fixture('self-table')],
    code: 1,
    output: /vm0\/gpu0 is cut off by a table that points to itself/,
  },
];

function check({ title, args, code, output }: Case): void {
  it(title, async () => {
    const result = await mdevsim(...args);
    const printed = result.stdout + result.stderr;
    expect(printed).to.match(output);
    expect(result.code, printed).to.equal(code);
    expect(printed, 'no stack traces').not.to.match(/^\s+at .*\(.*:\d+:\d+\)$/m);
  });
}

describe('bad input: the command line and the scenario file', () => {
  for (const each of CONFIGURATION) check(each);

  it('a scenario file that never ends loading', async () => {
    let message = '';
    await loadSettings(fixture('never-loads'), 500).catch((error: Error) => {
      message = error.message;
    });
    expect(message).to.match(/never-loads\.ts: did not load within 500 ms/);
  });
});

describe('bad guests', function () {
  this.timeout(120_000);
  for (const each of GUESTS) check(each);
});
