/**
 * Parents, types and instances: what Linux's mdev core keeps (drivers/vfio/mdev/mdev_core.c).
 */
import { MdevError } from './errors.ts';
import { IdPool } from './id-pool.ts';
import { Instance, type MdevInstance } from './instance.ts';
import { Parent } from './parent.ts';
import { parseUuid } from './parse.ts';
import type { ParentSpec } from './spec.ts';

export { MdevError } from './errors.ts';
export type { MdevInstance } from './instance.ts';
export type { MdevType, Parent } from './parent.ts';
export type { ParentSpec, TypeSpec } from './spec.ts';

/** Parents of one registry. */
export const PARENTS_LIMIT = 1024;
/** Instances of one registry: more than any machine has vGPUs. */
export const INSTANCES_LIMIT = 65_536;

export class MdevRegistry {
  readonly #parents = new Map<string, Parent>();
  readonly #instances = new Map<string, Instance>();
  readonly #groups = new IdPool(INSTANCES_LIMIT);

  /**
   * Adds a device that instances can be made of.
   *
   * @throws MdevError EEXIST for a name in use, ENOSPC beyond PARENTS_LIMIT, EINVAL for a spec that makes no sense
   */
  addParent(spec: ParentSpec): Parent {
    if (this.#parents.has(spec.name)) throw new MdevError('EEXIST', `there is a parent ${spec.name}`);
    if (this.#parents.size >= PARENTS_LIMIT)
      throw new MdevError('ENOSPC', `a registry holds ${PARENTS_LIMIT} parents`);
    const parent = new Parent(spec);
    this.#parents.set(spec.name, parent);
    return parent;
  }

  /**
   * Makes an instance and binds its driver, as a write to `create` does. `uuid` is 36 characters, in any case, or 36
   * and one more byte.
   *
   * @throws MdevError EINVAL for a bad UUID; EEXIST for one in use, anywhere, even by an instance on its way out;
   *   EUSERS or ENOSPC when it does not fit; what the driver refuses with; ENOENT for an unknown parent or type
   */
  create(parentName: string, typeId: string, uuid: string): MdevInstance {
    const parent = this.parent(parentName);
    if (!parent) throw new MdevError('ENOENT', `no parent ${parentName}; ${listed(this.#parents.keys())}`);
    const type = parent.type(typeId);
    if (!type) {
      const ids = [...parent.types()].map(({ id }) => id);
      throw new MdevError('ENOENT', `no type ${typeId} of ${parentName}; ${listed(ids)}`);
    }
    const name = parseUuid(uuid);
    if (this.#instances.has(name)) throw new MdevError('EEXIST', `there is an instance ${name}`);
    parent.admit(type);
    const group = this.#groups.take();
    if (group === undefined)
      throw new MdevError('ENOSPC', `a registry holds ${INSTANCES_LIMIT} instances with a driver`);
    const instance = new Instance(name, parent, type, group);
    parent.add(instance);
    this.#instances.set(name, instance);
    return instance;
  }

  /** The instance, in whatever state, until the last close after its removal; `uuid` in any case. */
  get(uuid: string): MdevInstance | undefined {
    return this.#instances.get(uuid.toLowerCase());
  }

  /**
   * Takes an instance away, as a write to `remove` does. From now on it cannot be opened; undefined when that was all,
   * otherwise a promise that resolves at the last close, as the write blocks until then.
   *
   * @throws MdevError ENOENT if there is none, or if it is on its way out
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
   * Takes the driver from an instance, which stays without one for ever: no driver binds to an mdev by itself. The
   * promise is as `remove`'s.
   *
   * @throws MdevError ENODEV if there is none with a driver of that name
   */
  unbind(driver: string, uuid: string): Promise<void> | undefined {
    const instance = this.#instances.get(uuid);
    if (!instance?.bound || instance.owner.driver !== driver)
      throw new MdevError('ENODEV', `${driver} drives no ${uuid}`);
    instance.bound = false;
    return instance.whenClosed(() => this.#releaseDriver(instance));
  }

  /** Every instance, also those on their way out, in the order they were made in. */
  instances(): Iterable<MdevInstance> {
    return this.#instances.values();
  }

  parents(): Iterable<Parent> {
    return this.#parents.values();
  }

  parent(name: string): Parent | undefined {
    return this.#parents.get(name);
  }

  #releaseDriver(instance: Instance): void {
    const group = instance.releaseDriver();
    if (group !== undefined) this.#groups.give(group);
  }
}

/** Names that an error shows of those there are. */
const NAMES_SHOWN = 8;

function listed(names: Iterable<string>): string {
  const all = [...names];
  const more = all.length > NAMES_SHOWN ? ` and ${all.length - NAMES_SHOWN} more` : '';
  return `there are ${all.slice(0, NAMES_SHOWN).join(', ') || 'none'}${more}`;
}
