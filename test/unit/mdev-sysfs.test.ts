import { expect } from 'chai';
import { describe, it } from 'mocha';
import { defaultHost, MDEV_GPU, SRIOV_GPU } from '../../src/coordinator/default-host.ts';
import { GPU_VRAM_MIB } from '../../src/gpu/types.ts';
import { ATTRIBUTE_BYTES } from '../../src/mdev/instance.ts';
import { listJson, listText, typesJson, typesText } from '../../src/mdev/mdevctl-json.ts';
import { TREE_PARENTS } from '../../src/mdev/recorded-parents.ts';
import { MdevError, MdevRegistry } from '../../src/mdev/registry.ts';
import { SysfsTree, WRITE_BYTES } from '../../src/mdev/sysfs.ts';
import { fixedDir, LINKS_LIMIT, link, readOnly, relativeTarget, walk } from '../../src/mdev/sysfs-node.ts';

const UUID = '12345678-1234-4234-8234-123456789abc';
const UUID_2 = '12345678-1234-4234-8234-123456789abd';

/** Returns stage and errno of a refused `action`, or undefined. */
function refusal(action: () => unknown): string | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    if (error instanceof MdevError) return `${error.stage}:${error.errno}`;
    throw error;
  }
}

function recordedHost(): { registry: MdevRegistry; tree: SysfsTree } {
  const registry = new MdevRegistry();
  for (const parent of TREE_PARENTS) registry.addParent(parent);
  return { registry, tree: new SysfsTree(registry) };
}

describe('mdev sysfs paths', () => {
  const { registry, tree } = recordedHost();
  registry.create('tdev0', 'tdev-a', UUID);
  const mtty1 = '/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1';

  const refusals: readonly (readonly [
    what: string,
    path: string,
    read: string | undefined,
    write: string,
  ])[] = [
    ['a directory', `${mtty1}/devices`, 'open:EISDIR', 'open:EISDIR'],
    ['a new name in a directory', `${mtty1}/nosuch`, 'open:ENOENT', 'open:EACCES'],
    ['a name in a missing directory', '/sys/nosuch/x', 'open:ENOENT', 'open:ENOENT'],
    ['a file used as a directory', `${mtty1}/name/x`, 'open:ENOTDIR', 'open:ENOTDIR'],
    ['a relative path', 'sys/bus', 'open:ENOENT', 'open:ENOENT'],
    ['a broken link', '/sys/module/mdev/holders/nosuch', 'open:ENOENT', 'open:EACCES'],
    ['a file that only root may read', `${mtty1}/name`, undefined, 'open:EACCES'],
    [
      'autosuspend',
      '/sys/devices/virtual/mtty/mtty/power/autosuspend_delay_ms',
      'transfer:EIO',
      'transfer:EIO',
    ],
    ['the root', '/', 'open:EISDIR', 'open:EISDIR'],
  ];
  for (const [what, path, read, write] of refusals)
    it(`refuses ${what}`, () => {
      expect(refusal(() => tree.read(path))).to.equal(read);
      expect(refusal(() => tree.write(path, 'x'))).to.equal(write);
    });

  it('follows links and .. as the kernel does, from the target of the link', () => {
    const type = `/sys/bus/mdev/devices/${UUID}/mdev_type`;
    expect(tree.read(`${type}/../../uevent`)).to.equal('');
    expect(tree.read(`/sys/bus/mdev/devices/${UUID}/../uevent`)).to.equal('');
    expect(tree.list('/sys/../../sys/./bus')).to.deep.equal(['mdev']);
    expect(refusal(() => tree.list(`${mtty1}/name`))).to.equal('open:ENOTDIR');
  });

  it(`follows ${LINKS_LIMIT} links, and refuses more with ELOOP`, () => {
    const chain = (length: number) =>
      fixedDir({
        ...Object.fromEntries(
          Array.from({ length }, (_, n) => [`l${n}`, link(n === 0 ? '/end' : `/l${n - 1}`)]),
        ),
        end: readOnly(() => 'end'),
      });
    expect(walk(chain(LINKS_LIMIT), `/l${LINKS_LIMIT - 1}`).kind).to.equal('file');
    expect(refusal(() => walk(chain(LINKS_LIMIT + 1), `/l${LINKS_LIMIT}`))).to.equal('open:ELOOP');
  });

  it('finds no name that is an inherited property of an object', () => {
    expect(refusal(() => tree.list('/sys/constructor'))).to.equal('open:ENOENT');
    expect(refusal(() => tree.read('/sys/bus/mdev/__proto__'))).to.equal('open:ENOENT');
  });

  it('writes targets relative to the directory of the link', () => {
    expect(relativeTarget('/sys/a/b', '/sys/c')).to.equal('../c');
    expect(relativeTarget('/sys/a/b', '/sys/a/c')).to.equal('c');
    expect(relativeTarget('/sys/a/b/l', '/sys/a')).to.equal('../../a');
  });
});

describe('mdev sysfs writes', () => {
  it(`pass on ${WRITE_BYTES} bytes, and fail for an attribute of ${ATTRIBUTE_BYTES} bytes`, () => {
    const { registry, tree } = recordedHost();
    registry.create('tdev0', 'tdev-a', UUID);
    const color = `/sys/bus/mdev/devices/${UUID}/color`;
    tree.write(color, 'x'.repeat(ATTRIBUTE_BYTES - 1));
    expect(tree.read(color).length).to.equal(ATTRIBUTE_BYTES);
    expect(refusal(() => tree.write(color, 'y'.repeat(ATTRIBUTE_BYTES)))).to.equal('transfer:EINVAL');
    expect(refusal(() => tree.write(color, 'y'.repeat(1_000_000)))).to.equal('transfer:EINVAL');
    expect(tree.read(color)[0]).to.equal('x');
  });

  it('return the kernel’s results for files of the bus', () => {
    const { registry, tree } = recordedHost();
    registry.create('tdev0', 'tdev-a', UUID);
    const outcomes: readonly (readonly [path: string, text: string, refused: string | undefined])[] = [
      ['/sys/bus/mdev/drivers_probe', UUID, undefined],
      ['/sys/bus/mdev/drivers_probe', UUID_2, 'transfer:EINVAL'],
      ['/sys/bus/mdev/drivers/tdev/bind', UUID, 'transfer:ENODEV'],
      ['/sys/bus/mdev/drivers/mtty/unbind', UUID, 'transfer:ENODEV'],
      ['/sys/bus/mdev/uevent', 'change\n', undefined],
      ['/sys/bus/mdev/uevent', 'explode', 'transfer:EINVAL'],
      ['/sys/kernel/iommu_groups/0/type', 'DMA', 'transfer:EINVAL'],
      [`/sys/bus/mdev/devices/${UUID}/power/control`, 'on', undefined],
      [`/sys/bus/mdev/devices/${UUID}/power/control`, 'off', 'transfer:EINVAL'],
      ['/sys/bus/mdev/drivers_autoprobe', '0', undefined],
    ];
    for (const [path, text, refused] of outcomes)
      expect(
        refusal(() => tree.write(path, text)),
        `${text} to ${path}`,
      ).to.equal(refused);
    expect(tree.read('/sys/bus/mdev/drivers_autoprobe')).to.equal('0\n');
  });

  it('wait to remove an open device, and keep its group until the last close', async () => {
    const { registry, tree } = recordedHost();
    const instance = registry.create('tdev0', 'tdev-a', UUID);
    instance.open();
    const removed = tree.write(`/sys/bus/mdev/devices/${UUID}/remove`, '1');
    expect(removed).to.be.instanceOf(Promise);
    expect(tree.list('/sys/bus/mdev/devices')).to.deep.equal([]);
    expect(tree.list('/sys/bus/mdev/drivers/tdev')).to.not.include(UUID);
    expect(tree.list(`/sys/devices/virtual/tdev/tdev0/${UUID}`)).to.deep.equal(['iommu_group']);
    expect(tree.list('/sys/kernel/iommu_groups/0/devices')).to.deep.equal([UUID]);
    instance.close();
    await removed;
    expect(tree.list('/sys/devices/virtual/tdev/tdev0')).to.not.include(UUID);
    expect(tree.list('/sys/kernel/iommu_groups')).to.deep.equal([]);
  });
});

describe('default host', () => {
  const types = `/sys/class/mdev_bus/${MDEV_GPU.name}/mdev_supported_types`;
  const available = (tree: SysfsTree) =>
    Object.fromEntries(
      tree.list(types).map((id) => [id, Number(tree.read(`${types}/${id}/available_instances`))]),
    );

  it("offers the free part of the GPU's memory", () => {
    const tree = new SysfsTree(defaultHost());
    expect(available(tree)).to.deep.equal({
      'vgpu-16g': 1,
      'vgpu-1g': 16,
      'vgpu-2g': 8,
      'vgpu-4g': 4,
      'vgpu-8g': 2,
    });
    tree.write(`${types}/vgpu-4g/create`, `${UUID}\n`);
    expect(available(tree)).to.deep.equal({
      'vgpu-16g': 0,
      'vgpu-1g': 12,
      'vgpu-2g': 6,
      'vgpu-4g': 3,
      'vgpu-8g': 1,
    });
    expect(refusal(() => tree.write(`${types}/vgpu-16g/create`, UUID_2))).to.equal('transfer:ENOSPC');
    tree.write(`/sys/bus/mdev/devices/${UUID}/remove`, '1');
    tree.write(`${types}/vgpu-16g/create`, UUID_2);
    expect(GPU_VRAM_MIB).to.equal(16384);
  });

  it("lists only mdev parents in mdevctl's JSON and text", () => {
    const registry = defaultHost();
    const tree = new SysfsTree(registry);
    expect(listJson(tree)).to.deep.equal([]);
    registry.create(MDEV_GPU.name, 'vgpu-8g', UUID_2);
    registry.create(MDEV_GPU.name, 'vgpu-4g', UUID);
    expect(listJson(tree)).to.deep.equal([
      {
        [MDEV_GPU.name]: [
          { [UUID]: { mdev_type: 'vgpu-4g', start: 'manual', attrs: [] } },
          { [UUID_2]: { mdev_type: 'vgpu-8g', start: 'manual', attrs: [] } },
        ],
      },
    ]);
    expect(listText(tree)).to.equal(
      `${UUID} ${MDEV_GPU.name} vgpu-4g manual\n${UUID_2} ${MDEV_GPU.name} vgpu-8g manual\n`,
    );
    const json = typesJson(tree);
    expect(json.length).to.equal(1);
    expect(json[0]?.[MDEV_GPU.name]?.[2]).to.deep.equal({
      'vgpu-2g': {
        available_instances: 2,
        device_api: 'vfio-pci',
        name: 'mdevsim vGPU 2G',
        description: 'framebuffer=2048M, max_instance=8',
      },
    });
    expect(typesText(tree).split('\n').slice(0, 3)).to.deep.equal([
      MDEV_GPU.name,
      '  vgpu-16g',
      '    Available instances: 0',
    ]);
  });

  it('omits an empty name and description in the JSON', () => {
    const { tree } = recordedHost();
    const types = typesJson(tree).find((parent) => 'tdev0' in parent)?.tdev0;
    expect(types?.map((type) => Object.keys(Object.values(type)[0] ?? {}).length)).to.deep.equal([4, 3, 3]);
    expect(types?.[0]?.['tdev-a']?.description).to.equal(
      'num_heads=4, frl_config=60, max_resolution=4096x2160',
    );
  });
});

describe('virtual functions', () => {
  const pf = `/sys/bus/pci/devices/${SRIOV_GPU.name}`;
  const nvidia = (index: number, file: string) => `${pf}/virtfn${index}/nvidia/${file}`;

  it('gain and lose types, which share the memory of their GPU', () => {
    const registry = defaultHost();
    const tree = new SysfsTree(registry);
    const creatable = (index: number) => tree.read(nvidia(index, 'creatable_vgpu_types'));
    expect(creatable(0).split('\n')[0]).to.equal('1001 : mdevsim vGPU 1G');
    expect(creatable(0).trim().split('\n').length).to.equal(5);
    expect(tree.read(nvidia(0, 'current_vgpu_type'))).to.equal('0\n');
    tree.write(nvidia(0, 'current_vgpu_type'), '1004\n');
    expect(tree.read(nvidia(0, 'current_vgpu_type'))).to.equal('1004\n');
    expect(creatable(0)).to.equal('');
    expect(creatable(1).trim().split('\n').at(-1)).to.equal('1004 : mdevsim vGPU 8G');
    expect(refusal(() => tree.write(nvidia(1, 'current_vgpu_type'), '1005'))).to.equal('transfer:ENOSPC');
    expect(refusal(() => tree.write(nvidia(0, 'current_vgpu_type'), '1001'))).to.equal('transfer:EBUSY');
    expect(refusal(() => tree.write(nvidia(1, 'current_vgpu_type'), '7'))).to.equal('transfer:EINVAL');
    expect(refusal(() => tree.write(nvidia(1, 'current_vgpu_type'), 'x'))).to.equal('transfer:EINVAL');
    tree.write(nvidia(1, 'current_vgpu_type'), '0');
    tree.write(nvidia(0, 'current_vgpu_type'), '0');
    tree.write(nvidia(1, 'current_vgpu_type'), '1005');
  });

  it('are instances of the same registry, hidden from mdev', () => {
    const registry = defaultHost();
    const tree = new SysfsTree(registry);
    tree.write(nvidia(3, 'current_vgpu_type'), '1002');
    const [instance] = [...registry.instances()];
    expect(instance?.type).to.equal('1002');
    expect(tree.list('/sys/class/mdev_bus')).to.deep.equal([MDEV_GPU.name]);
    expect(tree.list('/sys/bus/mdev/devices')).to.deep.equal([]);
    expect(tree.list('/sys/kernel/iommu_groups')).to.have.lengthOf(6);
    instance?.open();
    expect(refusal(() => tree.write(nvidia(3, 'current_vgpu_type'), '0'))).to.equal('transfer:EBUSY');
    instance?.close();
    expect(tree.write(nvidia(3, 'current_vgpu_type'), '0')).to.equal(undefined);
    expect([...registry.instances()]).to.deep.equal([]);
  });

  it('have the identity and the links of a PCI function', () => {
    const tree = new SysfsTree(defaultHost());
    const files = ['class', 'vendor', 'device', 'subsystem_vendor', 'subsystem_device', 'revision'];
    for (const path of [pf, `${pf}/virtfn0`])
      expect(files.map((file) => tree.read(`${path}/${file}`).trim())).to.deep.equal([
        '0x030200',
        '0x10de',
        '0x25b6',
        '0x10de',
        '0x14a9',
        '0xa1',
      ]);
    expect(tree.read('/sys/bus/pci/devices/0000:5e:00.4/uevent')).to.equal(
      [
        'DRIVER=nvidia',
        'PCI_CLASS=30200',
        'PCI_ID=10DE:25B6',
        'PCI_SUBSYS_ID=10DE:14A9',
        'PCI_SLOT_NAME=0000:5e:00.4',
        'MODALIAS=pci:v000010DEd000025B6sv000010DEsd000014A9bc03sc02i00',
        '',
      ].join('\n'),
    );
    const links = new Map(
      [...tree.entries()].map((entry) => [entry.path, entry.type === 'link' ? entry.target : '']),
    );
    const vf = '/sys/devices/pci0000:5e/0000:5e:00.4';
    expect(
      ['driver', 'physfn', 'subsystem', 'iommu_group'].map((name) => links.get(`${vf}/${name}`)),
    ).to.deep.equal([
      '../../../bus/pci/drivers/nvidia',
      '../0000:5e:00.0',
      '../../../bus/pci',
      '../../../kernel/iommu_groups/2',
    ]);
    expect(tree.list('/sys/kernel/iommu_groups/2/devices')).to.deep.equal(['0000:5e:00.4']);
    expect(tree.list('/sys/bus/pci/drivers/nvidia')).to.include.members(['0000:5e:00.0', '0000:5e:00.7']);
    expect(tree.list('/sys/bus/pci/drivers/mdevsim')).to.deep.equal(['0000:3b:00.0', 'uevent']);
    expect(tree.read(`${pf}/resource`).split('\n')).to.have.lengthOf(14);
  });

  it('are counted, disabled and enabled by the files of their GPU', () => {
    const tree = new SysfsTree(defaultHost());
    const sriov = ['totalvfs', 'numvfs', 'offset', 'stride', 'vf_device', 'drivers_autoprobe'];
    expect(sriov.map((name) => tree.read(`${pf}/sriov_${name}`))).to.deep.equal([
      '4\n',
      '4\n',
      '4\n',
      '1\n',
      '25b6\n',
      '1\n',
    ]);
    const numvfs = `${pf}/sriov_numvfs`;
    const vfs = () => tree.list(pf).filter((name) => name.startsWith('virtfn')).length;
    tree.write(nvidia(0, 'current_vgpu_type'), '1001');
    for (const [text, error] of [
      ['5', 'ERANGE'],
      ['2', 'EBUSY'],
      ['0', 'EBUSY'],
      ['x', 'EINVAL'],
    ] as const)
      expect(refusal(() => tree.write(numvfs, text))).to.equal(`transfer:${error}`);
    tree.write(numvfs, '4');
    tree.write(nvidia(0, 'current_vgpu_type'), '0');
    tree.write(numvfs, '0');
    expect([vfs(), tree.read(numvfs), tree.list('/sys/bus/pci/devices')]).to.deep.equal([
      0,
      '0\n',
      ['0000:3b:00.0', '0000:5e:00.0'],
    ]);
    tree.write(numvfs, '2\n');
    expect([vfs(), tree.read(numvfs)]).to.deep.equal([2, '2\n']);
  });
});
