/**
 * Runs that a signal ends.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { RunSummary } from '../../src/report/summary.ts';
import { parseJunit } from '../support/junit-file.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { parseTrace } from '../support/trace-events.ts';
import { until } from '../support/until.ts';
import { COMMAND, fixture, mdevsim, ROOT } from './run-command.ts';

/** Time limit for the start or the end of a run on a busy machine. */
const LIMIT_MS = 60_000;

/** A command that runs, with its output so far. */
class Running {
  readonly child: ChildProcess;
  stdout = '';
  stderr = '';
  readonly #ended: Promise<unknown[]>;

  constructor(
    scenario: string,
    options: readonly string[],
    temporary: string,
    shell: readonly string[] = [],
  ) {
    const command = [...shell, process.execPath, COMMAND, 'run', scenario, ...options];
    const npm = shell.length > 0 ? { npm_lifecycle_event: 'npx' } : {};
    this.child = spawn(command[0] as string, command.slice(1), {
      cwd: ROOT,
      env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1', TMPDIR: temporary, ...npm },
      detached: true,
    });
    this.child.stdout?.on('data', (text) => {
      this.stdout += text;
    });
    this.child.stderr?.on('data', (text) => {
      this.stderr += text;
    });
    this.#ended = once(this.child, 'close');
  }

  get pid(): number {
    return this.child.pid as number;
  }

  /** Waits until a text has been printed `times` times. @throws Error after LIMIT_MS, with the output */
  async says(text: string, times = 1): Promise<void> {
    const isSaid = () => this.stderr.split(text).length > times || this.child.exitCode !== null;
    await until(isSaid, `${times} × '${text}'`, LIMIT_MS).catch((error: Error) => {
      throw new Error(`${error.message}: ${this.stderr}`);
    });
  }

  /** Waits until the progress shows work that is done. */
  works(): Promise<void> {
    const isDone = () =>
      /\b[1-9]\d* (operation|iteration)s?\b/.test(this.stderr) || this.child.exitCode !== null;
    return until(isDone, 'operations in the progress', LIMIT_MS);
  }

  /** Resolves to the exit code. Expects that no process of the group is left. */
  async end(): Promise<number | string> {
    const [code, signal] = await this.#ended;
    await until(() => membersOf(this.pid).length === 0, 'the end of all processes of the run', LIMIT_MS);
    return (code ?? signal) as number | string;
  }
}

/** Returns the IDs of the processes of a group that still run. */
function membersOf(group: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const [state, , pgrp] = readFileSync(`/proc/${name}/stat`, 'utf8')
          .replace(/^.*\) /s, '')
          .split(' ');
        return Number(pgrp) === group && state !== 'Z';
      } catch {
        return false; // it has ended meanwhile
      }
    })
    .map(Number);
}

describe('an interrupted run', function () {
  this.timeout(3 * LIMIT_MS);
  const temporary = temporaryFolder();
  const outputs = temporaryFolder();

  const data = (name: string) => `test/fixtures/scenarios/${name}.yaml`;
  const start = (scenario: string, ...options: string[]) =>
    new Running(fixture(scenario), options, temporary());
  const leftovers = () => readdirSync(temporary());

  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    it(`reports what was done, after ${signal} to the command`, async () => {
      const run = start('works-until-stopped', '--json');
      await run.says('the guest works', 2);
      process.kill(run.pid, signal);
      expect(await run.end(), run.stderr).to.equal(105);
      const summary = JSON.parse(run.stdout) as RunSummary;
      expect([summary.verdict, summary.exitCode, summary.problems]).to.deep.equal(['interrupted', 105, []]);
      expect(summary.notes).to.deep.equal(['VM 0 works', 'VM 1 works']);
      expect(summary.operations).to.be.above(0);
      expect(summary.latencies.map(({ name }) => name)).to.include.members(['map', 'unmap', 'interrupt']);
      expect(summary.devices.pins, 'the devices have stopped in order').to.equal(summary.devices.unpins);
      expect(leftovers()).to.deep.equal([]);
    });

  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    it(`ends a declared load in order after ${signal}, with a report of every iteration`, async () => {
      const json = join(temporary(), 'out.json');
      const run = new Running(
        data('works-for-long'),
        ['--processes', '2', '--out', `json=${json}`],
        temporary(),
      );
      await run.works();
      process.kill(run.pid, signal);
      expect(await run.end(), run.stderr).to.equal(105);
      expect(run.stdout).to.match(/^INTERRUPTED {2}works-for-long/);
      const summary = JSON.parse(readFileSync(json, 'utf8')) as RunSummary;
      expect([summary.verdict, summary.problems, summary.notes]).to.deep.equal(['interrupted', [], []]);
      const of = (name: string, stage: string) =>
        summary.load.metrics.find((each) => each.name === name && each.tags.stage === stage)?.values.count;
      // Each has ended and was compared, so that nothing was cut off.
      expect(of('iterations', 'closed')).to.equal(of('commands', 'closed'));
      expect(of('iterations', 'closed')).to.be.above(0);
      expect(of('iterations', 'open')).to.equal(of('commands', 'open'));
      expect(of('interrupted_iterations', 'closed') ?? 0).to.equal(0);
      expect(summary.load.events.map(({ error }) => error)).to.deep.equal(['']);
      expect(summary.devices.pins).to.equal(summary.devices.unpins);
      rmSync(json);
      expect(leftovers()).to.deep.equal([]);
    });

  it('ends a declared load at once with a second signal, and writes its outputs', async () => {
    const [junit, blob, perfetto] = ['junit', 'blob', 'perfetto'].map((kind) => join(outputs(), kind)) as [
      string,
      string,
      string,
    ];
    const out = Object.entries({ junit, blob, perfetto }).flatMap(([kind, path]) => [
      '--out',
      `${kind}=${path}`,
    ]);
    const run = new Running(data('works-for-long'), out, temporary());
    await run.works();
    process.kill(run.pid, 'SIGINT');
    await run.says('interrupted by SIGINT');
    await new Promise((resolve) => setTimeout(resolve, 250));
    if (run.child.exitCode === null) process.kill(run.pid, 'SIGINT');
    expect(await run.end(), run.stderr).to.equal(105);
    expect(run.stdout).to.match(/^INTERRUPTED {2}/);
    const errors = parseJunit(readFileSync(junit, 'utf8')).testcase.filter(({ error }) => error);
    expect(errors.map(({ name }) => name)).to.deep.equal(['the run is not interrupted']);
    expect(parseTrace(readFileSync(perfetto, 'utf8')).events).not.to.deep.equal([]);
    expect((await mdevsim('merge', blob)).code).to.equal(105);
    expect(leftovers()).to.deep.equal([]);
  });

  it('does so after a signal to all of its processes, as a terminal sends it', async () => {
    const run = start('works-until-stopped');
    await run.says('the guest works', 2);
    process.kill(-run.pid, 'SIGINT');
    expect(await run.end(), run.stderr).to.equal(105);
    expect(run.stdout).to.match(/^INTERRUPTED {2}works-until-stopped:\s+2 VMs × 2 vGPUs in 2 host processes/);
    expect(run.stdout).to.include('· VM 1 works');
    expect(leftovers()).to.deep.equal([]);
  });

  it('ends at once with a second signal', async () => {
    const run = start('fails-then', '--timeout', '600000');
    await run.says('start: 0 of 1 VM done');
    process.kill(run.pid, 'SIGTERM');
    await run.says('interrupted by SIGTERM');
    await new Promise((resolve) => setTimeout(resolve, 250));
    if (run.child.exitCode === null) process.kill(run.pid, 'SIGTERM');
    expect(await run.end(), run.stderr).to.equal(105);
    expect(run.stdout).to.match(/^INTERRUPTED {2}/);
    expect(leftovers()).to.deep.equal([]);
  });

  it('has not started, if the signal comes while the scenario loads', async () => {
    const run = start('loads-slowly', '--json');
    await run.says('the file loads');
    process.kill(run.pid, 'SIGINT');
    expect(await run.end(), run.stderr).to.equal(105);
    expect(run.stderr).to.include('INTERRUPTED by SIGINT before the run has started');
    expect((JSON.parse(run.stdout) as RunSummary).verdict).to.equal('interrupted');
    expect(leftovers()).to.deep.equal([]);
  });

  it('reports what was done, if npm forwards a signal to its shell alone', async () => {
    // The shell stays the parent of the command, as that of npm does.
    const shell = ['sh', '-c', '"$@"; exit', 'sh'];
    const run = new Running(fixture('works-until-stopped'), [], temporary(), shell);
    await run.says('the guest works', 2);
    process.kill(run.pid, 'SIGTERM');
    expect(await run.end(), run.stderr).to.equal('SIGTERM');
    expect(run.stderr).to.include('interrupted by the end of its parent process');
    expect(run.stdout).to.match(/^INTERRUPTED {2}/);
    expect(leftovers()).to.deep.equal([]);
  });

  it('leaves no process and no folder behind, if its command is killed', async () => {
    const run = start('works-until-stopped');
    await run.says('the guest works', 2);
    process.kill(run.pid, 'SIGKILL');
    expect(await run.end()).to.equal('SIGKILL');
    expect(tmpdir()).not.to.equal(temporary());
    expect(leftovers()).to.deep.equal([]);
  });
});
