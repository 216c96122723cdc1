import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { type Instance, OPENS_LIMIT } from '../../src/mdev/instance.ts';
import { TYPES_LIMIT } from '../../src/mdev/parent.ts';
import { parseUnsigned, parseUuid } from '../../src/mdev/parse.ts';
import { MDPY, MTTY, ORC, TREE_PARENTS } from '../../src/mdev/recorded-parents.ts';
import {
  INSTANCES_LIMIT,
  MdevError,
  type MdevInstance,
  MdevRegistry,
  PARENTS_LIMIT,
  type ParentSpec,
} from '../../src/mdev/registry.ts';

const uuidOf = (n: number): string => `00000000-0000-4000-8000-${n.toString(16).padStart(12, '0')}`;

/** Returns the errno of a refused `action`, or undefined. */
function errnoOf(action: () => unknown): string | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    if (error instanceof MdevError) return error.errno;
    throw error;
  }
}

const parentOf = (total: number, kind: 'instances' | 'units' = 'instances', name = 'p'): ParentSpec => ({
  name,
  driver: 'd',
  device: `/sys/devices/virtual/c/${name}`,
  subsystem: '/sys/class/c',
  capacity: { kind, total },
  types: [
    { id: 't1', name: 'one', deviceApi: 'vfio-pci' },
    { id: 't3', name: 'three', deviceApi: 'vfio-pci', share: 3 },
  ],
});

function registryOf(...parents: readonly ParentSpec[]): MdevRegistry {
  const registry = new MdevRegistry();
  for (const parent of parents) registry.addParent(parent);
  return registry;
}

describe('mdev registry limits', () => {
  it('accepts max_instances instances of a parent, and refuses more with EUSERS', () => {
    const registry = registryOf(MDPY);
    for (let n = 0; n < 4; n++) registry.create('mdpy', n % 2 ? 'mdpy-vga' : 'mdpy-hd', uuidOf(n));
    expect(errnoOf(() => registry.create('mdpy', 'mdpy-xga', uuidOf(4)))).to.equal('EUSERS');
    registry.remove(uuidOf(0));
    registry.create('mdpy', 'mdpy-xga', uuidOf(4));
  });

  it("accepts instances up to the driver's units, and refuses more with ENOSPC", () => {
    const registry = registryOf(MTTY);
    for (let n = 0; n < 11; n++) registry.create('mtty', 'mtty-2', uuidOf(n));
    registry.create('mtty', 'mtty-1', uuidOf(11));
    expect(errnoOf(() => registry.create('mtty', 'mtty-2', uuidOf(12)))).to.equal('ENOSPC');
    registry.create('mtty', 'mtty-1', uuidOf(12));
    expect(errnoOf(() => registry.create('mtty', 'mtty-1', uuidOf(13)))).to.equal('ENOSPC');
  });

  it(`accepts ${PARENTS_LIMIT} parents, and refuses more with ENOSPC`, () => {
    const registry = new MdevRegistry();
    for (let n = 0; n < PARENTS_LIMIT; n++) registry.addParent(parentOf(1, 'instances', `p${n}`));
    expect(errnoOf(() => registry.addParent(parentOf(1, 'instances', 'more')))).to.equal('ENOSPC');
    expect(errnoOf(() => registry.addParent(parentOf(1, 'instances', 'p0')))).to.equal('EEXIST');
  });

  it(`accepts ${INSTANCES_LIMIT} instances, and refuses more with ENOSPC`, () => {
    const registry = registryOf(parentOf(INSTANCES_LIMIT + 1));
    for (let n = 0; n < INSTANCES_LIMIT; n++) registry.create('p', 't1', uuidOf(n));
    expect(errnoOf(() => registry.create('p', 't1', uuidOf(INSTANCES_LIMIT)))).to.equal('ENOSPC');
    registry.remove(uuidOf(77));
    expect(registry.create('p', 't1', uuidOf(INSTANCES_LIMIT)).iommuGroup).to.equal(77);
  });

  it(`opens an instance ${OPENS_LIMIT} times, refuses more with EMFILE, and an extra close with EBADF`, () => {
    const instance = registryOf(ORC).create('orc', 'orc-std', uuidOf(1));
    for (let n = 0; n < OPENS_LIMIT; n++) instance.open();
    expect(errnoOf(() => instance.open())).to.equal('EMFILE');
    for (let n = 0; n < OPENS_LIMIT; n++) instance.close();
    expect(errnoOf(() => instance.close())).to.equal('EBADF');
  });

  const types = (count: number) =>
    Array.from({ length: count }, (_, n) => ({ id: `t${n}`, name: '', deviceApi: 'vfio-pci' }));
  for (const { what, change } of [
    { what: 'no types', change: { types: [] } },
    { what: `${TYPES_LIMIT + 1} types`, change: { types: types(TYPES_LIMIT + 1) } },
    { what: 'two types with equal ids', change: { types: [...types(1), ...types(1)] } },
    { what: 'a name with a slash', change: { name: '../x' } },
    { what: 'a negative capacity', change: { capacity: { kind: 'units', total: -1 } } },
    { what: 'a device outside /sys/devices', change: { device: '/etc/passwd' } },
    { what: 'a device path with .. out of /sys/devices', change: { device: '/sys/devices/../../x' } },
    { what: 'a subsystem outside /sys', change: { subsystem: '/class/x' } },
    { what: 'VFs with a type id that is not a number', change: { virtualFunctions: ['v0'] } },
  ] as const satisfies readonly { what: string; change: Partial<ParentSpec> }[])
    it(`refuses a parent with ${what}`, () => {
      expect(errnoOf(() => new MdevRegistry().addParent({ ...parentOf(1), ...change }))).to.equal('EINVAL');
    });

  it(`accepts a parent with ${TYPES_LIMIT} types`, () => {
    registryOf({ ...parentOf(1), types: types(TYPES_LIMIT) });
  });
});

describe('mdev registry errors', () => {
  it('returns ENOENT for unknown parents and types', () => {
    const registry = registryOf(ORC);
    expect(errnoOf(() => registry.create('orc', 'mtty-1', uuidOf(1)))).to.equal('ENOENT');
    expect(errnoOf(() => registry.create('mtty', 'mtty-1', uuidOf(1)))).to.equal('ENOENT');
    expect(errnoOf(() => registry.remove(uuidOf(1)))).to.equal('ENOENT');
  });

  it('keeps no instance and no group number when the driver refuses', () => {
    const registry = registryOf(...TREE_PARENTS);
    expect(errnoOf(() => registry.create('tdev0', 'tdev-bad', uuidOf(1)))).to.equal('EIO');
    expect([...registry.instances()]).to.deep.equal([]);
    expect(registry.create('orc', 'orc-std', uuidOf(1)).iommuGroup).to.equal(0);
  });

  it('parses UUIDs by bytes, not by characters', () => {
    expect(parseUuid(`${uuidOf(10).toUpperCase()}\n`)).to.equal(uuidOf(10));
    for (const text of ['', `${uuidOf(1)}\n\n`, `${uuidOf(1)}é`, uuidOf(1).slice(1), `{${uuidOf(1)}}`])
      expect(
        errnoOf(() => parseUuid(text)),
        text,
      ).to.equal('EINVAL');
  });

  it('parses numbers as kstrtoul does', () => {
    const good = { '0': 0, '1\n': 1, '+2': 2, '0x1F': 31, '010': 8, '1\0x': 1, '00': 0 };
    for (const [text, value] of Object.entries(good)) expect(parseUnsigned(text), text).to.equal(value);
    expect(parseUnsigned('18446744073709551615')).to.equal(2 ** 64);
    expect(errnoOf(() => parseUnsigned('18446744073709551616'))).to.equal('ERANGE');
    for (const text of ['', '\n', '-1', ' 1', '1 ', '1\n\n', '0x', '08', 'x', '1x'])
      expect(
        errnoOf(() => parseUnsigned(text)),
        JSON.stringify(text),
      ).to.equal('EINVAL');
  });

  it('has the limit of the mdev core before the error of the driver', () => {
    const spec = parentOf(0);
    const registry = registryOf({ ...spec, types: [{ ...spec.types[0]!, probeErrno: 'ENODEV' }] });
    expect(errnoOf(() => registry.create('p', 't1', uuidOf(1)))).to.equal('EUSERS');
  });
});

describe('mdev registry removal', () => {
  it('waits for the last close, refuses new opens at once, and frees nothing before', async () => {
    const registry = registryOf(MDPY);
    const instance = registry.create('mdpy', 'mdpy-vga', uuidOf(1));
    instance.open();
    instance.open();
    let removed = false;
    const wait = registry.remove(uuidOf(1))?.then(() => {
      removed = true;
    });
    expect(errnoOf(() => instance.open())).to.equal('ENODEV');
    expect(errnoOf(() => registry.remove(uuidOf(1)))).to.equal('ENOENT');
    expect(errnoOf(() => registry.create('mdpy', 'mdpy-hd', uuidOf(1)))).to.equal('EEXIST');
    expect(registry.parent('mdpy')?.available(MDPY.types[0]!)).to.equal(3);
    instance.close();
    expect(registry.get(uuidOf(1))).to.equal(instance);
    expect(removed).to.equal(false);
    instance.close();
    expect(registry.get(uuidOf(1))).to.equal(undefined);
    await wait;
    expect(removed).to.equal(true);
    expect(errnoOf(() => instance.open())).to.equal('ENODEV');
  });

  it('waits together with a pending unbind of the instance', async () => {
    const registry = registryOf(MTTY);
    const instance = registry.create('mtty', 'mtty-2', uuidOf(1));
    instance.open();
    const unbound = registry.unbind('mtty', uuidOf(1));
    expect(errnoOf(() => registry.unbind('mtty', uuidOf(1)))).to.equal('ENODEV');
    const removed = registry.remove(uuidOf(1));
    expect(instance.iommuGroup).to.equal(0);
    instance.close();
    await Promise.all([unbound, removed]);
    expect(instance.iommuGroup).to.equal(-1);
    expect(registry.parent('mtty')?.available(MTTY.types[0]!)).to.equal(24);
  });

  it('asks only those who still use the device, and need not wait for one that closes it at once', async () => {
    const registry = registryOf(MDPY);
    const instance = registry.create('mdpy', 'mdpy-vga', uuidOf(1));
    const asked: string[] = [];
    instance.open(() => asked.push('past'));
    instance.close();
    instance.open(() => {
      asked.push('present');
      instance.close();
    });
    await registry.remove(uuidOf(1));
    expect(asked).to.deep.equal(['present']);
    expect(registry.get(uuidOf(1))).to.equal(undefined);
  });

  it('leaves an instance without a driver that cannot be opened, and forgets its attributes', () => {
    const registry = registryOf(MTTY);
    const instance = registry.create('mtty', 'mtty-1', uuidOf(1)) as Instance;
    const attribute = { path: 'a', initial: () => 'old', store: (text: string) => text };
    instance.setValue(attribute, 'new');
    expect(instance.value(attribute)).to.equal('new');
    expect(registry.unbind('mtty', uuidOf(1))).to.equal(undefined);
    expect(errnoOf(() => instance.open())).to.equal('ENODEV');
    expect(instance.value(attribute)).to.equal('old');
  });

  it('frees group numbers, of which the lowest is used next', () => {
    const registry = registryOf(MTTY);
    for (let n = 0; n < 5; n++) registry.create('mtty', 'mtty-1', uuidOf(n));
    for (const n of [0, 3, 1]) registry.remove(uuidOf(n));
    const groups = [5, 6, 7, 8].map((n) => registry.create('mtty', 'mtty-1', uuidOf(n)).iommuGroup);
    expect(groups).to.deep.equal([0, 1, 3, 5]);
  });
});

/** A naive model of the rules: a list that is recounted at each command. */
class NaiveModel {
  readonly list: { uuid: string; parent: 'mtty' | 'mdpy'; units: number; opens: number; going: boolean }[] =
    [];

  find = (uuid: string) => this.list.find((item) => item.uuid === uuid);

  create(parent: 'mtty' | 'mdpy', units: number, uuid: string): string | undefined {
    if (this.find(uuid)) return 'EEXIST';
    const siblings = this.list.filter((item) => item.parent === parent);
    const taken = siblings.reduce((sum, item) => sum + item.units, 0);
    if (parent === 'mdpy' && siblings.length >= 4) return 'EUSERS';
    if (parent === 'mtty' && taken + units > 24) return 'ENOSPC';
    this.list.push({ uuid, parent, units, opens: 0, going: false });
    return undefined;
  }

  drop(uuid: string): void {
    this.list.splice(
      this.list.findIndex((item) => item.uuid === uuid),
      1,
    );
  }

  remove(uuid: string): string | undefined {
    const item = this.find(uuid);
    if (!item || item.going) return 'ENOENT';
    item.going = true;
    if (item.opens === 0) this.drop(uuid);
    return undefined;
  }

  open(uuid: string): string | undefined {
    const item = this.find(uuid);
    if (!item || item.going) return 'ENODEV';
    item.opens++;
    return undefined;
  }

  close(uuid: string): string | undefined {
    const item = this.find(uuid);
    if (!item || item.opens === 0) return 'EBADF';
    if (--item.opens === 0 && item.going) this.drop(uuid);
    return undefined;
  }
}

const UUIDS = 20;
const UNITS = { 'mtty-1': 1, 'mtty-2': 2, 'mdpy-vga': 1, 'mdpy-hd': 1 } as const;
const command = fc.record({
  what: fc.constantFrom('create', 'create', 'create', 'remove', 'open', 'open', 'close', 'close'),
  type: fc.constantFrom(...(Object.keys(UNITS) as (keyof typeof UNITS)[])),
  uuid: fc.nat(UUIDS - 1).map(uuidOf),
});

describe('mdev registry compared with a naive model', () => {
  it('has the same errors, instances and availability after every command', () => {
    fc.assert(
      fc.property(fc.array(command, { maxLength: 200 }), (commands) => {
        const registry = registryOf(MTTY, MDPY);
        const model = new NaiveModel();
        /** Opened instances by UUID; each is closed through the object that was opened. */
        const held = new Map<string, MdevInstance>();
        for (const { what, type, uuid } of commands) {
          const parent = type.startsWith('mtty') ? 'mtty' : 'mdpy';
          const ours = {
            create: () => {
              held.set(uuid, registry.create(parent, type, uuid));
            },
            remove: () => registry.remove(uuid),
            open: () => (held.get(uuid) ?? absent).open(),
            close: () => (held.get(uuid) ?? absent).close(),
          };
          const theirs = {
            create: () => model.create(parent, UNITS[type], uuid),
            remove: () => model.remove(uuid),
            open: () => model.open(uuid),
            close: () => model.close(uuid),
          };
          expect(errnoOf(ours[what])).to.equal(theirs[what](), `${what} ${type} ${uuid}`);
          expect([...registry.instances()].map((i) => [i.uuid, i.openCount])).to.deep.equal(
            model.list.map((item) => [item.uuid, item.opens]),
          );
        }
        const groups = [...registry.instances()].map(({ iommuGroup }) => iommuGroup);
        expect(new Set(groups).size).to.equal(groups.length);
        expect(groups.every((group) => group >= 0 && group < 28)).to.equal(true);
      }),
      { numRuns: 300 },
    );
  });
});

/** Stands for the instance of an unknown UUID. */
const absent = {
  open: () => {
    throw new MdevError('ENODEV', 'never made');
  },
  close: () => {
    throw new MdevError('EBADF', 'never made');
  },
};
