/**
 * The devices behind a unit, and what the context cache holds of each: which address space it is in, for which domain.
 */
import { FUNCTION_MASKS } from '../../pci/vtd-format.ts';
import { type DeviceAddressSpace, IOVA_LIMIT } from '../address-space.ts';
import type { Completion } from '../notifier.ts';
import { all } from './command-serial.ts';
import type { Invalidation } from './invalidation.ts';
import type { SecondLevelTables } from './second-level.ts';

/** A device's context as last read. A context that is not present is cached, if at all, under domain 0 (CAP.CM). */
export type Resolution =
  | { readonly kind: 'system' | 'blocked'; readonly domainId: number }
  | { readonly kind: 'iommu'; readonly domainId: number; readonly tables: SecondLevelTables };

interface Device {
  readonly space: DeviceAddressSpace;
  cached: Resolution;
}

export class AttachedDevices {
  readonly #devices = new Map<number, Device>();
  readonly #resolve: (requesterId: number) => Resolution;

  /** @param resolve reads a device's context entry now */
  constructor(resolve: (requesterId: number) => Resolution) {
    this.#resolve = resolve;
  }

  attach(space: DeviceAddressSpace): Completion {
    const cached = this.#resolve(space.requesterId);
    this.#devices.set(space.requesterId, { space, cached });
    return enter(space, cached);
  }

  detach(requesterId: number): void {
    this.#devices.delete(requesterId);
  }

  /** The domain under which a device's context is cached; undefined if it is not attached. */
  domainOf(requesterId: number): number | undefined {
    return this.#devices.get(requesterId)?.cached.domainId;
  }

  /** Reads every context again. `flush`: also compare the translations of those that did not change. */
  refreshAll(flush: boolean): Completion {
    return this.#each(
      () => true,
      (device) => this.#refresh(device, flush),
    );
  }

  /** Complete when no affected device can use what was cached before. */
  apply(request: Invalidation): Completion {
    switch (request.kind) {
      case 'context-global':
        return this.refreshAll(false);
      case 'context-domain':
        return this.#each(inDomain(request.domainId), (device) => this.#refresh(device, false));
      case 'context-device': {
        const compared = ~(FUNCTION_MASKS[request.functionMask] as number);
        return this.#each(
          ({ space }) => ((space.requesterId ^ request.requesterId) & compared) === 0,
          (device) => this.#refresh(device, false),
        );
      }
      case 'iotlb-global':
        return this.#each(
          () => true,
          ({ space }) => space.sync(0, IOVA_LIMIT),
        );
      case 'iotlb-domain':
        return this.#each(inDomain(request.domainId), ({ space }) => space.sync(0, IOVA_LIMIT));
      case 'iotlb-page':
        return this.#each(inDomain(request.domainId), ({ space }) =>
          request.start < IOVA_LIMIT ? space.sync(request.start, request.end) : undefined,
        );
      case 'none':
        return undefined;
    }
  }

  #refresh(device: Device, flush: boolean): Completion {
    const before = device.cached;
    const now = this.#resolve(device.space.requesterId);
    device.cached = now;
    if (before.kind !== 'iommu' || now.kind !== 'iommu' || !sameTables(before.tables, now.tables))
      return enter(device.space, now);
    return flush ? device.space.sync(0, IOVA_LIMIT) : undefined;
  }

  #each(matches: (device: Device) => boolean, act: (device: Device) => Completion): Completion {
    const works: Completion[] = [];
    for (const device of this.#devices.values()) if (matches(device)) works.push(act(device));
    return all(works);
  }
}

const inDomain =
  (domainId: number) =>
  ({ cached }: Device): boolean =>
    cached.domainId === domainId;

const sameTables = (a: SecondLevelTables, b: SecondLevelTables): boolean =>
  a.root === b.root && a.levels === b.levels;

function enter(space: DeviceAddressSpace, resolution: Resolution): Completion {
  if (resolution.kind === 'iommu') return space.enterIommu(resolution.tables);
  return resolution.kind === 'system' ? space.enterSystem() : space.enterBlocked();
}
