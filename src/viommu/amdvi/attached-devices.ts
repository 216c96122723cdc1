/**
 * The devices behind a unit, each with its cached device table entry: the kind of its address space and its domain.
 */
import { all, type Completion } from '../../platform/completion.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import { IOVA_LIMIT } from '../notifier.ts';
import type { Invalidation } from './commands.ts';
import type { DeviceTables } from './tables.ts';

/** A device's entry as last read. */
export type Resolution =
  | { readonly kind: 'system' | 'blocked'; readonly domainId: number }
  | { readonly kind: 'iommu'; readonly domainId: number; readonly tables: DeviceTables };

interface Device {
  readonly space: DeviceAddressSpace;
  cached: Resolution;
}

export class AttachedDevices {
  readonly #devices = new Map<number, Device>();
  /** Translated devices by domain id, so that an invalidation visits only the affected devices. */
  readonly #byDomain = new Map<number, Set<Device>>();
  readonly #resolve: (requesterId: number) => Resolution;

  /** @param resolve reads a device's entry now */
  constructor(resolve: (requesterId: number) => Resolution) {
    this.#resolve = resolve;
  }

  get size(): number {
    return this.#devices.size;
  }

  attach(space: DeviceAddressSpace): Completion {
    const cached = this.#resolve(space.requesterId);
    this.detach(space.requesterId);
    const device = { space, cached };
    this.#devices.set(space.requesterId, device);
    this.#index(device);
    return enter(space, cached);
  }

  detach(requesterId: number): void {
    const device = this.#devices.get(requesterId);
    if (device) this.#unindex(device);
    this.#devices.delete(requesterId);
  }

  /** Performs an invalidation. Complete when no affected device can use what was cached before. */
  apply(request: Invalidation): Completion {
    switch (request.kind) {
      case 'all':
        return this.refreshAll();
      case 'device': {
        const device = this.#devices.get(request.requesterId);
        return device && this.#refresh(device, false);
      }
      case 'pages': {
        const devices = this.#byDomain.get(request.domainId);
        if (!devices || request.start >= IOVA_LIMIT) return undefined;
        if (devices.size === 1)
          for (const { space } of devices) return space.sync(request.start, request.end);
        return all([...devices].map(({ space }) => space.sync(request.start, request.end)));
      }
    }
  }

  /** Rereads every entry, and compares the translations of devices whose entry did not change. */
  refreshAll(): Completion {
    return all([...this.#devices.values()].map((device) => this.#refresh(device, true)));
  }

  #refresh(device: Device, flush: boolean): Completion {
    const before = device.cached;
    const now = this.#resolve(device.space.requesterId);
    this.#unindex(device);
    device.cached = now;
    this.#index(device);
    if (before.kind !== 'iommu' || now.kind !== 'iommu' || before.tables.key !== now.tables.key)
      return enter(device.space, now);
    return flush ? device.space.sync(0, IOVA_LIMIT) : undefined;
  }

  #index(device: Device): void {
    const { kind, domainId } = device.cached;
    if (kind !== 'iommu') return;
    const devices = this.#byDomain.get(domainId);
    if (devices) devices.add(device);
    else this.#byDomain.set(domainId, new Set([device]));
  }

  #unindex(device: Device): void {
    const { domainId } = device.cached;
    const devices = this.#byDomain.get(domainId);
    devices?.delete(device);
    if (devices?.size === 0) this.#byDomain.delete(domainId);
  }
}

function enter(space: DeviceAddressSpace, resolution: Resolution): Completion {
  if (resolution.kind === 'iommu') return space.enterIommu(resolution.tables);
  return resolution.kind === 'system' ? space.enterSystem() : space.enterBlocked();
}
