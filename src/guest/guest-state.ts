/**
 * What a guest's drivers know beside RAM and hardware, as it travels to another host: plain JSON, from the same software
 * over the hosts' own connection. Whether it is meant for this VM is checked here; its inner shapes are not.
 */
import type { DmaBuffer } from './iommu/dma-api.ts';
import type { DmaDomain, GuestDomain } from './iommu/guest-iommu.ts';
import type { IovaAllocatorState } from './iommu/iova-allocator.ts';
import type { VirtioIommuDriverState } from './iommu/virtio/driver.ts';
import type { PageAllocatorState } from './page-allocator.ts';
import type { GuestTask } from './protocol.ts';

/** Of the shapes below and of all that they contain. */
export const GUEST_STATE_VERSION = 2;

/** A device as its guest sees it. */
interface GuestDeviceState {
  readonly name: string;
  /** The DMA API's domain by its number; null for identity. */
  readonly domain: number | null;
  /** The `vgpu` driver's own; null for a device without a driver. */
  readonly driver: unknown;
  readonly lost: boolean;
}

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

/** Pages mapped for a device, as JSON: what a script keeps of its {@link DmaBuffer}. */
export interface SavedDmaBuffer {
  readonly pages: readonly number[];
  readonly iovas: readonly number[];
  /** The domain's number; null for identity. */
  readonly domain: number | null;
}

/** Thrown for a state that is not meant for this VM. */
export class GuestStateError extends Error {
  override name = 'GuestStateError';
}

/** What a VM from another host brings along, if it does. @throws GuestStateError for what is not this VM's */
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

/** Finds domains by number. */
type DomainFinder = (id: number) => GuestDomain | undefined;

/** @throws GuestStateError for a number that no driver of this guest knows */
export function domainOf(id: number | null, find: DomainFinder): GuestDomain | undefined {
  if (id === null) return undefined;
  const domain = find(id);
  if (!domain) throw new GuestStateError(`the guest's driver for the vIOMMU has no domain ${id}`);
  return domain;
}

/** @throws GuestStateError for a domain of a driver that is a script's own */
export function numberOf(domain: DmaDomain | undefined, find: DomainFinder): number | null {
  if (!domain) return null;
  const { id } = domain as Partial<GuestDomain>;
  if (id === undefined || find(id) !== domain)
    throw new GuestStateError("a DMA mapping's domain was not made by the VM's own driver for its vIOMMU");
  return id;
}

/** @throws GuestStateError as {@link numberOf} */
export const saveBuffer = ({ pages, iovas, domain }: DmaBuffer, find: DomainFinder): SavedDmaBuffer => ({
  pages: [...pages],
  iovas: [...iovas],
  domain: numberOf(domain, find),
});

/** @throws GuestStateError as {@link domainOf} */
export const restoreBuffer = ({ pages, iovas, domain }: SavedDmaBuffer, find: DomainFinder): DmaBuffer => ({
  pages: pages as DmaBuffer['pages'],
  iovas: iovas as DmaBuffer['iovas'],
  domain: domainOf(domain, find),
});
