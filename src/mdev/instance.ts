/**
 * One mediated device, from `create` to the last close after `remove`.
 */
import { MdevError } from './errors.ts';
import type { AttributeSpec, ParentSpec, TypeSpec } from './spec.ts';

/** A mediated device, for those who open it. */
export interface MdevInstance {
  /** In lower case. */
  readonly uuid: string;
  /** The parent's name. */
  readonly parent: string;
  /** The type's id. */
  readonly type: string;
  /** Number of its IOMMU group, which holds nothing else; -1 without a driver. */
  readonly iommuGroup: number;
  /** Opens that no close has followed. */
  readonly openCount: number;
  /**
   * `request` is called when the device is to go while it is open, and asks that it be closed (vfio's device request);
   * the kernel asks again every ten seconds, here it is asked once.
   *
   * @throws MdevError ENODEV without a driver or while it is being removed, EMFILE at OPENS_LIMIT
   */
  open(request?: () => void): void;
  /** @throws MdevError EBADF if it is not open */
  close(): void;
}

/** Opens of one instance at a time: Linux's default limit of descriptors of a process is far below. */
export const OPENS_LIMIT = 65_536;
/** Bytes of an attribute's value, newline included: sysfs hands a driver one page. */
export const ATTRIBUTE_BYTES = 4096;

/** The parent of an instance, as the instance sees it. */
export interface InstanceOwner {
  readonly name: string;
  readonly driver: string;
  readonly spec: ParentSpec;
  /** Gives back the part of the capacity that an instance of this type takes. */
  releaseUnits(type: TypeSpec): void;
  /** Removes the instance from the parent's list. */
  delete(instance: MdevInstance): void;
}

/** The registry's own view of an instance. */
export class Instance implements MdevInstance {
  readonly uuid: string;
  readonly owner: InstanceOwner;
  readonly spec: TypeSpec;
  /** False from the moment `remove` is accepted. */
  active = true;
  /** False from the moment the driver is told to let go. */
  bound = true;
  #group: number;
  #opens = 0;
  readonly #values = new Map<AttributeSpec, string>();
  readonly #atLastClose: (() => void)[] = [];
  /** Of those who have opened it, until the last close. */
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
    if (!this.active || !this.bound) throw new MdevError('ENODEV', `${this.uuid} is going or has no driver`);
    if (this.#opens >= OPENS_LIMIT)
      throw new MdevError('EMFILE', `${this.uuid} is open ${OPENS_LIMIT} times`);
    this.#opens++;
    if (request) this.#requests.push(request);
  }

  close(): void {
    if (this.#opens === 0) throw new MdevError('EBADF', `${this.uuid} is not open`);
    this.#opens--;
    if (this.#opens > 0) return;
    this.#requests.length = 0;
    for (const then of this.#atLastClose.splice(0)) then();
  }

  /**
   * Does `then` now if it is not open; otherwise asks who has opened it to close it, and does so at the last close; the
   * promise resolves after it.
   */
  whenClosed(then: () => void): Promise<void> | undefined {
    if (this.#opens === 0) {
      then();
      return undefined;
    }
    const closed = new Promise<void>((resolve) => {
      this.#atLastClose.push(() => {
        then();
        resolve();
      });
    });
    // After the line above: who is asked may close at once.
    for (const request of this.#requests.splice(0)) request();
    return closed;
  }

  /** The driver lets go: gives the group's number to be freed, or undefined if it had. */
  releaseDriver(): number | undefined {
    if (this.#group < 0) return undefined;
    const group = this.#group;
    this.bound = false;
    this.#group = -1;
    this.#values.clear();
    this.owner.releaseUnits(this.spec);
    return group;
  }

  /** An attribute's value, without the newline. */
  value(attribute: AttributeSpec): string {
    return this.#values.get(attribute) ?? attribute.initial(this.uuid);
  }

  /** @throws MdevError what the driver refuses with; EINVAL beyond ATTRIBUTE_BYTES */
  setValue(attribute: AttributeSpec, text: string): void {
    if (Buffer.byteLength(text) >= ATTRIBUTE_BYTES)
      throw new MdevError('EINVAL', `${attribute.path} holds less than ${ATTRIBUTE_BYTES} bytes`);
    if (attribute.store) this.#values.set(attribute, attribute.store(text));
  }
}
