/**
 * `mdevsim serve` as a user starts it: arguments for QEMU, sockets, clients that come and go, the report.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import { decodePng } from '../support/png.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { until } from '../support/until.ts';
import { VfioUserClient, VfioUserRequests } from '../support/vfio-user-client.ts';
import { COMMAND, ROOT } from './run-command.ts';

const TIMEOUT_MS = 60_000;

describe('mdevsim serve', function () {
  this.timeout(TIMEOUT_MS);
  const folder = temporaryFolder();
  let child: ChildProcess | undefined;
  afterEach(() => {
    child?.kill('SIGKILL');
  });

  /** Starts the command; resolves to its output when it serves or has ended. */
  async function serve(...args: string[]) {
    const output = { stdout: '', stderr: '', code: undefined as number | null | undefined };
    const started = spawn(process.execPath, [COMMAND, 'serve', ...args], {
      cwd: ROOT,
      env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1' },
    });
    child = started;
    started.stdout.on('data', (data) => {
      output.stdout += data;
    });
    started.stderr.on('data', (data) => {
      output.stderr += data;
    });
    started.on('exit', (code) => {
      output.code = code;
    });
    await until(() => output.stderr.includes('serving') || output.code !== undefined, 'start', TIMEOUT_MS);
    return output;
  }

  const connect = (path: string): VfioUserRequests => {
    const requests = new VfioUserRequests(VfioUserClient.connect(path));
    requests.negotiate();
    return requests;
  };

  it('prints arguments for QEMU, serves clients one after the other, and reports at a signal', async () => {
    const path = join(folder(), 'sockets', 's');
    const output = await serve('--type', 'edu', '--count', '2', '--socket', path, '--json');
    const lines = output.stdout.trim().split('\n');
    expect(lines).to.deep.equal(
      [`${path}.0`, `${path}.1`].map(
        (socket) => `-device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"${socket}"}}'`,
      ),
    );
    expect([
      statSync(`${path}.0`).mode & 0o777,
      statSync(join(folder(), 'sockets')).mode & 0o777,
    ]).to.deep.equal([0o600, 0o700]);
    for (let i = 0; i < 2; i++) {
      const client = connect(`${path}.0`);
      expect(client.read(0, 0, 4).readUInt32LE()).to.equal(0x0100_00ed);
      client.map(0, 4096);
      client.client.close();
    }
    output.stdout = '';
    connect(`${path}.1`).map(0, 4096);
    child!.kill('SIGTERM');
    await until(() => output.code !== undefined, 'end', TIMEOUT_MS);
    const report = JSON.parse(output.stdout);
    expect(output.code).to.equal(0);
    expect(report.passed).to.equal(true);
    expect(report.devices[0]).to.include({ clients: 2, maps: 2, unmaps: 2, liveMaps: 0, heldPins: 0 });
    expect(report.devices[1]).to.include({ clients: 1, maps: 1, liveMaps: 0 });
    expect(existsSync(`${path}.0`)).to.equal(false);
  });

  it('writes the pictures of displays at SIGUSR2', async () => {
    const pictures = join(folder(), 'pictures');
    const path = join(folder(), 's');
    const output = await serve('--type', 'mdpy', '--count', '2', '--socket', path, '--artifacts', pictures);
    expect(output.stderr).to.include(`serving as process ${child!.pid}`);
    for (const round of [1, 2]) {
      child!.kill('SIGUSR2');
      const files = ['mdpy0', 'mdpy1'].map((name) => join(pictures, `${name}-${round}.png`));
      await until(() => files.every((file) => existsSync(file)), `pictures ${round}`, TIMEOUT_MS);
      await until(() => output.stderr.includes(files[1]!), 'its line', TIMEOUT_MS);
      for (const file of files) expect(decodePng(readFileSync(file))).to.include({ width: 640, height: 480 });
    }
    child!.kill('SIGTERM');
    await until(() => output.code !== undefined, 'end', TIMEOUT_MS);
    expect(output.code).to.equal(0);
  });

  it('names a type, a path or a count that it cannot serve', async () => {
    const unknown = await serve('--type', 'tape', '--socket', join(folder(), 's'));
    expect(unknown.code).to.equal(104);
    expect(unknown.stderr).to.include('tape').and.include('accepted: vgpu');
    const long = await serve('--type', 'edu', '--socket', join(folder(), 'x'.repeat(120)));
    expect(long.code).to.equal(1);
    expect(long.stdout).to.include('accepted: up to 107');
    const many = await serve('--type', 'edu', '--count', '65', '--socket', join(folder(), 's'));
    expect(many.code).to.equal(104);
  });
});
