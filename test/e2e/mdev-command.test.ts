import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { until } from '../support/until.ts';
import { COMMAND, mdevsim } from './run-command.ts';

const UUID = '12345678-1234-4234-8234-123456789abc';
const TYPES = 'sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types';

describe('mdevsim types, list and sysfs', () => {
  const inFolder = temporaryFolder();

  it('print the default host as text and JSON', async () => {
    const [types, json, list] = await Promise.all([
      mdevsim('types'),
      mdevsim('types', '--dumpjson'),
      mdevsim('list', '--dumpjson'),
    ]);
    expect([types.code, json.code, list.code]).to.deep.equal([0, 0, 0]);
    expect(types.stdout).to.contain('0000:3b:00.0\n  vgpu-16g\n    Available instances: 1\n');
    expect(JSON.parse(json.stdout)[0]['0000:3b:00.0'].length).to.equal(5);
    expect(list.stdout).to.equal('[]\n');
  });

  it('write the tree once, and refuse a directory that mdevsim has not written', async () => {
    const once = inFolder('once');
    const wrote = await mdevsim('sysfs', once, '--once');
    expect(wrote.code).to.equal(0);
    expect(wrote.stdout).to.match(/^\d+ paths below /);
    expect(readFileSync(join(once, TYPES, 'vgpu-1g/available_instances'), 'utf8')).to.equal('16\n');
    const foreign = inFolder('foreign');
    mkdirSync(join(foreign, 'sys'), { recursive: true });
    const refused = await mdevsim('sysfs', foreign, '--once');
    expect(refused.code).to.equal(104);
    expect(refused.stderr).to.contain('not written by mdevsim');
    expect((await mdevsim('sysfs', once, '--for', '0')).code).to.equal(104);
    expect((await mdevsim('list', '--root', inFolder('nowhere'))).code).to.equal(104);
  });

  it('act on writes, report refused ones, and end on SIGTERM', async () => {
    const live = inFolder('live');
    const child = spawn(process.execPath, [COMMAND, 'sysfs', live], {
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    let stderr = '';
    let stdout = '';
    child.stderr.on('data', (text) => {
      stderr += text;
    });
    child.stdout.on('data', (text) => {
      stdout += text;
    });
    const ended = new Promise<number | null>((resolve) => child.on('exit', resolve));
    try {
      await until(() => stdout.includes('MDEVCTL_ENV_ROOT'), 'the tree');
      const second = await mdevsim('sysfs', live, '--once');
      expect([second.code, second.stderr]).to.deep.equal([
        104,
        `mdevsim: ${live} is in use by another run of mdevsim (process ${child.pid})\n`,
      ]);
      writeFileSync(join(live, TYPES, 'vgpu-8g/create'), `${UUID}\n`);
      await until(() => existsSync(join(live, 'sys/bus/mdev/devices', UUID, 'remove')), 'the instance');
      const { stdout: listed } = await mdevsim('list', '--root', live);
      expect(listed).to.equal(`${UUID} 0000:3b:00.0 vgpu-8g manual\n`);
      writeFileSync(join(live, TYPES, 'vgpu-16g/create'), UUID.replace('c', 'd'));
      await until(() => stderr.includes('ENOSPC'), 'the refusal');
      writeFileSync(join(live, 'sys/bus/mdev/devices', UUID, 'remove'), '1');
      await until(() => !existsSync(join(live, 'sys/bus/mdev/devices', UUID)), 'the removal');
    } finally {
      child.kill('SIGTERM');
    }
    expect(await ended).to.equal(0);
  });
});
