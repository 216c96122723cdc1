import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { after, before, describe, it } from 'mocha';
import { defaultHost, MDEV_GPU } from '../../src/coordinator/default-host.ts';
import { definitionsOf, readDefinitions } from '../../src/mdev/definitions.ts';
import { listJson, typesJson, typesText } from '../../src/mdev/mdevctl-json.ts';
import { SysfsTree } from '../../src/mdev/sysfs.ts';
import { SysfsDisk } from '../../src/mdev/sysfs-disk.ts';
import { until } from '../support/until.ts';
import { findMdevctl, type Mdevctl } from './find-mdevctl.ts';

const UUID = '11111111-aaaa-4bbb-8ccc-000000000001';
/** Time limit for a poll of the tree. */
const FOLLOW_MS = 60_000;
const DEFINED = '22222222-aaaa-4bbb-8ccc-000000000002';

/** Tree of the default host in a temporary directory, polled for writes. */
class PolledTree {
  readonly dir = mkdtempSync(join(tmpdir(), 'mdevsim-mdevctl-'));
  readonly registry = defaultHost();
  readonly tree = new SysfsTree(this.registry);
  readonly #disk = new SysfsDisk(this.dir, this.tree);
  #running = true;
  #loop: Promise<void> | undefined;

  start(): void {
    this.#loop = this.#poll();
  }

  async remove(): Promise<void> {
    this.#running = false;
    await this.#loop;
    rmSync(this.dir, { recursive: true, force: true });
  }

  async #poll(): Promise<void> {
    while (this.#running) {
      this.#disk.poll();
      await sleep(10);
    }
  }
}

describe('mdevctl on a tree of mdevsim', () => {
  const polled = new PolledTree();
  const { dir, registry, tree } = polled;
  let mdevctl: Mdevctl;

  before(async function () {
    polled.start();
    const found = await findMdevctl(dir);
    if (typeof found === 'string') {
      console.log(`    skipped: ${found}`);
      this.skip();
    } else {
      mdevctl = found;
      const { stdout } = await mdevctl('--version');
      console.log(`    with ${stdout.trim()}`);
    }
  });
  after(() => polled.remove());

  async function runMdevctl(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await mdevctl(...args);
    expect(code, stderr).to.equal(0);
    return stdout;
  }

  /** Waits until the registry has followed a write of mdevctl. A poll updates the tree on disk at once. */
  const untilType = (uuid: string, type: string | undefined): Promise<void> =>
    until(() => registry.get(uuid)?.type === type, `${uuid} as ${type ?? 'absent'}`, FOLLOW_MS);

  it('lists the types as mdevsim does, in text and JSON', async () => {
    // mdevctl 1.2.0 adds an empty line.
    expect((await runMdevctl('types')).trimEnd()).to.equal(typesText(tree).trimEnd());
    expect(JSON.parse(await runMdevctl('types', '--dumpjson'))).to.deep.equal(typesJson(tree));
  });

  it('starts, lists and stops an instance', async () => {
    await runMdevctl('start', '-u', UUID, '-p', MDEV_GPU.name, '-t', 'vgpu-4g');
    await untilType(UUID, 'vgpu-4g');
    expect(JSON.parse(await runMdevctl('list', '--dumpjson'))).to.deep.equal(listJson(tree));
    expect(JSON.parse(await runMdevctl('types', '--dumpjson'))).to.deep.equal(typesJson(tree));
    await runMdevctl('stop', '-u', UUID);
    await untilType(UUID, undefined);
    expect([...registry.instances()]).to.deep.equal([]);
    expect((await runMdevctl('list')).trim()).to.equal('');
  });

  it('defines an instance and starts it by its definition; starting one too many is refused', async () => {
    await runMdevctl('define', '-u', DEFINED, '-p', MDEV_GPU.name, '-t', 'vgpu-2g');
    await runMdevctl('start', '-u', DEFINED);
    await untilType(DEFINED, 'vgpu-2g');
    const { code, stderr } = await mdevctl('start', '-u', UUID, '-p', MDEV_GPU.name, '-t', 'vgpu-16g');
    expect(code).to.not.equal(0);
    expect(stderr).to.contain('No available instances of vgpu-16g');
  });

  it('defines instances that a scenario can load from the dump, the file or the directory', async () => {
    const uuid = DEFINED.replace('2', '3');
    await runMdevctl('define', '-u', uuid, '-p', MDEV_GPU.name, '-t', 'vgpu-1g', '-a');
    await runMdevctl('modify', '-u', uuid, '--addattr', 'mdevsim/mode', '--value', 'fast');
    const wanted = { parent: MDEV_GPU.name, uuid, type: 'vgpu-1g', attrs: [['mdevsim/mode', 'fast']] };
    const dumped = definitionsOf(JSON.parse(await runMdevctl('list', '-d', '--dumpjson')), 'mdevctl');
    expect(dumped).to.deep.include(wanted);
    const files = join(dir, 'etc/mdevctl.d');
    expect(readDefinitions(files)).to.have.deep.members(dumped);
    expect(readDefinitions(join(files, MDEV_GPU.name, uuid))).to.deep.equal([wanted]);
  });
});
