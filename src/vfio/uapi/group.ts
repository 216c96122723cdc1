/**
 * Container files, groups and the devices in them: who may do what while what is open.
 *
 * Every mediated device has a group of its own. A group stays open until its last file is closed, and the files of
 * its device count; when a container's last group leaves, its IOMMU goes, with every mapping.
 */
import { VfioError } from '../errors.ts';
import { Type1, type Type1Device, type Type1Options } from './type1.ts';
import { API_VERSION, Extension, GROUP_CONTAINER_SET, GROUP_VIABLE } from './vfio-uapi.ts';

/** What a device driver brings. */
export interface DeviceOps {
  readonly dmaUnmap?: ((iova: bigint, size: bigint) => void) | undefined;
  /** The last file of the device is closed; it may still unpin. */
  close?(): void;
}

/** Extensions, from the state of the container to the answer. Everything else is 0. */
const EXTENSIONS: ReadonlyMap<number, (iommu?: Type1) => number> = new Map<number, (iommu?: Type1) => number>(
  [
    [Extension.type1, () => 1],
    [Extension.type1v2, () => 1],
    // No device of a mediated container sits behind a real IOMMU that could be incoherent.
    [Extension.cacheCoherency, (iommu) => (iommu ? 1 : 0)],
    [Extension.unmapAll, () => 1],
  ],
);

/** An open /dev/vfio/vfio. */
export class VfioContainer {
  readonly #options: Omit<Type1Options, 'v2'>;
  readonly groups = new Set<VfioGroup>();
  #iommu: Type1 | undefined;

  constructor(options: Omit<Type1Options, 'v2'> = {}) {
    this.#options = options;
  }

  get iommu(): Type1 | undefined {
    return this.#iommu;
  }

  apiVersion(): number {
    return API_VERSION;
  }

  checkExtension(extension: number): number {
    return EXTENSIONS.get(extension)?.(this.#iommu) ?? 0;
  }

  /** @throws VfioError EINVAL (no group, or set already, or an extension that is no IOMMU), ENODEV (unknown) */
  setIommu(type: number): void {
    if (this.groups.size === 0 || this.#iommu)
      throw new VfioError('EINVAL', 'SET_IOMMU: no group, or an IOMMU is set');
    if (this.checkExtension(type) === 0) throw new VfioError('ENODEV', `SET_IOMMU: type ${type} is unknown`);
    if (type !== Extension.type1 && type !== Extension.type1v2)
      throw new VfioError('EINVAL', `SET_IOMMU: extension ${type} is not an IOMMU`);
    this.#iommu = new Type1({ ...this.#options, v2: type === Extension.type1v2 });
  }

  /** The IOMMU that all other calls go to. @throws VfioError EINVAL */
  requireIommu(): Type1 {
    if (!this.#iommu) throw new VfioError('EINVAL', 'the container has no IOMMU');
    return this.#iommu;
  }

  /** A call that nobody knows. @throws VfioError EINVAL (no IOMMU), ENOTTY */
  unknownCall(): never {
    this.requireIommu();
    throw new VfioError('ENOTTY', 'unknown call');
  }

  detach(group: VfioGroup): void {
    this.groups.delete(group);
    if (this.groups.size > 0) return;
    this.#iommu?.release();
    this.#iommu = undefined;
  }
}

/** One group, with its one mediated device. */
export class VfioGroup {
  readonly device: VfioDevice;
  #container: VfioContainer | undefined;
  /** The group's own file and those of its device. */
  #files = 0;
  #removed = false;

  constructor(name: string, ops: DeviceOps) {
    this.device = new VfioDevice(name, ops, this);
  }

  get container(): VfioContainer | undefined {
    return this.#container;
  }

  /** @throws VfioError ENODEV (removed), EBUSY (open already) */
  open(): void {
    this.#checkPresent();
    if (this.#files > 0) throw new VfioError('EBUSY', `the group of ${this.device.name} is open`);
    this.#files = 1;
  }

  /** Closes the group's own file. It stays open while its device is. */
  close(): void {
    this.releaseFile();
  }

  /** @throws VfioError ENODEV */
  status(): number {
    this.#checkPresent();
    return GROUP_VIABLE | (this.#container ? GROUP_CONTAINER_SET : 0);
  }

  /**
   * @param file what the descriptor refers to; undefined if nothing
   * @throws VfioError EBADF, EINVAL (set already), ENODEV (removed), EBADFD (not a container)
   */
  setContainer(file: unknown): void {
    if (file === undefined) throw new VfioError('EBADF', 'SET_CONTAINER: no such descriptor');
    if (this.#container) throw new VfioError('EINVAL', 'SET_CONTAINER: set already');
    this.#checkPresent();
    if (!(file instanceof VfioContainer)) throw new VfioError('EBADFD', 'SET_CONTAINER: not a container');
    this.#container = file;
    file.groups.add(this);
  }

  /** @throws VfioError EINVAL (not set), EBUSY (its device is open) */
  unsetContainer(): void {
    if (!this.#container) throw new VfioError('EINVAL', 'UNSET_CONTAINER: not set');
    if (this.device.isOpen) throw new VfioError('EBUSY', `UNSET_CONTAINER: ${this.device.name} is open`);
    this.#detach();
  }

  /**
   * Opens the group's device once more; {@link VfioDevice.close} undoes it.
   * @throws VfioError ENODEV (no device of that name, or it is being removed), EINVAL (no container, or no IOMMU)
   */
  getDevice(name: string): VfioDevice {
    if (this.#removed || name !== this.device.name || this.device.isLeaving)
      throw new VfioError('ENODEV', `GET_DEVICE_FD: the group has no device ${JSON.stringify(name)}`);
    if (!this.#container) throw new VfioError('EINVAL', 'GET_DEVICE_FD: no container is set');
    this.device.open(this.#container.requireIommu());
    this.#files++;
    return this.device;
  }

  unknownCall(): never {
    throw new VfioError('ENOTTY', 'unknown call');
  }

  releaseFile(): void {
    if (--this.#files === 0) this.#detach();
  }

  /** The device has gone: the container is left, and nothing can be opened any more. */
  remove(): void {
    this.#detach();
    this.#removed = true;
  }

  #detach(): void {
    this.#container?.detach(this);
    this.#container = undefined;
  }

  #checkPresent(): void {
    if (this.#removed) throw new VfioError('ENODEV', `${this.device.name} has been removed`);
  }
}

/** A mediated device, open zero or more times. */
export class VfioDevice implements Type1Device {
  readonly name: string;
  readonly dmaUnmap: Type1Device['dmaUnmap'];
  readonly #ops: DeviceOps;
  readonly #group: VfioGroup;
  #opens = 0;
  #iommu: Type1 | undefined;
  #quarantined = '';
  #whenClosed: (() => void) | undefined;

  constructor(name: string, ops: DeviceOps, group: VfioGroup) {
    this.name = name;
    this.#ops = ops;
    this.#group = group;
    this.dmaUnmap = ops.dmaUnmap ? (iova, size) => ops.dmaUnmap?.(iova, size) : undefined;
  }

  get isOpen(): boolean {
    return this.#opens > 0;
  }

  get isLeaving(): boolean {
    return this.#whenClosed !== undefined;
  }

  /** Why it may not use its IOMMU any more, or empty. */
  get quarantined(): string {
    return this.#quarantined;
  }

  /** The IOMMU its driver works with. @throws VfioError EINVAL (not open), ENODEV (quarantined) */
  get iommu(): Type1 {
    if (this.#quarantined !== '') throw new VfioError('ENODEV', `quarantined: ${this.#quarantined}`);
    if (!this.#iommu) throw new VfioError('EINVAL', `${this.name} is not open`);
    return this.#iommu;
  }

  open(iommu: Type1): void {
    if (this.#opens++ > 0) return;
    this.#iommu = iommu;
    iommu.register(this);
  }

  /** Closes one of its files; with the last, its driver may unpin before the IOMMU forgets it. */
  close(): void {
    if (--this.#opens === 0) {
      this.#ops.close?.();
      this.#iommu?.unregister(this);
      this.#iommu = undefined;
      this.#whenClosed?.();
    }
    this.#group.releaseFile();
  }

  /** Removes the device and its group, at once or when its last file is closed; `done` is called then. */
  remove(done: () => void): void {
    const finish = () => {
      this.#group.remove();
      done();
    };
    this.#whenClosed = finish;
    if (!this.isOpen) finish();
  }

  quarantine(detail: string): void {
    this.#quarantined = detail;
    this.#iommu?.unregister(this);
  }

  unknownCall(): never {
    throw new VfioError('ENOTTY', 'unknown call');
  }
}
