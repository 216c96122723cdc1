/**
 * The guest's drivers for the vIOMMU of its VM: started on first use, or restored with the VM.
 */
import { Doorbell } from '../channel/doorbell.ts';
import type { Gate } from '../channel/gate.ts';
import { MmioPort, REGION_BAR0 } from '../channel/mmio-channel.ts';
import type { GuestRam } from '../memory/guest-ram.ts';
import type { SavedGuest } from './guest-state.ts';
import { InFlightError } from './in-flight.ts';
import { createGuestIommu, type GuestIommuParts, restoreGuestIommu } from './iommu/create-guest-iommu.ts';
import type { GuestDomain, GuestIommu } from './iommu/guest-iommu.ts';
import { VirtioIommuDriver } from './iommu/virtio/driver.ts';
import { Lazy } from './lazy.ts';
import type { PageAllocator } from './page-allocator.ts';
import type { GuestTask } from './protocol.ts';
import type { RegisterPort } from './register-port.ts';

/** Saved drivers; null for one that was not started. */
type SavedVmIommu = Pick<SavedGuest, 'iommu' | 'virtioIommu'>;

/** The drivers behind GuestVm.iommu and GuestVm.virtioIommu. */
export class VmIommu {
  readonly #task: GuestTask;
  readonly #ram: GuestRam;
  readonly #pages: PageAllocator;
  readonly #iommu: Lazy<GuestIommu>;
  readonly #virtioIommu: Lazy<VirtioIommuDriver>;
  /** One port for all drivers: two ports would confuse each other's answers. */
  readonly #port: MmioPort;

  /**
   * @param pages below 4 GiB, for tables and queues
   * @param saved drivers of the VM on its last host; undefined for a VM that boots
   * @param gate while it is closed, because the VM is paused, register accesses wait
   */
  constructor(
    task: GuestTask,
    ram: GuestRam,
    pages: PageAllocator,
    saved: SavedVmIommu | undefined,
    gate: Gate,
  ) {
    this.#task = task;
    const { coordinatorDoorbell, coordinatorSenders, coordinatorBit, iommuMmio } = task;
    const doorbell = new Doorbell(coordinatorDoorbell, 0, coordinatorSenders);
    this.#port = new MmioPort(iommuMmio, 0, () => doorbell.ring(coordinatorBit), undefined, gate);
    this.#ram = ram;
    this.#pages = pages;
    const virtioIommu = saved?.virtioIommu
      ? VirtioIommuDriver.restore(this.registers(), ram, pages, saved.virtioIommu)
      : undefined;
    this.#virtioIommu = new Lazy(virtioIommu);
    this.#iommu = new Lazy(
      saved?.iommu ? restoreGuestIommu({ ...this.#parts, virtioIommu }, saved.iommu) : undefined,
    );
  }

  /** See GuestVm.iommu. */
  iommu(): Promise<GuestIommu> {
    return this.#iommu.get(() => createGuestIommu({ ...this.#parts, virtioIommu: () => this.virtioIommu() }));
  }

  /** See GuestVm.virtioIommu. */
  async virtioIommu(): Promise<VirtioIommuDriver> {
    const { vm, viommu } = this.#task;
    if (viommu !== 'virtio') throw new Error(`VM ${vm} has vIOMMU '${viommu}', not 'virtio'`);
    return this.#virtioIommu.get(() => VirtioIommuDriver.create(this.registers(), this.#ram, this.#pages));
  }

  /** Returns the vIOMMU's registers. */
  registers(): RegisterPort {
    return {
      write: (offset, size, value) => this.#port.write(REGION_BAR0, offset, size, value),
      read: (offset, size) => this.#port.read(REGION_BAR0, offset, size),
    };
  }

  /** Finds a domain of the started drivers by ID. */
  readonly findDomain = (id: number): GuestDomain | undefined =>
    this.#iommu.value?.domain(id) ?? this.#virtioIommu.value?.domain(id);

  /** @throws InFlightError while a driver is starting, or register accesses wait for room */
  expectIdle(): void {
    const starting = this.#iommu.starting || this.#virtioIommu.starting;
    const what = [...this.#port.unfinished];
    if (starting) what.push("the start of the vIOMMU's driver");
    if (what.length > 0) throw new InFlightError(`VM ${this.#task.vm}`, what);
  }

  /** @throws InFlightError */
  save(): SavedVmIommu {
    return {
      virtioIommu: this.#virtioIommu.value?.save() ?? null,
      iommu: this.#iommu.value?.save() ?? null,
    };
  }

  get #parts(): Omit<GuestIommuParts, 'virtioIommu'> {
    const { viommu, params, devices, fault } = this.#task;
    return {
      viommu,
      ram: this.#ram,
      pages: this.#pages,
      params,
      requesterIds: devices.map(({ requesterId }) => requesterId),
      fault,
      registers: () => this.registers(),
    };
  }
}
