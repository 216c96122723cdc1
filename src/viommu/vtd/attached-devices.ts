/**
 * The devices behind a unit, each with its cached context: the kind of its address space and its domain.
 */
import { FUNCTION_MASKS, RID_PASID } from '../../abi/vtd.ts';
import { all, type Completion } from '../../platform/completion.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import { IOVA_LIMIT } from '../notifier.ts';
import type { Invalidation } from './invalidation.ts';
import type { DomainTables } from './page-tables.ts';

/** A device's context as last read. With CAP.CM, a context that is not present is cached under domain 0. */
export type Resolution =
  | { readonly kind: 'system' | 'blocked'; readonly domainId: number }
  | { readonly kind: 'iommu'; readonly domainId: number; readonly tables: DomainTables };

interface Device {
  readonly space: DeviceAddressSpace;
  cached: Resolution;
}

export class AttachedDevices {
  readonly #devices = new Map<number, Device>();
  /** Devices by the domain id of their cached context, so that an invalidation visits only the affected devices. */
  readonly #byDomain = new Map<number, Set<Device>>();
  readonly #resolve: (requesterId: number) => Resolution;
  readonly #contextsHaveDomains: () => boolean;
  #remapsInterrupts = false;

  /**
   * @param resolve reads a device's context entry now
   * @param contextsHaveDomains returns true if a domain-selective context invalidation affects one domain only
   */
  constructor(resolve: (requesterId: number) => Resolution, contextsHaveDomains: () => boolean) {
    this.#resolve = resolve;
    this.#contextsHaveDomains = contextsHaveDomains;
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
    space.remapInterrupts(this.#remapsInterrupts);
    return enter(space, cached);
  }

  /** Has the interrupts of all devices remapped, also of those that are attached later, or lets them pass. */
  remapInterrupts(on: boolean): void {
    if (on === this.#remapsInterrupts) return;
    this.#remapsInterrupts = on;
    for (const { space } of this.#devices.values()) space.remapInterrupts(on);
  }

  detach(requesterId: number): void {
    const device = this.#devices.get(requesterId);
    if (device) this.#unindex(device);
    this.#devices.delete(requesterId);
  }

  /** Domain under which a device's context is cached; undefined if it is not attached. */
  domainOf(requesterId: number): number | undefined {
    return this.#devices.get(requesterId)?.cached.domainId;
  }

  /** Rereads every context. `flush`: also compares the translations of devices whose context did not change. */
  refreshAll(flush: boolean): Completion {
    return this.#each(
      () => true,
      (device) => this.#refresh(device, flush),
    );
  }

  /** Performs an invalidation. Complete when no affected device can use what was cached before. */
  apply(request: Invalidation): Completion {
    const rereads = this.#rereadBy(request);
    if (rereads) return this.#each(rereads, (device) => this.#refresh(device, false));
    const works: Completion[] = [];
    for (const { space, cached } of this.#flushedBy(request)) {
      const [start, end] = rangeFor(cached, request);
      if (start < IOVA_LIMIT) works.push(space.sync(start, end));
    }
    return all(works);
  }

  /** Devices whose translations are invalidated. Their requests carry no PASID and therefore use RID_PASID. */
  #flushedBy(request: Invalidation): Iterable<Device> {
    switch (request.kind) {
      case 'iotlb-global':
        return this.#devices.values();
      case 'iotlb-domain':
      case 'iotlb-page':
        return this.#byDomain.get(request.domainId) ?? [];
      case 'piotlb-pasid':
      case 'piotlb-page':
        return (request.pasid === RID_PASID && this.#byDomain.get(request.domainId)) || [];
      default:
        return [];
    }
  }

  /** Selects the devices whose context and PASID entry are reread; undefined for other kinds of invalidation. */
  #rereadBy(request: Invalidation): ((device: Device) => boolean) | undefined {
    switch (request.kind) {
      case 'context-global':
      case 'pasid-global':
        return () => true;
      case 'context-domain':
        // A scalable-mode context entry has no domain id: all entries are affected.
        return this.#contextsHaveDomains() ? inDomain(request.domainId) : () => true;
      case 'context-device': {
        const compared = ~(FUNCTION_MASKS[request.functionMask] as number);
        return ({ space }) => ((space.requesterId ^ request.requesterId) & compared) === 0;
      }
      case 'pasid-domain':
        return blockedOrIn(request.domainId);
      case 'pasid-one':
        return request.pasid === RID_PASID ? blockedOrIn(request.domainId) : () => false;
      default:
        return undefined;
    }
  }

  #refresh(device: Device, flush: boolean): Completion {
    const before = device.cached;
    const now = this.#resolve(device.space.requesterId);
    this.#unindex(device);
    device.cached = now;
    this.#index(device);
    if (before.kind !== 'iommu' || now.kind !== 'iommu' || !sameTables(before.tables, now.tables))
      return enter(device.space, now);
    return flush ? device.space.sync(0, IOVA_LIMIT) : undefined;
  }

  #index(device: Device): void {
    const { domainId } = device.cached;
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

/** Guests announce a PASID entry that becomes present under its new domain id, not under domain 0. */
const blockedOrIn =
  (domainId: number) =>
  ({ cached }: Device): boolean =>
    cached.kind === 'blocked' || cached.domainId === domainId;

/**
 * Returns the IOVAs that an invalidation affects. A page-selective IOTLB invalidation drops every first-stage
 * translation of its domain (section 6.5.2.3): only PASID-based invalidations name first-stage pages.
 */
function rangeFor(cached: Resolution, request: Invalidation): readonly [start: number, end: number] {
  const whole = request.kind === 'iotlb-page' && cached.kind === 'iommu' && cached.tables.stage === 1;
  return 'start' in request && !whole ? [request.start, request.end] : [0, IOVA_LIMIT];
}

const sameTables = (a: DomainTables, b: DomainTables): boolean =>
  a.stage === b.stage && a.root === b.root && a.levels === b.levels && a.width === b.width;

function enter(space: DeviceAddressSpace, resolution: Resolution): Completion {
  if (resolution.kind === 'iommu') return space.enterIommu(resolution.tables);
  return resolution.kind === 'system' ? space.enterSystem() : space.enterBlocked();
}
