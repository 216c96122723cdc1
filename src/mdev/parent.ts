/**
 * A parent device, its instances and its free capacity.
 */
import { MdevError } from './errors.ts';
import type { Instance, InstanceOwner, MdevInstance } from './instance.ts';
import type { ParentSpec, TypeSpec } from './spec.ts';

/** Maximum count of types per parent. */
export const TYPES_LIMIT = 256;

export class Parent implements InstanceOwner {
  readonly spec: ParentSpec;
  readonly #types: ReadonlyMap<string, TypeSpec>;
  readonly #instances = new Map<string, Instance>();
  #units = 0;
  #enabledFunctions: number;
  /** IOMMU groups of its PCI function and of all its virtual functions, in order. */
  readonly functionGroups: readonly number[];

  /** @throws MdevError EINVAL for an invalid spec */
  constructor(spec: ParentSpec, functionGroups: readonly number[]) {
    this.spec = spec;
    this.functionGroups = functionGroups;
    this.#enabledFunctions = spec.virtualFunctions?.length ?? 0;
    this.#types = new Map(spec.types.map((type) => [type.id, type]));
    const wrong = problemOf(spec, this.#types.size);
    if (wrong !== undefined) throw new MdevError('EINVAL', `parent ${spec.name}: ${wrong}`);
  }

  get name(): string {
    return this.spec.name;
  }

  get driver(): string {
    return this.spec.driver;
  }

  /** True if instances are created through `mdev_supported_types`, false if through virtual functions. */
  get isMdev(): boolean {
    return this.spec.virtualFunctions === undefined;
  }

  /** The names of the virtual functions that are enabled. */
  get virtualFunctions(): readonly string[] {
    return (this.spec.virtualFunctions ?? []).slice(0, this.#enabledFunctions);
  }

  /** Enables the first `count` virtual functions. */
  enableFunctions(count: number): void {
    this.#enabledFunctions = count;
  }

  types(): Iterable<TypeSpec> {
    return this.#types.values();
  }

  type(id: string): TypeSpec | undefined {
    return this.#types.get(id);
  }

  /** Returns the count of instances of the type that still fit. */
  available(type: TypeSpec): number {
    const { kind, total } = this.spec.capacity;
    if (kind === 'instances') return total - this.#instances.size;
    return Math.floor((total - this.#units) / (type.share ?? 1));
  }

  /** Returns its instances, including those that are being removed. */
  instances(): Iterable<Instance> {
    return this.#instances.values();
  }

  instance(uuid: string): Instance | undefined {
    return this.#instances.get(uuid);
  }

  /** Checks the limits of the mdev core, then of the driver. @throws MdevError EUSERS, ENOSPC, or the driver's errno */
  admit(type: TypeSpec): void {
    const full = this.available(type) < 1;
    const { kind, total } = this.spec.capacity;
    if (full && kind === 'instances')
      throw new MdevError('EUSERS', `${this.name} has its ${total} instances`);
    if (type.probeErrno) throw new MdevError(type.probeErrno, `${this.driver} refuses ${type.id}`);
    if (full)
      throw new MdevError(
        'ENOSPC',
        `${type.id} needs ${type.share ?? 1} of ${this.name}'s ${total}, ${this.#units} are taken`,
      );
  }

  add(instance: Instance): void {
    this.#instances.set(instance.uuid, instance);
    this.#units += instance.spec.share ?? 1;
  }

  delete(instance: MdevInstance): void {
    this.#instances.delete(instance.uuid);
  }

  releaseUnits(type: TypeSpec): void {
    this.#units -= type.share ?? 1;
  }
}

const ID = /^[^/\s\0]{1,255}$/;

/** Returns the problem of an invalid spec, or undefined. */
function problemOf(spec: ParentSpec, distinct: number): string | undefined {
  const { types, capacity, device, subsystem, virtualFunctions } = spec;
  const names = [spec.name, spec.driver, ...types.map(({ id }) => id), ...(virtualFunctions ?? [])];
  const bad = names.find((name) => !ID.test(name) || name === '.' || name === '..');
  if (bad !== undefined) return `${JSON.stringify(bad)} is not a valid file name`;
  if (types.length === 0 || types.length > TYPES_LIMIT)
    return `${types.length} types; accepted: 1 to ${TYPES_LIMIT}`;
  if (distinct !== types.length) return 'two types have the same id';
  if (!Number.isSafeInteger(capacity.total) || capacity.total < 0)
    return `invalid capacity ${capacity.total}`;
  const share = types
    .map((type) => type.share ?? 1)
    .find((units) => !Number.isSafeInteger(units) || units < 1);
  if (share !== undefined) return `invalid share ${share}`;
  if (!/^\/sys\/devices(\/[^/]+)+$/.test(device) || /\/\.{1,2}(\/|$)/.test(device))
    return `invalid directory ${device}`;
  if (!/^\/sys\/(class|bus)\/[^/]+$/.test(subsystem)) return `invalid subsystem ${subsystem}`;
  if (virtualFunctions && types.some(({ id }) => !/^[1-9][0-9]{0,8}$/.test(id)))
    return 'with virtual functions, type ids must be numbers';
  return undefined;
}
