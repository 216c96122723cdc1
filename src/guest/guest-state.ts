/**
 * Saved state of a guest's drivers: what they know beside RAM and hardware, as plain JSON. It comes from the same
 * software over a connection of the hosts, so only its fit to this VM is checked here, not its inner shapes.
 */
import type { DmaBuffer } from './iommu/dma-api.ts';
import type { DmaDomain, GuestDomain } from './iommu/guest-iommu.ts';
import type { IovaAllocatorState } from './iommu/iova-allocator.ts';
import type { VirtioIommuDriverState } from './iommu/virtio/driver.ts';
import type { PageAllocatorState } from './page-allocator.ts';
import type { GuestTask } from './protocol.ts';

/** Version of the shapes below and of all that they contain. */
export const GUEST_STATE_VERSION = 3;

/** Saved state of one device. */
interface GuestDeviceState {
  readonly name: string;
  /** ID of the DMA API's domain; null for identity. */
  readonly domain: number | null;
  /** State of the `vgpu` driver; null for a device without a driver. */
  readonly driver: unknown;
  readonly lost: boolean;
}

/** State of all drivers of a guest. */
export interface SavedGuest {
  readonly version: number;
  readonly viommu: string;
  readonly prng: readonly number[];
  readonly lowPages: PageAllocatorState;
  readonly pages: PageAllocatorState;
  readonly iovas: IovaAllocatorState;
  readonly devices: readonly GuestDeviceState[];
  /** The driver behind `vm.virtioIommu()`; null if it was not started. */
  readonly virtioIommu: VirtioIommuDriverState | null;
  /** The driver behind `vm.iommu()`; null if it was not started. */
  readonly iommu: unknown;
}

/** A {@link DmaBuffer} as plain JSON, for a script's own state. */
export interface SavedDmaBuffer {
  /** GPAs of its pages, and their IOVAs. */
  readonly pages: readonly number[];
  readonly iovas: readonly number[];
  /** ID of the domain; null for identity. */
  readonly domain: number | null;
}

/** Thrown for a saved state that does not fit this VM. */
export class GuestStateError extends Error {
  override name = 'GuestStateError';
}

/**
 * Returns the saved state in a task; undefined for a VM that boots.
 * @throws GuestStateError for another VM's state
 */
export function savedStateOf({ snapshot, viommu, devices }: GuestTask): SavedGuest | undefined {
  if (!snapshot) return undefined;
  const state = (snapshot.drivers ?? {}) as Partial<SavedGuest>;
  if (state.version !== GUEST_STATE_VERSION)
    throw new GuestStateError(
      `the saved state of the guest's drivers has version ${state.version}; accepted: ${GUEST_STATE_VERSION}`,
    );
  if (state.viommu !== viommu)
    throw new GuestStateError(`the saved guest has vIOMMU '${state.viommu}', this VM has '${viommu}'`);
  const names = state.devices?.map(({ name }) => name) ?? [];
  if (names.length !== devices.length)
    throw new GuestStateError(`the saved guest has ${names.length} devices, this VM has ${devices.length}`);
  return state as SavedGuest;
}

/** Finds a domain by ID. */
type DomainFinder = (id: number) => GuestDomain | undefined;

/** Returns the domain with this ID; undefined for null. @throws GuestStateError for an unknown ID */
export function domainOf(id: number | null, find: DomainFinder): GuestDomain | undefined {
  if (id === null) return undefined;
  const domain = find(id);
  if (!domain) throw new GuestStateError(`the guest's driver for the vIOMMU has no domain ${id}`);
  return domain;
}

/** Returns the ID of a domain; null for undefined. @throws GuestStateError for a domain of a script's own driver */
export function idOf(domain: DmaDomain | undefined, find: DomainFinder): number | null {
  if (!domain) return null;
  const { id } = domain as Partial<GuestDomain>;
  if (id === undefined || find(id) !== domain)
    throw new GuestStateError(
      "the domain of a DMA API or buffer belongs to a driver of the script, not to the VM's own driver",
    );
  return id;
}

/** @throws GuestStateError as {@link idOf} */
export const saveBuffer = ({ pages, iovas, domain }: DmaBuffer, find: DomainFinder): SavedDmaBuffer => ({
  pages: [...pages],
  iovas: [...iovas],
  domain: idOf(domain, find),
});

/** @throws GuestStateError as {@link domainOf} */
export const restoreBuffer = ({ pages, iovas, domain }: SavedDmaBuffer, find: DomainFinder): DmaBuffer => ({
  pages: pages as DmaBuffer['pages'],
  iovas: iovas as DmaBuffer['iovas'],
  domain: domainOf(domain, find),
});
