/**
 * The sysfs tree of a live run: writes take effect, with and without mdevctl.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { after, before, describe, it } from 'mocha';
import { until } from '../support/until.ts';
import { findMdevctl } from './find-mdevctl.ts';
import { COMMAND, fixture, ROOT } from './run-command.ts';

const HELD = ['33333333-aaaa-4bbb-8ccc-000000000000', '33333333-aaaa-4bbb-8ccc-000000000001'] as const;
const MADE = '44444444-aaaa-4bbb-8ccc-000000000001';
const BUS = 'sys/bus/mdev/devices';
const TYPES = 'sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types';

interface Summary {
  readonly problems: readonly string[];
  readonly operations: number;
  readonly mismatches: number;
  readonly violations: number;
}

/** `mdevsim run` of the fixture with its tree below `dir`. */
class LiveRun {
  readonly dir: string;
  stderr = '';
  #stdout = '';
  readonly #child;
  readonly #ended: Promise<number | null>;

  constructor(dir: string, ...flags: string[]) {
    this.dir = dir;
    this.#child = spawn(
      process.execPath,
      [COMMAND, 'run', fixture('until-removed'), '--sysfs', dir, '--json', ...flags],
      { cwd: ROOT, env: { ...process.env, NODE_OPTIONS: '' } },
    );
    this.#child.stdout.on('data', (text) => {
      this.#stdout += text;
    });
    this.#child.stderr.on('data', (text) => {
      this.stderr += text;
    });
    this.#ended = new Promise((resolve) => this.#child.on('close', resolve));
  }

  /** Waits until the tree exists and the guests work. */
  ready(): Promise<void> {
    return until(() => this.stderr.includes('at work: '), 'work of the run');
  }

  async end(): Promise<{ readonly code: number | null; readonly summary: Summary }> {
    const code = await this.#ended;
    return { code, summary: JSON.parse(this.#stdout) as Summary };
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.#ended;
  }

  has(path: string): boolean {
    return existsSync(join(this.dir, path));
  }

  read(path: string): string {
    return readFileSync(join(this.dir, path), 'utf8');
  }

  write(path: string, text: string): void {
    writeFileSync(join(this.dir, path), text);
  }

  get instances(): string[] {
    return readdirSync(join(this.dir, BUS)).sort();
  }
}

describe('the sysfs tree of a live run', () => {
  let run: LiveRun;

  before(async () => {
    run = new LiveRun(mkdtempSync(join(tmpdir(), 'mdevsim-live-')));
    await run.ready();
  });
  after(async () => {
    await run.kill();
    rmSync(run.dir, { recursive: true, force: true });
  });

  it('shows the devices of its VMs, and creates and removes instances', async () => {
    expect(run.instances).to.deep.equal([...HELD]);
    expect(run.read(`${BUS}/${HELD[1]}/mdevsim/vm_name`)).to.equal('vm0/gpu1\n');
    expect(run.read(`${TYPES}/vgpu-4g/available_instances`)).to.equal('2\n');
    run.write(`${TYPES}/vgpu-8g/create`, `${MADE}\n`);
    await until(() => run.has(`${BUS}/${MADE}/remove`), 'the instance');
    expect(run.read(`${TYPES}/vgpu-4g/available_instances`)).to.equal('0\n');
    run.write(`${TYPES}/vgpu-4g/create`, MADE.replace('4', '5'));
    await until(
      () => run.stderr.includes("ENOSPC: vgpu-4g needs 4096 of 0000:3b:00.0's 16384, 14336 are taken"),
      'the refusal',
    );
    run.write(`${TYPES}/vgpu-2g/create`, HELD[0]);
    await until(() => run.stderr.includes(`EEXIST: instance ${HELD[0]} exists already`), 'the other refusal');
    run.write(`${BUS}/${MADE}/remove`, '1');
    await until(() => !run.has(`${BUS}/${MADE}`), 'the removal');
  });

  it('lets mdevctl list, start and stop instances', async function () {
    const mdevctl = await findMdevctl(run.dir);
    if (typeof mdevctl === 'string') {
      console.log(`    skipped: ${mdevctl}`);
      this.skip();
    }
    const runMdevctl = async (...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await mdevctl(...args);
      expect(code, stderr).to.equal(0);
      return stdout.trimEnd();
    };
    console.log(`    with ${await runMdevctl('--version')}`);
    const held = [`${HELD[0]} 0000:3b:00.0 vgpu-4g manual`, `${HELD[1]} 0000:3b:00.0 vgpu-2g manual`];
    expect((await runMdevctl('list')).trim().split('\n').sort()).to.deep.equal(held);
    await runMdevctl('start', '-u', MADE, '-p', '0000:3b:00.0', '-t', 'vgpu-1g');
    await until(() => run.has(`${BUS}/${MADE}/remove`), 'the instance');
    expect(await runMdevctl('list')).to.include(`${MADE} 0000:3b:00.0 vgpu-1g manual`);
    await runMdevctl('stop', '-u', MADE);
    await until(() => !run.has(`${BUS}/${MADE}`), 'the removal');
  });

  it('removes a device that a VM uses: the run reports it, the other device continues', async () => {
    run.write(`${BUS}/${HELD[0]}/remove`, '1');
    const { code, summary } = await run.end();
    expect(run.stderr).to.match(new RegExp(`/${HELD[0]}/remove: waits for the last close`));
    expect(summary.problems).to.deep.equal([
      `device failed: vm0/gpu0 surprise removal: mdev ${HELD[0]} was removed while the VM used it`,
    ]);
    expect({ code, ...summary }).to.include({ code: 1, mismatches: 0, violations: 0 });
    expect(summary.operations).to.be.above(15);
    expect(run.instances, 'the tree stays').to.deep.equal([HELD[1]]);
    expect(run.read(`${TYPES}/vgpu-2g/available_instances`)).to.equal('7\n');
  });
});
