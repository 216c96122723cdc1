/**
 * Mutants of mediated devices: registry, parents, instances, definitions.
 */
import type { Mutant } from '../mutant.ts';

const REGISTRY = 'src/mdev/registry.ts';
const PARENT = 'src/mdev/parent.ts';
const INSTANCE = 'src/mdev/instance.ts';
const POOL = 'src/mdev/id-pool.ts';
const FUNCTIONS = 'src/mdev/virtual-functions.ts';
const DEFINITIONS = 'src/mdev/definitions.ts';
const PARSE = 'src/mdev/parse.ts';

const MDEV = ['test/unit/mdev-registry.test.ts'];
const SYSFS = ['test/unit/mdev-sysfs.test.ts'];
const DEFINED = ['test/unit/mdev-definitions.test.ts'];

export const MDEV_MUTANTS: readonly Mutant[] = [
  {
    id: 'mdev/two-instances-of-a-uuid',
    file: REGISTRY,
    find: 'if (this.#instances.has(name))',
    replace: 'if (this.#instances.get(name)?.openCount === 0)',
    why: 'A second instance takes the UUID of one that is open.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/limits-after-group',
    file: REGISTRY,
    find: `    parent.admit(type);
    const group = this.#allocateGroup();`,
    replace: `    const group = this.#allocateGroup();
    parent.admit(type);`,
    why: 'A refused instance leaks its group number.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/removed-can-be-opened',
    file: REGISTRY,
    find: '    instance.active = false;\n',
    replace: '',
    why: 'An instance that is being removed is opened or removed again.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/removal-keeps-driver',
    file: REGISTRY,
    find: `      this.#releaseDriver(instance);
      instance.owner.delete(instance);`,
    replace: '      instance.owner.delete(instance);',
    why: 'A removed instance leaks its group and its units.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/removal-keeps-place',
    file: REGISTRY,
    find: `      instance.owner.delete(instance);
`,
    replace: '',
    why: 'A removed instance counts among those of its parent.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/removal-does-not-wait',
    file: REGISTRY,
    find: `      instance.owner.delete(instance);
      this.#instances.delete(instance.uuid);
    });`,
    replace: `      instance.owner.delete(instance);
    });
    this.#instances.delete(instance.uuid);`,
    why: 'The UUID of an open instance is free at once.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/unbind-of-other-driver',
    file: REGISTRY,
    find: '!instance?.bound || instance.owner.driver !== driver',
    replace: '!instance?.bound',
    why: 'A driver unbinds the instance of another.',
    killedBy: SYSFS,
  },
  {
    id: 'mdev/unbind-without-waiting',
    file: REGISTRY,
    find: 'return instance.whenClosed(() => this.#releaseDriver(instance));',
    replace: `this.#releaseDriver(instance);
    return undefined;`,
    why: 'An open instance loses its driver.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/group-released-twice',
    file: INSTANCE,
    find: `    this.bound = false;
    this.#group = -1;`,
    replace: '    this.bound = false;',
    why: 'Unbind and remove free one group number twice.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/unbound-can-be-opened',
    file: INSTANCE,
    find: 'if (!this.active || !this.bound)',
    replace: 'if (!this.active)',
    why: 'An instance without a driver is opened.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/opens-unlimited',
    file: INSTANCE,
    find: 'if (this.#opens >= OPENS_LIMIT)',
    replace: 'if (this.#opens > OPENS_LIMIT)',
    why: 'One more open is accepted than allowed.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/first-close-is-last',
    file: INSTANCE,
    find: '    if (this.#opens > 0) return;\n',
    replace: '',
    why: 'The first of several closes frees the device.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/requests-of-past-users',
    file: INSTANCE,
    find: '    this.#requests.length = 0;\n',
    replace: '',
    why: 'A user that has closed the device is asked to close it.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/request-before-wait',
    file: INSTANCE,
    find: `    const closed = new Promise<void>((resolve) => {
      this.#atLastClose.push(() => {
        action();
        resolve();
      });
    });
    // After the push above, because a user may close the device at once.
    for (const request of this.#requests.splice(0)) request();
    return closed;`,
    replace: `    for (const request of this.#requests.splice(0)) request();
    return new Promise<void>((resolve) => {
      this.#atLastClose.push(() => {
        action();
        resolve();
      });
    });`,
    why: 'A user that closes the device at once is waited for without end.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/values-outlive-driver',
    file: INSTANCE,
    find: '    this.#values.clear();\n',
    replace: '',
    why: 'Attributes keep their values without a driver.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/units-outlive-driver',
    file: INSTANCE,
    find: '    this.owner.releaseUnits(this.spec);\n',
    replace: '',
    why: 'Capacity is not free again.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/value-of-a-page',
    file: INSTANCE,
    find: 'if (Buffer.byteLength(text) >= ATTRIBUTE_BYTES)',
    replace: 'if (Buffer.byteLength(text) > ATTRIBUTE_BYTES)',
    why: 'A value without room for its newline is accepted.',
    killedBy: SYSFS,
  },
  {
    id: 'mdev/probe-before-limit',
    file: PARENT,
    find: `    if (full && kind === 'instances')
      throw new MdevError('EUSERS', \`\${this.name} has its \${total} instances\`);
    if (type.probeErrno) throw new MdevError(type.probeErrno, \`\${this.driver} refuses \${type.id}\`);`,
    replace: `    if (type.probeErrno) throw new MdevError(type.probeErrno, \`\${this.driver} refuses \${type.id}\`);
    if (full && kind === 'instances')
      throw new MdevError('EUSERS', \`\${this.name} has its \${total} instances\`);`,
    why: 'The driver is asked before the limit of the mdev core.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/each-takes-one-unit',
    file: PARENT,
    find: 'this.#units += instance.spec.share ?? 1;',
    replace: 'this.#units += 1;',
    why: 'Large types take as little as small ones.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/any-capacity',
    file: PARENT,
    find: 'Math.floor((total - this.#units) / (type.share ?? 1))',
    replace: 'total - this.#units',
    why: 'A type fits of which only a part is free.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/last-free-number',
    file: POOL,
    find: '    this.#free.splice(low, 0, id);\n',
    replace: '    this.#free.push(id);\n',
    why: 'The number that was freed last comes first, not the lowest.',
    killedBy: MDEV,
  },
  {
    id: 'mdev/function-removed-while-open',
    file: FUNCTIONS,
    find: 'if (held && (id !== 0 || held.openCount > 0))',
    replace: 'if (held && id !== 0)',
    why: 'The vGPU of a virtual function is removed while it is open.',
    killedBy: SYSFS,
  },
  {
    id: 'mdev/function-offers-second-type',
    file: FUNCTIONS,
    find: `      current()
        ? ''
        : creatable(parent)`,
    replace: `      current() === null
        ? ''
        : creatable(parent)`,
    why: 'A virtual function with a vGPU offers types.',
    killedBy: SYSFS,
  },
  {
    id: 'mdev/attribute-outside',
    file: DEFINITIONS,
    find: "path.startsWith('/') || path.split('/').includes('..')",
    replace: "path.startsWith('/')",
    why: 'A definition writes attributes of other devices.',
    killedBy: DEFINED,
  },
  {
    id: 'mdev/failed-start-stays',
    file: DEFINITIONS,
    find: '      void registry.remove(uuid);\n',
    replace: '',
    why: 'An instance stays although one of its attributes was refused.',
    killedBy: DEFINED,
  },
  {
    id: 'mdev/uuid-of-characters',
    file: PARSE,
    find: 'const bytes = Buffer.byteLength(text);',
    replace: 'const bytes = text.length;',
    why: 'A UUID followed by a character of several bytes is accepted.',
    killedBy: MDEV,
  },
];
