import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { afterEach, beforeEach, describe, it } from 'mocha';
import { diskReader, listText, typesJson } from '../../src/mdev/mdevctl-json.ts';
import { TREE_PARENTS } from '../../src/mdev/recorded-parents.ts';
import { MdevRegistry } from '../../src/mdev/registry.ts';
import { SysfsTree } from '../../src/mdev/sysfs.ts';
import { SysfsDisk, SysfsDiskError } from '../../src/mdev/sysfs-disk.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const UUID = '12345678-1234-4234-8234-123456789abc';
const TYPES = '/sys/devices/virtual/mtty/mtty/mdev_supported_types';
const CREATE = `${TYPES}/mtty-1/create`;
const AVAILABLE = `${TYPES}/mtty-1/available_instances`;

describe('a sysfs tree on disk whose files a user replaces', () => {
  const at = temporaryFolder();
  const tree = (path = '') => at(`tree${path}`);
  let registry: MdevRegistry;
  let disk: SysfsDisk;
  const open = () => new SysfsDisk(tree(), new SysfsTree(registry));

  beforeEach(() => {
    registry = new MdevRegistry();
    for (const parent of TREE_PARENTS) registry.addParent(parent);
    mkdirSync(at('outside'));
    writeFileSync(at('outside/file'), UUID);
    chmodSync(at('outside/file'), 0o640);
    disk = open();
  });
  afterEach(() => disk.close());

  /** Returns everything outside of the tree: names, types, modes, times and contents. */
  const outside = (folder = at('outside')): string[] =>
    readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
      const path = join(folder, entry.name);
      const { mode, size, mtimeNs } = lstatSync(path, { bigint: true });
      const line = `${path} ${mode} ${size} ${mtimeNs} ${entry.isFile() ? readFileSync(path, 'utf8') : ''}`;
      return entry.isDirectory() ? [line, ...outside(path)] : [line];
    });

  /** Polls as often as a change may need, also of the tree itself. */
  function pollAll(): void {
    for (let poll = 0; poll < 3; poll++) disk.poll();
    registry.create('orc', 'orc-std', UUID.replace('1', '2'));
    disk.sync();
    disk.poll();
  }

  const replacements: Readonly<Record<string, (path: string) => void>> = {
    'a link to a file': (path) => symlinkSync(at('outside/file'), path),
    'a link to nothing': (path) => symlinkSync(at('outside/none'), path),
    'a link to a folder': (path) => symlinkSync(at('outside'), path),
    'a second name of a file': (path) => linkSync(at('outside/file'), path),
    'a FIFO': (path) => execFileSync('mkfifo', [path]),
    'a folder': (path) => mkdirSync(join(path, 'below'), { recursive: true }),
  };
  for (const [what, replace] of Object.entries(replacements))
    for (const file of [CREATE, AVAILABLE, '/sys/bus/mdev/drivers_autoprobe'])
      it(`${what} in place of ${file.slice(file.lastIndexOf('/') + 1)}: nothing outside is used`, () => {
        rmSync(tree(file));
        replace(tree(file));
        const before = outside();
        pollAll();
        registry.create('mtty', 'mtty-1', UUID.replace('1', '3'));
        disk.sync();
        expect(outside()).to.deep.equal(before);
        expect(registry.get(UUID)).to.equal(undefined);
        expect(lstatSync(tree(file)).isFile()).to.equal(true);
        writeFileSync(tree(CREATE), UUID);
        expect(disk.poll().map(({ error }) => error)).to.deep.equal([undefined]);
        expect(registry.get(UUID)?.type).to.equal('mtty-1');
      });

  for (const folder of ['/sys', '/sys/devices/virtual', `${TYPES}/mtty-1`])
    it(`a link in place of the folder ${folder}: nothing outside is used`, () => {
      cpSync(tree(folder), at('outside/copy'), { recursive: true, verbatimSymlinks: true });
      rmSync(tree(folder), { recursive: true });
      symlinkSync(at('outside/copy'), tree(folder));
      const create = join(at('outside/copy'), CREATE.slice(folder.length));
      writeFileSync(create, UUID);
      const before = outside();
      pollAll();
      expect(outside()).to.deep.equal(before);
      expect(registry.get(UUID)).to.equal(undefined);
      expect(lstatSync(tree(folder)).isDirectory()).to.equal(true);
    });

  it('a folder that is moved out of the tree is left alone', () => {
    renameSync(tree('/sys/devices'), at('outside/moved'));
    const before = outside();
    pollAll();
    expect(outside()).to.deep.equal(before);
    expect(lstatSync(tree(CREATE)).isFile()).to.equal(true);
  });

  for (const name of ['.mdevsim-sysfs', '.mdevsim-sysfs-lock', '.mdevsim-sysfs-new'])
    it(`a link in place of ${name}: nothing outside is used`, () => {
      disk.close();
      rmSync(tree(`/${name}`), { force: true });
      symlinkSync(at('outside/file'), tree(`/${name}`));
      const before = outside();
      disk = open();
      pollAll();
      expect(outside()).to.deep.equal(before);
    });

  for (const [what, replace] of Object.entries(replacements))
    it(`${what} in place of mdevctl's folder is refused`, () => {
      if (what === 'a folder') return;
      disk.close();
      rmSync(tree('/etc'), { recursive: true });
      replace(tree('/etc'));
      const before = outside();
      expect(open).to.throw(SysfsDiskError, /tree\/etc is not a directory; accepted: a directory/);
      expect(outside()).to.deep.equal(before);
      rmSync(tree('/etc'));
      disk = open();
    });

  it('a folder in use by another run is refused until that run ends', () => {
    expect(open).to.throw(SysfsDiskError, `in use by another run of mdevsim (process ${process.pid})`);
    expect(lstatSync(tree(CREATE)).isFile()).to.equal(true);
    disk.close();
    disk = open();
    expect(open).to.throw(SysfsDiskError);
  });

  it('the lock of a process that has died is free', () => {
    disk.close();
    for (const left of [`${process.pid} 1\n`, '999999999 5\n', 'text', '']) {
      writeFileSync(tree('/.mdevsim-sysfs-lock'), left);
      disk = open();
      disk.close();
    }
    execFileSync('mkfifo', [tree('/.mdevsim-sysfs-lock')]);
    disk = open();
  });

  it('is read without leaving it and without waiting', () => {
    const reader = diskReader(tree());
    registry.create('mtty', 'mtty-1', UUID);
    disk.sync();
    expect(listText(reader)).to.equal(`${UUID} mtty mtty-1 manual\n`);
    rmSync(tree(`${TYPES}/mtty-1/name`));
    execFileSync('mkfifo', [tree(`${TYPES}/mtty-1/name`)]);
    expect(() => typesJson(reader)).to.throw('name: not a regular file');
    rmSync(tree(`${TYPES}/mtty-1/name`));
    symlinkSync(at('outside/file'), tree(`${TYPES}/mtty-1/name`));
    expect(() => typesJson(reader)).to.throw('leads out of');
    rmSync(tree(TYPES), { recursive: true });
    symlinkSync(at('outside'), tree(TYPES));
    expect(() => typesJson(reader)).to.throw('leads out of');
  });
});
