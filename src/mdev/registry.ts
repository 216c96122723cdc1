/**
 * The registry of parents, types and instances, as in Linux's mdev core (drivers/vfio/mdev/mdev_core.c).
 */
import { MdevError } from './errors.ts';
import { IdPool } from './id-pool.ts';
import { Instance, type MdevInstance } from './instance.ts';
import { Parent } from './parent.ts';
import { parseUuid } from './parse.ts';
import type { ParentSpec } from './spec.ts';

export { MdevError } from './errors.ts';
export type { MdevInstance } from './instance.ts';
export type { Parent } from './parent.ts';
export type { ParentSpec } from './spec.ts';

/** Maximum count of parents. */
export const PARENTS_LIMIT = 1024;
/** Maximum count of instances; more than the vGPUs of any machine. */
export const INSTANCES_LIMIT = 65_536;

export class MdevRegistry {
  readonly #parents = new Map<string, Parent>();
  readonly #instances = new Map<string, Instance>();
  readonly #groups = new IdPool(INSTANCES_LIMIT);

  /**
   * Adds a parent device.
   *
   * @throws MdevError EEXIST for a name in use, ENOSPC beyond PARENTS_LIMIT, EINVAL for an invalid spec
   */
  addParent(spec: ParentSpec): Parent {
    if (this.#parents.has(spec.name)) throw new MdevError('EEXIST', `parent ${spec.name} exists already`);
    if (this.#parents.size >= PARENTS_LIMIT)
      throw new MdevError('ENOSPC', `the registry is full; accepted: ${PARENTS_LIMIT} parents`);
    const functions = spec.pci ? 1 + (spec.virtualFunctions?.length ?? 0) : 0;
    const parent = new Parent(
      spec,
      Array.from({ length: functions }, () => this.#allocateGroup()),
    );
    this.#parents.set(spec.name, parent);
    return parent;
  }

  /**
   * Creates an instance and binds its driver, like a write to `create`. `uuid` is 36 characters in upper or lower case,
   * optionally followed by one byte.
   *
   * @throws MdevError EINVAL for a bad UUID; EEXIST if any instance has it, even one that is being removed; EUSERS or
   *   ENOSPC if the instance does not fit; ENOENT for an unknown parent or type; or the driver's errno
   */
  create(parentName: string, typeId: string, uuid: string): MdevInstance {
    const parent = this.parent(parentName);
    if (!parent)
      throw new MdevError('ENOENT', `no parent ${parentName}; accepted: ${listed(this.#parents.keys())}`);
    const type = parent.type(typeId);
    if (!type) {
      const ids = [...parent.types()].map(({ id }) => id);
      throw new MdevError('ENOENT', `no type ${typeId} of ${parentName}; accepted: ${listed(ids)}`);
    }
    const name = parseUuid(uuid);
    if (this.#instances.has(name)) throw new MdevError('EEXIST', `instance ${name} exists already`);
    parent.admit(type);
    const group = this.#allocateGroup();
    const instance = new Instance(name, parent, type, group);
    parent.add(instance);
    this.#instances.set(name, instance);
    return instance;
  }

  /** Returns an instance in any state, until the last close after its removal. `uuid` in upper or lower case. */
  get(uuid: string): MdevInstance | undefined {
    return this.#instances.get(uuid.toLowerCase());
  }

  /**
   * Removes an instance, like a write to `remove`. It can no longer be opened. Returns undefined if it was not open.
   * Otherwise the kernel's write would block, and the returned promise resolves at the last close.
   *
   * @throws MdevError ENOENT if there is no such instance, or if it is already being removed
   */
  remove(uuid: string): Promise<void> | undefined {
    const instance = this.#instances.get(uuid.toLowerCase());
    if (!instance?.active) throw new MdevError('ENOENT', `no instance ${uuid}`);
    instance.active = false;
    return instance.whenClosed(() => {
      this.#releaseDriver(instance);
      instance.owner.delete(instance);
      this.#instances.delete(instance.uuid);
    });
  }

  /**
   * Unbinds an instance's driver. The instance never gets another one, because no driver binds to an mdev by itself.
   * Returns as {@link remove} does.
   *
   * @throws MdevError ENODEV if no such instance is bound to the driver
   */
  unbind(driver: string, uuid: string): Promise<void> | undefined {
    const instance = this.#instances.get(uuid);
    if (!instance?.bound || instance.owner.driver !== driver)
      throw new MdevError('ENODEV', `${uuid} is not bound to ${driver}`);
    instance.bound = false;
    return instance.whenClosed(() => this.#releaseDriver(instance));
  }

  /** Returns all instances in order of creation, including those that are being removed. */
  instances(): Iterable<MdevInstance> {
    return this.#instances.values();
  }

  parents(): Iterable<Parent> {
    return this.#parents.values();
  }

  parent(name: string): Parent | undefined {
    return this.#parents.get(name);
  }

  /** @throws MdevError ENOSPC */
  #allocateGroup(): number {
    const group = this.#groups.allocate();
    if (group !== undefined) return group;
    throw new MdevError(
      'ENOSPC',
      `the registry is full; accepted: ${INSTANCES_LIMIT} instances with a driver`,
    );
  }

  #releaseDriver(instance: Instance): void {
    const group = instance.releaseDriver();
    if (group !== undefined) this.#groups.release(group);
  }
}

/** Maximum count of accepted names in an error message. */
const NAMES_SHOWN = 8;

function listed(names: Iterable<string>): string {
  const all = [...names];
  const more = all.length > NAMES_SHOWN ? ` and ${all.length - NAMES_SHOWN} more` : '';
  return `${all.slice(0, NAMES_SHOWN).join(', ') || 'none'}${more}`;
}
