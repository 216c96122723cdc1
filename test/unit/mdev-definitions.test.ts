import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import {
  DEFINITION_BYTES,
  DefinitionError,
  definitionsOf,
  readDefinitions,
  startDefinition,
} from '../../src/mdev/definitions.ts';
import { TREE_PARENTS } from '../../src/mdev/recorded-parents.ts';
import { MdevError, MdevRegistry } from '../../src/mdev/registry.ts';
import { SysfsTree } from '../../src/mdev/sysfs.ts';
import { RunMdevs, SPARE_INSTANCES } from '../../src/scenario/run-mdevs.ts';
import { ScenarioError } from '../../src/scenario/scenario.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const A = '11111111-aaaa-4bbb-8ccc-000000000001';
const B = '11111111-aaaa-4bbb-8ccc-000000000002';
const GPU = '0000:3b:00.0';

const file = (mdev_type: string, ...attrs: Record<string, string>[]) => ({ mdev_type, start: 'auto', attrs });
const dump = [{ [GPU]: [{ [B]: file('vgpu-2g') }, { [A]: file('vgpu-4g') }] }];

/** Returns the error that `action` throws, which must be of class `kind`. */
function errorOf<E extends Error>(kind: new (...args: never[]) => E, action: () => unknown): E {
  try {
    action();
  } catch (error) {
    if (error instanceof kind) return error;
    throw error;
  }
  throw new Error(`no ${kind.name}`);
}

describe('mdevctl definitions', () => {
  const inFolder = temporaryFolder();

  const write = (path: string, value: unknown): string => {
    const at = inFolder(path);
    mkdirSync(join(at, '..'), { recursive: true });
    writeFileSync(at, typeof value === 'string' ? value : JSON.stringify(value));
    return at;
  };
  const uuids = (path: string) => readDefinitions(path).map(({ parent, uuid }) => `${parent} ${uuid}`);

  it('are read from a dump, in its order, and from an object like /etc/mdevctl.d', () => {
    const wanted = { parent: GPU, uuid: B, type: 'vgpu-2g', attrs: [] };
    expect(definitionsOf(dump, 'here')[0]).to.deep.equal(wanted);
    expect(readDefinitions(write('dump.json', dump))).to.deep.equal(definitionsOf(dump, ''));
    expect(definitionsOf({ [GPU]: { [B.toUpperCase()]: { mdev_type: 'vgpu-2g' } } }, '')).to.deep.equal([
      wanted,
    ]);
    const attrs = [{ 'ctl/mode': 'fast' }, { level: '3', color: 'red' }];
    expect(definitionsOf({ p: { [A]: file('t', ...attrs) } }, '')[0]?.attrs).to.deep.equal([
      ['ctl/mode', 'fast'],
      ['level', '3'],
      ['color', 'red'],
    ]);
  });

  it('are read from a definition file, a parent’s directory and the whole directory', () => {
    const one = write(`mdevctl.d/${GPU}/${B}`, file('vgpu-1g'));
    write(`mdevctl.d/${GPU}/${A}`, file('vgpu-1g'));
    write(`mdevctl.d/mtty/${B}`, file('mtty-1'));
    write(`mdevctl.d/scripts.d/callouts/${A}`, 'not a definition');
    write(`mdevctl.d/mtty/.${B}.swp`, 'nor this');
    expect(uuids(one)).to.deep.equal([`${GPU} ${B}`]);
    expect(uuids(inFolder(`mdevctl.d/${GPU}`))).to.deep.equal([`${GPU} ${A}`, `${GPU} ${B}`]);
    expect(uuids(inFolder('mdevctl.d'))).to.deep.equal([`${GPU} ${A}`, `${GPU} ${B}`, `mtty ${B}`]);
  });

  it('are refused with path, error and accepted form when they cannot be read', () => {
    const refused = (value: unknown) => errorOf(DefinitionError, () => definitionsOf(value, 'here')).message;
    expect(refused([{ [GPU]: [{ [A]: { start: 'auto' } }] }])).to.match(
      /^here: 0\.0000:3b:00\.0\.0\..*mdev_type: /,
    );
    expect(refused({ [GPU]: { [A]: { mdev_type: 'x', start: 'later' } } })).to.contain('start');
    expect(refused('text')).to.contain('accepted: the output of `mdevctl list -d --dumpjson`');
    expect(refused({ [GPU]: { abc: file('x') } })).to.equal(`here: "abc" of ${GPU} is not a UUID`);
    expect(refused({ [GPU]: { [A]: file('x', { '../remove': '1' }) } })).to.contain('attribute ../remove');
    const readError = (path: string) => errorOf(DefinitionError, () => readDefinitions(path)).message;
    expect(readError(inFolder('none')))
      .to.contain('ENOENT')
      .and.to.contain(inFolder('none'));
    expect(readError(write('broken', '{'))).to.contain(`${inFolder('broken')}: not JSON`);
    expect(readError(write(`${GPU}/not-a-uuid`, file('x')))).to.contain('"not-a-uuid"');
    expect(readError(write('large', ' '.repeat(DEFINITION_BYTES + 1)))).to.contain(
      `up to ${DEFINITION_BYTES}`,
    );
    expect(readError(write('deep', '['.repeat(1000)))).to.contain('nested too deeply');
    expect(readError(write('many', `[${'1,'.repeat(300_000)}1]`))).to.contain('too many values');
    const keys = Array.from({ length: 200_000 }, (_, i) => `"${i}":1`).join();
    expect(readError(write('wrong', `[{${keys}}]`))).to.contain('accepted: the output of');
    execFileSync('mkfifo', [inFolder('fifo')]);
    expect(readError(inFolder('fifo'))).to.contain('not a regular file');
  });

  it('start an instance with its attributes, or fail with the kernel’s errno', () => {
    const registry = new MdevRegistry();
    for (const parent of TREE_PARENTS) registry.addParent(parent);
    const attempt = (parent: string, uuid: string, type: string, ...attrs: [string, string][]) =>
      errorOf(MdevError, () => startDefinition(registry, { parent, uuid, type, attrs })).message;
    startDefinition(registry, {
      parent: 'tdev0',
      uuid: A,
      type: 'tdev-a',
      attrs: [
        ['level', '4'],
        ['ctl/mode', 'x'],
      ],
    });
    const tree = new SysfsTree(registry);
    expect(tree.read(`/sys/bus/mdev/devices/${A}/level`)).to.equal('4\n');
    expect(tree.read(`/sys/bus/mdev/devices/${A}/ctl/mode`)).to.equal('x\n');
    expect(attempt('mtty', A, 'mtty-1')).to.equal(`EEXIST: mtty/${A}: instance ${A} exists already`);
    expect(attempt('none', B, 'x')).to.match(/^ENOENT: none\/.*: no parent none; accepted: mtty, mdpy, /);
    expect(attempt('mtty', B, 'x')).to.equal(
      `ENOENT: mtty/${B}: no type x of mtty; accepted: mtty-1, mtty-2`,
    );
    expect(attempt('tdev0', B, 'tdev-a', ['level', '10'])).to.match(
      /^ERANGE: .* attribute level: level 10; accepted: 0 to 9$/,
    );
    expect(attempt('tdev0', B, 'tdev-a', ['serial', '1'])).to.match(/^EACCES: .* attribute serial: /);
    expect(registry.get(B)).to.equal(undefined);
  });
});

describe('mediated devices of a run', () => {
  const settings = { vms: 2, vgpus: 2 };
  const refused = (mdevs: unknown, vms = 2) =>
    errorOf(ScenarioError, () => new RunMdevs({ vms, vgpus: 1, mdevs: mdevs as [] }, '/', 1)).message;
  const names = ({ vms }: RunMdevs) =>
    vms.map((devices) => devices.map(({ uuid, type }) => `${uuid} ${type}`));

  it('are instances of the run’s own parent, with UUIDs derived from the seed', () => {
    const [one, again, other] = [7, 7, 8].map((seed) => new RunMdevs(settings, '/', seed)) as [
      RunMdevs,
      RunMdevs,
      RunMdevs,
    ];
    expect(names(one)).to.deep.equal(names(again)).and.not.to.deep.equal(names(other));
    const all = one.vms.flat();
    expect(new Set(all.map(({ uuid }) => uuid)).size).to.equal(4);
    for (const { uuid, parent, type } of all) {
      expect(uuid).to.match(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      expect(`${parent} ${type}`).to.equal('vgpu vgpu-1');
    }
    for (let n = 0; n < SPARE_INSTANCES; n++)
      one.registry.create('vgpu', 'vgpu-1', `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`);
    const beyond = errorOf(MdevError, () => one.registry.create('vgpu', 'vgpu-1', A));
    expect(beyond.message).to.equal('EUSERS: vgpu has its 20 instances');
  });

  it('come from one source for all VMs, or from one source for each VM', () => {
    const dealt = new RunMdevs({ ...settings, mdevs: dump }, '/', 1);
    expect(names(dealt)).to.deep.equal([[`${B} vgpu-2g`], [`${A} vgpu-4g`]]);
    expect([dealt.vgpusMax, dealt.isUneven]).to.deep.equal([1, false]);
    expect(dealt.mdevsOf([1])).to.deep.equal({
      instances: [{ vm: 1, uuid: A, parent: GPU, type: 'vgpu-4g' }],
    });
    const C = A.replace('1', '2');
    const each = new RunMdevs({ ...settings, mdevs: [dump, { [GPU]: { [C]: file('vgpu-1g') } }] }, '/', 1);
    expect(names(each)).to.deep.equal([[`${B} vgpu-2g`, `${A} vgpu-4g`], [`${C} vgpu-1g`]]);
    expect([each.vgpusMax, each.isUneven]).to.deep.equal([2, true]);
    expect(refused([dump])).to.contain('1 source for 2 VMs');
    expect(refused(dump, 3)).to.contain('2 definitions do not divide evenly among 3 VMs');
    expect(refused([], 1)).to.contain('0 definitions for VM 0; accepted: 1 to 31');
  });

  it('are refused with the kernel’s errors', () => {
    expect(refused([dump, dump])).to.equal(
      `mdevs of VM 1: EEXIST: ${GPU}/${B}: instance ${B} exists already`,
    );
    const large = { [GPU]: { [A]: file('vgpu-16g') } };
    expect(refused([large, { [GPU]: { [B]: file('vgpu-1g') } }])).to.equal(
      `mdevs of VM 1: ENOSPC: ${GPU}/${B}: vgpu-1g needs 1024 of ${GPU}'s 16384, 16384 are taken`,
    );
    expect(refused([large, { [GPU]: { [B]: file('nvidia-35') } }])).to.match(
      /ENOENT: .* no type nvidia-35 of .*vgpu-1g/,
    );
    expect(refused({ '0000:5e:00.0': { [A]: file('1001') } }, 1)).to.match(/ENOENT: .* virtual functions/);
    expect(refused('none.json')).to.contain('ENOENT').and.to.contain('/none.json');
  });

  it('are removed after their VM closes them, with one request to the VM', () => {
    const run = new RunMdevs({ vms: 1, vgpus: 2 }, '/', 1);
    const asked: string[] = [];
    run.openAll([...run.vms.keys()], ({ vm, device }, uuid) => asked.push(`${vm} ${device} ${uuid}`));
    const [first, second] = run.vms.flat().map(({ uuid }) => uuid) as [string, string];
    const tree = new SysfsTree(run.registry);
    expect(tree.read(`/sys/bus/mdev/devices/${second}/mdevsim/vm_name`)).to.equal('vm0/gpu1\n');
    expect(tree.write(`/sys/bus/mdev/devices/${second}/remove`, '1')).to.be.instanceOf(Promise);
    expect(asked).to.deep.equal([`0 1 ${second}`]);
    expect(errorOf(MdevError, () => run.registry.remove(second)).errno).to.equal('ENOENT');
    expect(run.registry.get(second)?.openCount).to.equal(1);
    run.close({ vm: 0, device: 1 });
    run.close({ vm: 0, device: 1 });
    expect(run.registry.get(second)).to.equal(undefined);
    expect(tree.write('/sys/bus/mdev/drivers/vgpu/unbind', first)).to.be.instanceOf(Promise);
    expect(asked[1]).to.equal(`0 0 ${first}`);
    run.closeVm(0);
    expect(run.registry.get(first)?.openCount).to.equal(0);
    expect(run.registry.remove(first)).to.equal(undefined);
    expect(asked).to.have.length(2);
  });
});
