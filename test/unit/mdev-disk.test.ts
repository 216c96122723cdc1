import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { beforeEach, describe, it } from 'mocha';
import { defaultHost } from '../../src/coordinator/default-host.ts';
import { diskReader, listText, typesJson } from '../../src/mdev/mdevctl-json.ts';
import { TREE_PARENTS } from '../../src/mdev/recorded-parents.ts';
import { MdevRegistry } from '../../src/mdev/registry.ts';
import { SysfsTree } from '../../src/mdev/sysfs.ts';
import { SysfsDisk, SysfsDiskError } from '../../src/mdev/sysfs-disk.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const UUID = '12345678-1234-4234-8234-123456789abc';
const isRoot = process.geteuid?.() === 0;

describe('sysfs tree on disk', () => {
  const at = temporaryFolder();
  let registry: MdevRegistry;
  let tree: SysfsTree;
  let disk: SysfsDisk;

  beforeEach(() => {
    registry = new MdevRegistry();
    for (const parent of TREE_PARENTS) registry.addParent(parent);
    tree = new SysfsTree(registry);
    disk = new SysfsDisk(at(), tree);
  });

  const mtty1 = '/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1';
  const errors = () => disk.poll().map(({ error }) => error?.errno);

  /**
   * Yields every path below `path` on disk. Links are not followed; readdir's recursive option follows them in
   * circles.
   */
  function* below(path: string): Generator<string> {
    for (const entry of readdirSync(at(path), { withFileTypes: true })) {
      const child = `${path}/${entry.name}`;
      yield child;
      if (entry.isDirectory()) yield* below(child);
    }
  }

  /** Returns the tree on disk in the format of `inTree`. */
  const onDisk = (): string[] =>
    [...below('/sys')]
      .map((path) => {
        const stat = lstatSync(at(path));
        if (stat.isSymbolicLink()) return `${path} ${readlinkSync(at(path))}`;
        const mode = (stat.mode & 0o777).toString(8);
        return `${path} ${mode}${stat.isFile() ? ` ${readFileSync(at(path), 'utf8')}` : ''}`;
      })
      .sort();

  const inTree = (): string[] =>
    [...tree.entries()]
      .filter(({ path }) => path !== '/sys')
      .map((entry) => {
        const mode = (entry.type === 'file' && !isRoot ? entry.mode | 0o600 : entry.mode).toString(8);
        const what =
          entry.type === 'link'
            ? entry.target
            : entry.type === 'file'
              ? `${mode} ${entry.content ?? ''}`
              : mode;
        return `${entry.path} ${what}`;
      })
      .sort();

  it('has every path with its mode, content and target, and no broken links', () => {
    expect(onDisk()).to.deep.equal(inTree());
    expect(realpathSync(at('/sys/class/mdev_bus/mtty'))).to.equal(
      realpathSync(at('/sys/devices/virtual/mtty/mtty')),
    );
  });

  it('creates and removes instances by writes to create and remove', () => {
    writeFileSync(at(`${mtty1}/create`), `${UUID}\n`);
    expect(errors()).to.deep.equal([undefined]);
    expect(registry.get(UUID)?.type).to.equal('mtty-1');
    expect(readFileSync(at(`${mtty1}/available_instances`), 'utf8')).to.equal('23\n');
    expect(onDisk()).to.deep.equal(inTree());
    expect(listText(diskReader(at()))).to.equal(`${UUID} mtty mtty-1 manual\n`);
    expect(typesJson(diskReader(at()))).to.deep.equal(typesJson(tree));
    expect(errors()).to.deep.equal([]);
    writeFileSync(at(`/sys/bus/mdev/devices/${UUID}/remove`), '1');
    expect(errors()).to.deep.equal([undefined]);
    expect([...registry.instances()]).to.deep.equal([]);
    expect(onDisk()).to.deep.equal(inTree());
  });

  it('reports refused writes, and clears their files', () => {
    const writes: readonly (readonly [text: string, errno: string])[] = [
      ['nonsense', 'EINVAL'],
      [`${UUID}\n`, 'EEXIST'],
      ['x'.repeat(100_000), 'EINVAL'],
    ];
    registry.create('orc', 'orc-std', UUID);
    disk.sync();
    for (const [text, errno] of writes) {
      writeFileSync(at(`${mtty1}/create`), text);
      expect(errors()).to.deep.equal([errno]);
      expect(readFileSync(at(`${mtty1}/create`), 'utf8')).to.equal('');
    }
  });

  it('accepts attribute values, also of the same length, and restores the old value after a refused one', () => {
    registry.create('tdev0', 'tdev-a', UUID);
    disk.sync();
    const color = at(`/sys/bus/mdev/devices/${UUID}/color`);
    const level = at(`/sys/bus/mdev/devices/${UUID}/level`);
    for (const text of ['blue\n', 'cyan\n', 'grey\n']) {
      writeFileSync(color, text);
      expect(errors()).to.deep.equal([undefined]);
      expect(tree.read(`/sys/bus/mdev/devices/${UUID}/color`)).to.equal(text);
    }
    writeFileSync(level, '10');
    expect(errors()).to.deep.equal(['ERANGE']);
    expect(readFileSync(level, 'utf8')).to.equal('0\n');
  });

  for (const pauseMs of [0, 100])
    it(`restores a file that stays empty, when polled every ${pauseMs} ms`, async () => {
      const autoprobe = at('/sys/bus/mdev/drivers_autoprobe');
      writeFileSync(autoprobe, '');
      await sleep(pauseMs);
      expect(errors()).to.deep.equal([]);
      expect(readFileSync(autoprobe, 'utf8')).to.equal('');
      await sleep(pauseMs);
      expect(errors()).to.deep.equal([]);
      expect(readFileSync(autoprobe, 'utf8')).to.equal('1\n');
    });

  it('shows the end of a blocked removal', async () => {
    const instance = registry.create('mtty', 'mtty-1', UUID);
    disk.sync();
    instance.open();
    writeFileSync(at(`/sys/bus/mdev/devices/${UUID}/remove`), '1');
    expect(disk.poll().map(({ blocks }) => blocks)).to.deep.equal([true]);
    expect(readdirSync(at(`/sys/devices/virtual/mtty/mtty/${UUID}`))).to.deep.equal(['iommu_group']);
    instance.close();
    await Promise.resolve();
    disk.poll();
    expect(onDisk()).to.deep.equal(inTree());
  });

  it('restores files that a user deletes', () => {
    rmSync(at('/sys/bus'), { recursive: true });
    expect(errors()).to.deep.equal([]);
    writeFileSync(at(`/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1/create`), UUID);
    expect(errors()).to.deep.equal([undefined]);
    expect(onDisk()).to.deep.equal(inTree());
  });

  it('replaces its own tree, and refuses another folder', () => {
    disk.close();
    disk = new SysfsDisk(at(), tree);
    expect(disk.entryCount).to.equal([...tree.entries()].length);
    const other = at('other');
    mkdirSync(join(other, 'sys'), { recursive: true });
    writeFileSync(join(other, 'sys', 'precious'), '');
    expect(() => new SysfsDisk(other, tree)).to.throw(SysfsDiskError, 'not written by mdevsim');
    expect(readdirSync(join(other, 'sys'))).to.deep.equal(['precious']);
    expect(() => new SysfsDisk('/', tree)).to.throw(SysfsDiskError);
  });

  it('sets the type of a virtual function', () => {
    const vfDir = at('vf');
    const host = defaultHost();
    const vfDisk = new SysfsDisk(vfDir, new SysfsTree(host));
    const current = join(vfDir, '/sys/bus/pci/devices/0000:5e:00.4/nvidia/current_vgpu_type');
    writeFileSync(current, '1003\n');
    expect(vfDisk.poll().map(({ error }) => error)).to.deep.equal([undefined]);
    expect(readFileSync(current, 'utf8')).to.equal('1003\n');
    expect([...host.instances()].map(({ type }) => type)).to.deep.equal(['1003']);
  });
});
