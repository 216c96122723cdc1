/**
 * `mdevsim serve` as a user starts it: arguments for QEMU, sockets, clients that come and go, the report.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import { encodeMessage } from '../../src/vfio-user/message.ts';
import { decodePng } from '../support/png.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { until } from '../support/until.ts';
import { quads, VfioUser, VfioUserClient, VfioUserRequests, words } from '../support/vfio-user-client.ts';
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

  it('serves a stream of bytes on stdin, up to what cannot be a message', () => {
    const version = Buffer.concat([words(0), Buffer.from('{"capabilities":{}}\0')]);
    const messages = [
      encodeMessage(1, VfioUser.VERSION, 0, version),
      encodeMessage(2, VfioUser.REGION_READ, 0, Buffer.concat([quads(0), words(0, 4)])),
      encodeMessage(3, VfioUser.REGION_READ, 0, Buffer.concat([quads(0), words(99, 4)])),
      Buffer.from('this is no message'),
    ];
    const args = [COMMAND, 'serve', '--type', 'edu', '--socket', '-'];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      cwd: ROOT,
      env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1' },
      input: Buffer.concat(messages),
      timeout: TIMEOUT_MS,
    });
    expect(status).to.equal(0);
    expect(stderr.toString()).to.include('3 commands, 1 error').and.include('accepted: 16 to');
    const replies = [];
    for (let at = 0; at < stdout.length; at += stdout.readUInt32LE(at + 4))
      replies.push({
        id: stdout.readUInt16LE(at),
        flags: stdout.readUInt32LE(at + 8),
        error: stdout.readUInt32LE(at + 12),
      });
    expect(replies.map(({ id, error }) => [id, error])).to.deep.equal([
      [1, 0],
      [2, 0],
      [3, constants.errno.EINVAL],
    ]);
    expect(stdout.readUInt32LE(stdout.length - 16 - 4)).to.equal(0x0100_00ed);
    const many = spawnSync(process.execPath, [...args, '--count', '2'], { cwd: ROOT, timeout: TIMEOUT_MS });
    expect([many.status, many.stderr.toString()]).to.deep.equal([
      104,
      'mdevsim: --count 2 with --socket -; accepted: 1\n',
    ]);
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
