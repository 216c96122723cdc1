/**
 * The machine of a vector: its process, its mdevs, and its open files by name.
 */
import { MDPY_MODES } from '../../abi/mdpy.ts';
import { MTTY_PORTS } from '../../abi/mtty.ts';
import { VECTOR_INSTANCES, VECTOR_PARENTS } from '../../mdev/recorded-parents.ts';
import { MdevRegistry } from '../../mdev/registry.ts';
import { SysfsTree } from '../../mdev/sysfs.ts';
import { DMA_ENTRY_LIMIT } from '../../vfio/mapping-rules.ts';
import { VfioContainer, type VfioDevice, VfioGroup } from '../../vfio/uapi/group.ts';
import type { Type1Violation } from '../../vfio/uapi/type1.ts';
import { type Eventfd, SampleDevice } from './device-model.ts';
import { Mdpy } from './mdpy.ts';
import { Mtty } from './mtty.ts';
import { ProcessMemory } from './process-memory.ts';
import { type Callback, TestDriver } from './test-driver.ts';

/** UUIDs of the mdevs that exist at boot, by their names in the vectors. */
const BOOT_NAMES: Readonly<Record<string, string>> = {
  m0: 'a0000000-0000-0000-0000-000000000000',
  m1: 'a0000000-0000-0000-0000-000000000001',
  n0: 'b0000000-0000-0000-0000-000000000000',
  t0: 'c0000000-0000-0000-0000-000000000000',
  t1: 'c0000000-0000-0000-0000-000000000001',
  y0: 'd0000000-0000-0000-0000-000000000000',
};
/** First letter of the names for the instance that the vector created last. */
const MADE_HERE = 'x';

/** One mdev with its group. It is created when a vector first names it. */
export interface Mdev {
  readonly uuid: string;
  readonly group: VfioGroup;
  readonly driver: TestDriver;
  readonly model: SampleDevice;
}

/** An open file of a device. */
export interface DeviceFile {
  readonly mdev: Mdev;
  readonly device: VfioDevice;
}

export class VfioMachine {
  readonly registry = new MdevRegistry();
  readonly sysfs = new SysfsTree(this.registry);
  readonly containers = new Map<string, VfioContainer>();
  readonly groups = new Map<string, Mdev>();
  readonly devices = new Map<string, DeviceFile>();
  readonly eventfds = new Map<string, Eventfd>();
  /** Callbacks and violations of the current step. */
  callbacks: Callback[] = [];
  violations: Type1Violation[] = [];
  entryLimit = DMA_ENTRY_LIMIT;
  process = ProcessMemory.fresh();
  /** UUID of the mdev that is being removed, or empty. */
  removing = '';
  readonly #parents: ProcessMemory[] = [];
  readonly #mdevs = new Map<string, Mdev>();

  constructor() {
    for (const spec of VECTOR_PARENTS) this.registry.addParent(spec);
    for (const [parent, type, uuid] of VECTOR_INSTANCES) this.registry.create(parent, type, uuid);
  }

  openContainer(name: string): void {
    const machine = this;
    const container = new VfioContainer({
      get entryLimit() {
        return machine.entryLimit;
      },
      onViolation: (violation) => this.violations.push(violation),
    });
    this.containers.set(name, container);
  }

  /** Returns the mdev of that name, or undefined if it does not exist. */
  mdev(name: string): Mdev | undefined {
    const uuid = BOOT_NAMES[name] ?? (name.startsWith(MADE_HERE) ? this.#lastMade() : undefined);
    const instance = uuid === undefined ? undefined : this.registry.get(uuid);
    if (!instance) return undefined;
    const known = this.#mdevs.get(instance.uuid);
    if (known) return known;
    const driver = new TestDriver(instance.type !== 'orc-nocb', (callback) => this.callbacks.push(callback));
    const group = new VfioGroup(instance.uuid, driver);
    driver.device = group.device;
    const mdev = { uuid: instance.uuid, group, driver, model: modelFor(instance.type) };
    this.#mdevs.set(instance.uuid, mdev);
    return mdev;
  }

  /** Returns the device's name in the group's namespace. */
  deviceName(name: string): string {
    return this.mdev(name)?.uuid ?? name;
  }

  /** Opens a device file. The mdev is open while it has any. @throws VfioError */
  openDevice(file: string, group: Mdev, name: string): void {
    const first = !group.group.device.isOpen;
    const device = group.group.getDevice(this.deviceName(name));
    if (first) {
      this.registry.get(group.uuid)?.open();
      group.driver.label = file;
    }
    this.devices.set(file, { mdev: group, device });
  }

  closeDevice(name: string, { mdev, device }: DeviceFile): void {
    this.devices.delete(name);
    device.close();
    if (device.isOpen) return;
    mdev.model.close();
    this.registry.get(mdev.uuid)?.close();
  }

  /** Removes an mdev's device, at once or with its last file, after a write to the mdev's `remove`. */
  removed(uuid: string): void {
    this.removing = uuid;
    this.#mdevs.get(uuid)?.group.device.remove(() => this.#mdevs.delete(uuid));
  }

  fork(): void {
    this.#parents.push(this.process);
    this.process = this.process.fork();
  }

  exitChild(): void {
    const parent = this.#parents.pop();
    if (!parent) return;
    this.process.alive = false;
    this.process = parent;
  }

  #lastMade(): string | undefined {
    const boot = new Set(Object.values(BOOT_NAMES));
    return [...this.registry.instances()].filter(({ uuid }) => !boot.has(uuid)).at(-1)?.uuid;
  }
}

/** Creates the driver of an mdev type. */
function modelFor(type: string): SampleDevice {
  const [ports, mode] = [MTTY_PORTS[type], MDPY_MODES[type]];
  if (ports !== undefined) return new Mtty(ports);
  return mode === undefined ? new SampleDevice() : new Mdpy(mode);
}
