/**
 * The command's output: where it goes, how much of it there is, and what happens if it cannot be written.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { COMMAND, fixture, mdevsim, ROOT, runScenario } from './run-command.ts';

/** Runs `$mdevsim` in a shell; returns what the shell prints, with stderr last. */
function shell(script: string): string {
  const env = { ...process.env, NODE_OPTIONS: '', mdevsim: `${process.execPath} ${COMMAND}` };
  return execFileSync('bash', ['-c', `{ ${script}; } 2>&1`], { cwd: ROOT, env, encoding: 'utf8' });
}

const SMALL = 'run first-light --vms 1 --vgpus 1 --ram 32';

describe('the output of a run', function () {
  this.timeout(120_000);
  const inFolder = temporaryFolder();

  it('is pure JSON on stdout, whatever the scenario prints; texts are bounded and what is cut is counted', async () => {
    const { code, stdout, stderr } = await mdevsim('run', fixture('prints'), '--json');
    const summary = JSON.parse(stdout);
    expect([code, summary.operations, summary.checksFailed, summary.mismatches]).to.deep.equal([1, 3, 5, 0]);
    expect(summary.problems).to.have.length(5);
    expect([summary.notes.length, summary.notesCut]).to.deep.equal([32, 76]);
    expect(stdout.length).to.be.below(40_000);
    for (const who of ['the top level', 'the guest'])
      for (const what of ['logs', 'writes', 'writes to file 1'])
        expect(stderr).to.include(`${who} ${what}\n`);
    expect(stderr).to.include('further output of this script is dropped');
    expect(stderr.length).to.be.below(40_000);
  });

  it('is one line for each text, also with control characters', async () => {
    const { stdout } = await mdevsim('run', fixture('prints'));
    expect(stdout).not.to.match(/^PASSED/m);
    expect(stdout).not.to.include('\u001b');
    expect(stdout).to.match(/and \d+ more notes\n/);
  });

  it('may go to a full disk or to a reader that goes away: the exit code is that of the run', () => {
    expect(shell(`$mdevsim ${SMALL} > /dev/full; echo $?`)).to.match(/\n0\n$/);
    expect(shell(`$mdevsim ${SMALL} --json 2> /dev/full > /dev/full; echo $?`)).to.equal('0\n');
    expect(shell(`$mdevsim ${SMALL} --json 2> /dev/null | head -1; echo \${PIPESTATUS[0]}`)).to.equal(
      '{\n0\n',
    );
    const lost = `run ${fixture('fails-then')} -p how=throws`;
    expect(shell(`$mdevsim ${lost} 2>&1 | true; echo \${PIPESTATUS[0]}`)).to.equal('1\n');
    expect(shell('$mdevsim --help | true; echo "$PIPESTATUS"')).to.equal('0\n');
    expect(shell('$mdevsim frobnicate 2> /dev/full; echo $?')).to.equal('104\n');
  });

  it('has a trace as far as its disk takes it', async () => {
    const { code, summary } = await runScenario('first-light', '--vms', '1', '--trace', '/dev/full');
    expect([code, summary.verdict]).to.deep.equal([0, 'passed']);
    expect(summary.hosts[0]?.traceError).to.match(/^ENOSPC/);
    expect(summary.hosts[0]?.traceDropped).to.be.above(0);
  });

  it('has a trace that is found by its name, without files of earlier runs, and printed up to a cut', () => {
    const trace = inFolder('run.trace');
    for (const stale of ['', '.2', '.3']) writeFileSync(`${trace}${stale}`, 'of an earlier run');
    shell(`$mdevsim ${SMALL} --vms 2 --processes 2 --trace ${trace}`);
    const whole = shell(`$mdevsim trace ${trace}`);
    for (const vm of ['vm0/gpu0', 'vm1/gpu0']) expect(whole).to.include(vm);
    shell(`truncate -s -3 ${trace}.1`);
    const cut = shell(
      `$mdevsim trace ${trace} > ${inFolder('printed')}; wc -l < ${inFolder('printed')}; echo $?`,
    );
    expect(Number(/\n(\d+)\n/.exec(cut)?.[1])).to.equal(whole.trimEnd().split('\n').length - 1);
    expect(cut).to.match(
      /^mdevsim: .*run\.trace\.1: trace ends inside a frame: \d+ bytes left at offset \d+\n/,
    );
    // The warning comes first if all lines were written before the reader left.
    expect(shell(`$mdevsim trace ${trace} | head -1 | wc -l`)).to.match(
      /^(mdevsim: .* inside a frame.*\n)?1\n/,
    );
  });

  it('refuses a trace that is no file, and overwrites none', async () => {
    mkdirSync(inFolder('folder.trace'));
    execFileSync('mkfifo', [inFolder('pipe.trace')]);
    for (const name of ['folder.trace', 'pipe.trace']) {
      const { code, stderr } = await mdevsim('run', 'first-light', '--trace', inFolder(name));
      expect([code, stderr]).to.deep.equal([
        104,
        `mdevsim: trace ${inFolder(name)}: not a file; accepted: a path to write the trace to\n`,
      ]);
    }
  });

  it('has screenshots in the folder of the run', async () => {
    const { summary } = await runScenario('vgpu-display', '--vms', '1', '--artifacts', inFolder('files'));
    expect(summary.folder).to.equal(inFolder('files'));
    expect(shell(`ls ${inFolder('files')}`)).to.equal('mdevsim-vm0-gpu0.png\nmdevsim-vm0-gpu1.png\n');
  });

  it('lists every VM and vGPU', async () => {
    const { summary } = await runScenario('first-light', '--vms', '2', '--vgpus', '2', '--ram', '32');
    expect(summary.version).to.equal(1);
    expect(summary.results.map(({ vm }) => vm)).to.deep.equal([0, 1]);
    const sum = (counts: readonly number[]) => counts.reduce((a, b) => a + b, 0);
    expect(sum(summary.results.map(({ operations }) => operations))).to.equal(summary.operations);
    for (const { vm, operations, vgpus } of summary.results) {
      expect(vgpus.map(({ name, type, gpu }) => [name, type, gpu])).to.deep.equal(
        [0, 1].map((index) => [`vm${vm}/gpu${index}`, 'vgpu-4g', 0]),
      );
      expect(sum(vgpus.map((vgpu) => vgpu.operations))).to.equal(operations);
      for (const { latencies, counters, used, share } of vgpus) {
        expect(latencies.map(({ name }) => name)).to.have.members(['interrupt', 'map', 'unmap']);
        expect([counters?.pins, share]).to.deep.equal([counters?.unpins, 0.25]);
        expect(used).to.be.within(0.001, 1);
      }
    }
  });
});

describe('the place of an error in a file', function () {
  this.timeout(120_000);
  const inFolder = temporaryFolder();
  const SCENARIO = "import { scenario } from 'mdevsim';\n";

  const cases: Record<string, readonly [files: Readonly<Record<string, string>>, place: string]> = {
    'in TypeScript': [{ 'a.ts': `${SCENARIO}const x: = 1;\n` }, 'a.ts:2:10'],
    'in JavaScript': [{ 'a.mjs': `${SCENARIO}\nconst = 1;\n` }, 'a.mjs:3:7'],
    'in an imported file': [
      { 'a.ts': `${SCENARIO}import './b.ts';\n`, 'b.ts': 'export const y = (;\n' },
      'b.ts:1:19',
    ],
    'in an import': [{ 'a.ts': "import { nothing } from 'mdevsim';\n" }, 'a.ts:1:10'],
    'at run time': [{ 'a.ts': `${SCENARIO}undefined!.x;\n` }, 'a.ts:2:12'],
  };
  for (const [where, [files, place]] of Object.entries(cases))
    it(`has line and column, ${where}`, async () => {
      for (const [name, text] of Object.entries(files)) writeFileSync(inFolder(name), text);
      const { code, stderr } = await mdevsim('run', inFolder(Object.keys(files)[0]));
      expect(code).to.equal(104);
      expect(stderr.trimEnd().split('\n')).to.have.length(1);
      expect(stderr).to.include(inFolder(place));
    });
});

it('mdevsim --version prints the version of the package', async () => {
  const { code, stdout } = await mdevsim('--version');
  expect(code).to.equal(0);
  expect(stdout).to.match(/^\d+\.\d+\.\d+\n$/);
});
