/**
 * Removal of a device, in the sysfs tree, while its VM is between two hosts.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { sleep } from '#host';
import type { RunSummary } from '../../src/report/summary.ts';
import { until } from '../support/until.ts';
import { COMMAND, ROOT } from './run-command.ts';

const BUS = 'sys/bus/mdev/devices';
const AVAILABLE = 'sys/class/mdev_bus/vgpu/mdev_supported_types/vgpu-1/available_instances';
const START_TIMEOUT_MS = 60_000;

/** Runs the scenario and removes vm0/gpu1 `delayMs` after its VM has paused. */
async function removeAfter(delayMs: number): Promise<{ summary: RunSummary; available: number[] }> {
  const dir = mkdtempSync(join(tmpdir(), 'mdevsim-removal-'));
  const flags = ['--sysfs', dir, '--json', '-p', `signals=${dir}`];
  const child = spawn(
    process.execPath,
    [COMMAND, 'run', 'test/fixtures/field/remove-in-handover.ts', ...flags],
    { cwd: ROOT, env: { ...process.env, NODE_OPTIONS: '' } },
  );
  try {
    let stdout = '';
    child.stdout.on('data', (text) => {
      stdout += text;
    });
    const ended = new Promise((resolve) => child.on('close', resolve));
    await until(() => existsSync(join(dir, 'pausing')), 'the pause', START_TIMEOUT_MS);
    const available = () => Number(readFileSync(join(dir, AVAILABLE), 'utf8'));
    const before = available();
    await sleep(delayMs);
    const nameOf = (uuid: string) => readFileSync(join(dir, BUS, uuid, 'mdevsim/vm_name'), 'utf8').trim();
    const uuid = readdirSync(join(dir, BUS)).find((name) => nameOf(name) === 'vm0/gpu1') as string;
    writeFileSync(join(dir, BUS, uuid, 'remove'), '1');
    await ended;
    return { summary: JSON.parse(stdout) as RunSummary, available: [before, available()] };
  } finally {
    child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  }
}

describe('a device that is removed while its VM is between two hosts', function () {
  this.timeout(180_000);

  for (const delayMs of [0, 50])
    it(`is lost wherever the VM continues: ${delayMs} ms after the pause`, async () => {
      const { summary, available } = await removeAfter(delayMs);
      expect(summary.problems).to.have.length(1);
      expect(summary.problems[0]).to.match(/^device failed: vm0\/gpu1 surprise removal/);
      expect(summary.notes.join('\n')).to.match(/(stays|moved); alive: true,false/);
      expect(available[1]).to.equal((available[0] as number) + 1);
      expect(summary.mismatches + summary.checksFailed).to.equal(0);
    });
});
