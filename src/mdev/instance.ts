/**
 * One mediated device, from `create` to the last close after `remove`.
 */
import { MdevError } from './errors.ts';
import type { AttributeSpec, ParentSpec, TypeSpec } from './spec.ts';

/** A mediated device, as its users see it. */
export interface MdevInstance {
  /** In lower case. */
  readonly uuid: string;
  /** The parent's name. */
  readonly parent: string;
  /** The type's id. */
  readonly type: string;
  /** Number of its IOMMU group, which contains no other device; -1 without a driver. */
  readonly iommuGroup: number;
  /** Count of opens that are not closed yet. */
  readonly openCount: number;
  /**
   * Opens the device. `request` is called when an open device is being removed, and must have it closed (VFIO's device
   * request). The kernel repeats the request every ten seconds; here it is made once.
   *
   * @throws MdevError ENODEV without a driver or while it is being removed, EMFILE at OPENS_LIMIT
   */
  open(request?: () => void): void;
  /** Closes the device once. @throws MdevError EBADF if it is not open */
  close(): void;
}

/** Maximum count of opens of one instance; far above Linux's default limit of file descriptors per process. */
export const OPENS_LIMIT = 65_536;
/** Maximum bytes of an attribute's value with its newline: sysfs passes one page to a driver. */
export const ATTRIBUTE_BYTES = 4096;

/** The parent of an instance: the parts that an instance uses. */
export interface InstanceOwner {
  readonly name: string;
  readonly driver: string;
  readonly spec: ParentSpec;
  /** Releases the units of capacity that an instance of this type takes. */
  releaseUnits(type: TypeSpec): void;
  /** Removes the instance from the parent's list. */
  delete(instance: MdevInstance): void;
}

/** A mediated device, as the registry sees it. */
export class Instance implements MdevInstance {
  readonly uuid: string;
  readonly owner: InstanceOwner;
  readonly spec: TypeSpec;
  /** False from the moment `remove` is accepted. */
  active = true;
  /** False from the moment the driver is told to release the device. */
  bound = true;
  #group: number;
  #opens = 0;
  readonly #values = new Map<AttributeSpec, string>();
  readonly #atLastClose: (() => void)[] = [];
  /** Callbacks of the users that have opened it, until the last close. */
  readonly #requests: (() => void)[] = [];

  constructor(uuid: string, owner: InstanceOwner, spec: TypeSpec, group: number) {
    this.uuid = uuid;
    this.owner = owner;
    this.spec = spec;
    this.#group = group;
  }

  get parent(): string {
    return this.owner.name;
  }

  get type(): string {
    return this.spec.id;
  }

  get iommuGroup(): number {
    return this.#group;
  }

  get openCount(): number {
    return this.#opens;
  }

  open(request?: () => void): void {
    if (!this.active || !this.bound)
      throw new MdevError('ENODEV', `${this.uuid} is being removed or has no driver`);
    if (this.#opens >= OPENS_LIMIT)
      throw new MdevError('EMFILE', `${this.uuid} is already open ${OPENS_LIMIT} times`);
    this.#opens++;
    if (request) this.#requests.push(request);
  }

  close(): void {
    if (this.#opens === 0) throw new MdevError('EBADF', `${this.uuid} is not open`);
    this.#opens--;
    if (this.#opens > 0) return;
    this.#requests.length = 0;
    for (const action of this.#atLastClose.splice(0)) action();
  }

  /**
   * Calls `action` now if the device is not open, and returns undefined. Otherwise requests its users to close it, and
   * returns a promise that resolves after `action` at the last close.
   */
  whenClosed(action: () => void): Promise<void> | undefined {
    if (this.#opens === 0) {
      action();
      return undefined;
    }
    const closed = new Promise<void>((resolve) => {
      this.#atLastClose.push(() => {
        action();
        resolve();
      });
    });
    // After the push above, because a user may close the device at once.
    for (const request of this.#requests.splice(0)) request();
    return closed;
  }

  /** Detaches the driver. Returns the number of the IOMMU group to free, or undefined if there was no driver. */
  releaseDriver(): number | undefined {
    if (this.#group < 0) return undefined;
    const group = this.#group;
    this.bound = false;
    this.#group = -1;
    this.#values.clear();
    this.owner.releaseUnits(this.spec);
    return group;
  }

  /** Returns an attribute's value without the newline. */
  value(attribute: AttributeSpec): string {
    return this.#values.get(attribute) ?? attribute.initial(this.uuid);
  }

  /** Writes an attribute. @throws MdevError EINVAL beyond ATTRIBUTE_BYTES, or the driver's error */
  setValue(attribute: AttributeSpec, text: string): void {
    if (Buffer.byteLength(text) >= ATTRIBUTE_BYTES)
      throw new MdevError(
        'EINVAL',
        `${attribute.path} is too long; accepted: less than ${ATTRIBUTE_BYTES} bytes`,
      );
    if (attribute.store) this.#values.set(attribute, attribute.store(text));
  }
}
