/**
 * Container files, groups and devices, and the calls that each state allows.
 *
 * Every mediated device has its own group. A group stays open until its own file and all files of its device are
 * closed. When a container's last group leaves, its IOMMU and every mapping are removed.
 */
import { VfioError } from '../errors.ts';
import { Type1, type Type1Device, type Type1Options } from './type1.ts';
import { API_VERSION, Extension, GROUP_CONTAINER_SET, GROUP_VIABLE } from './vfio-uapi.ts';

/** Operations of a device driver. */
export interface DeviceOps {
  readonly dmaUnmap?: ((iova: bigint, size: bigint) => void) | undefined;
  /** Called when the last file of the device is closed. The driver may still unpin. */
  close?(): void;
}

/** Result of CHECK_EXTENSION, given the container's IOMMU. It is 0 for all other extensions. */
const EXTENSIONS: ReadonlyMap<number, (iommu?: Type1) => number> = new Map<number, (iommu?: Type1) => number>(
  [
    [Extension.type1, () => 1],
    [Extension.type1v2, () => 1],
    // No device of such a container is behind a real IOMMU, so none can be incoherent.
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

  /** @throws VfioError EINVAL (no group, already set, or an extension that is not an IOMMU), ENODEV (unknown) */
  setIommu(type: number): void {
    if (this.groups.size === 0 || this.#iommu)
      throw new VfioError('EINVAL', 'SET_IOMMU: no group, or already set');
    if (this.checkExtension(type) === 0) throw new VfioError('ENODEV', `SET_IOMMU: type ${type} is unknown`);
    if (type !== Extension.type1 && type !== Extension.type1v2)
      throw new VfioError('EINVAL', `SET_IOMMU: extension ${type} is not an IOMMU`);
    this.#iommu = new Type1({ ...this.#options, v2: type === Extension.type1v2 });
  }

  /** Returns the IOMMU, which all other calls need. @throws VfioError EINVAL */
  requireIommu(): Type1 {
    if (!this.#iommu) throw new VfioError('EINVAL', 'the container has no IOMMU');
    return this.#iommu;
  }

  /** Refuses an unknown call. @throws VfioError EINVAL (no IOMMU), ENOTTY */
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
  /** Count of open files: the group's own and those of its device. */
  #files = 0;
  #removed = false;

  constructor(name: string, ops: DeviceOps) {
    this.device = new VfioDevice(name, ops, this);
  }

  get container(): VfioContainer | undefined {
    return this.#container;
  }

  /** @throws VfioError ENODEV (removed), EBUSY (already open) */
  open(): void {
    this.#checkPresent();
    if (this.#files > 0) throw new VfioError('EBUSY', `the group of ${this.device.name} is already open`);
    this.#files = 1;
  }

  /** Closes the group's own file. The group stays open while its device is open. */
  close(): void {
    this.releaseFile();
  }

  /** @throws VfioError ENODEV */
  status(): number {
    this.#checkPresent();
    return GROUP_VIABLE | (this.#container ? GROUP_CONTAINER_SET : 0);
  }

  /**
   * @param file object that the descriptor refers to, or undefined
   * @throws VfioError EBADF, EINVAL (already set), ENODEV (removed), EBADFD (not a container)
   */
  setContainer(file: unknown): void {
    if (file === undefined) throw new VfioError('EBADF', 'SET_CONTAINER: no such descriptor');
    if (this.#container) throw new VfioError('EINVAL', 'SET_CONTAINER: already set');
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
   * Opens another file of the group's device; {@link VfioDevice.close} closes it.
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

  /** Leaves the container and refuses every later open, because the device is removed. */
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

  /** Reason why the device may no longer use its IOMMU, or empty. */
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

  /** Closes one file. With the last one, the driver may unpin before the device leaves the IOMMU. */
  close(): void {
    if (--this.#opens === 0) {
      this.#ops.close?.();
      this.#iommu?.unregister(this);
      this.#iommu = undefined;
      this.#whenClosed?.();
    }
    this.#group.releaseFile();
  }

  /** Removes the device and its group, at once or when the last file is closed. Then calls `done`. */
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
