/**
 * A virtio-iommu domain of a guest, with its mappings.
 *
 * The device drops the mappings of a domain when its last endpoint leaves. The guest keeps them and sends them again
 * for the next first endpoint, as Linux does.
 */

import { S_OK, STATUS_NAMES } from '../../../abi/virtio-iommu.ts';
import { hex, isAligned } from '../../../memory/address.ts';
import { BTree } from '../../../memory/btree.ts';
import type { InFlight } from '../../in-flight.ts';
import { SharedMutex } from '../../mutex.ts';
import type { GuestDomain, MapRange, UnmapRange } from '../guest-iommu.ts';
import { mapRequest, unmapRequest } from './requests.ts';

/** Thrown when the device or its driver refuses a request. */
export class VirtioIommuError extends Error {
  /** Name of the device's status; undefined if the driver refused the request. */
  readonly status: string | undefined;
  constructor(what: string, status?: number) {
    const name = status === undefined ? undefined : (STATUS_NAMES[status] ?? String(status));
    super(name === undefined ? what : `${what}: the device returned ${name}`);
    this.name = 'VirtioIommuError';
    this.status = name;
  }
}

/** Calls of a domain to its driver. */
export interface VirtioDomainHost {
  /** Size of the smallest page in bytes. */
  readonly granule: number;
  readonly inFlight: InFlight;
  /** Submits requests; resolves to the status of each, in order. */
  submit(requests: readonly Uint8Array[], what: string): Promise<number[]>;
}

/** State of a domain. The device has the mappings too if the domain has endpoints. */
export interface VirtioIommuDomainState {
  readonly id: number;
  readonly bypass: boolean;
  readonly mapped: readonly (readonly [iova: number, gpa: number, size: number, perm: number])[];
  readonly endpoints: readonly number[];
}

const rangeText = ({ iova, size }: UnmapRange): string => `${hex(iova)} +${hex(size)}`;

/** A domain of the virtio-iommu driver. */
export class VirtioIommuDomain implements GuestDomain {
  readonly id: number;
  /** True for a domain whose devices see system memory. */
  readonly bypass: boolean;
  readonly #host: VirtioDomainHost;
  readonly #mapped = new BTree<number, MapRange>();
  /** Ranges whose UNMAP is deferred. */
  #deferred: UnmapRange[] = [];
  readonly #endpoints = new Set<number>();
  /** Shared by map and unmap, exclusive to attach and detach. */
  readonly #attachLock = new SharedMutex();

  constructor(id: number, bypass: boolean, host: VirtioDomainHost) {
    this.id = id;
    this.bypass = bypass;
    this.#host = host;
  }

  /** Restores a domain; the device has its mappings already if the domain has endpoints. */
  static restore(saved: VirtioIommuDomainState, host: VirtioDomainHost): VirtioIommuDomain {
    const domain = new VirtioIommuDomain(saved.id, saved.bypass, host);
    for (const [iova, gpa, size, perm] of saved.mapped) domain.#mapped.set(iova, { iova, gpa, size, perm });
    for (const endpoint of saved.endpoints) domain.#endpoints.add(endpoint);
    return domain;
  }

  save(): VirtioIommuDomainState {
    return {
      id: this.id,
      bypass: this.bypass,
      mapped: [...this.#mapped.values()].map(({ iova, gpa, size, perm }) => [iova, gpa, size, perm]),
      endpoints: [...this.#endpoints],
    };
  }

  /** Requester IDs of the devices in this domain. */
  get endpoints(): ReadonlySet<number> {
    return this.#endpoints;
  }

  /**
   * Maps a range; resolves when devices see the mapping.
   * @param size bytes, a multiple of the device's smallest page
   * @param perm PERM_READ | PERM_WRITE
   * @throws VirtioIommuError, RequestTimeout
   */
  map(iova: number, gpa: number, size: number, perm: number): Promise<void> {
    return this.mapAll([{ iova, gpa, size, perm }]);
  }

  /**
   * Maps several ranges with few notifications; else as {@link map}. If the device refuses one, the others stay
   * mapped. If one is invalid, none is mapped.
   */
  mapAll(ranges: readonly MapRange[]): Promise<void> {
    return this.#share('map', async () => {
      this.#reserveAll(ranges);
      if (this.#endpoints.size === 0) return;
      const requests = ranges.map(({ iova, gpa, size, perm }) => mapRequest(this.id, iova, gpa, size, perm));
      const statuses = await this.#host.submit(requests, `MAP in domain ${this.id}`);
      const refused = statuses.findIndex((status) => status !== S_OK);
      for (const [i, { iova }] of ranges.entries()) if (statuses[i] !== S_OK) this.#mapped.delete(iova);
      this.#expect(refused, statuses, ranges, 'MAP');
    });
  }

  /**
   * Removes all mappings in a range. Resolves to the count of bytes that were mapped when no device can use the
   * mappings any more.
   * @throws VirtioIommuError if a mapping would be split, RequestTimeout
   */
  unmap(iova: number, size: number): Promise<number> {
    return this.unmapAll([{ iova, size }]);
  }

  /** Unmaps several ranges; else as {@link unmap}. If one throws, earlier ones are unmapped. */
  unmapAll(ranges: readonly UnmapRange[]): Promise<number> {
    return this.#share('unmap', async () => {
      let bytes = 0;
      const gone: UnmapRange[] = [];
      try {
        for (const range of ranges) {
          const found = this.#release(range);
          bytes += found;
          if (found > 0) gone.push(range);
        }
      } finally {
        if (this.#endpoints.size > 0) await this.#unmapDevices(gone);
      }
      return bytes;
    });
  }

  /** Removes the mappings of a range from the driver's record; the device uses them until {@link flush}. */
  unmapLazily(iova: number, size: number): Promise<number> {
    return this.#share('unmap', async () => {
      const found = this.#release({ iova, size });
      if (found > 0) this.#deferred.push({ iova, size });
      return found;
    });
  }

  /** Sends the UNMAP requests of all that {@link unmapLazily} has removed. @throws VirtioIommuError, RequestTimeout */
  flush(): Promise<void> {
    return this.#share('flush', async () => {
      const ranges = this.#deferred;
      this.#deferred = [];
      if (ranges.length > 0 && this.#endpoints.size > 0) await this.#unmapDevices(ranges);
    });
  }

  /** Adds an endpoint by `enter`, with no map or unmap in flight. After the first endpoint it sends all mappings. */
  admit(endpoint: number, enter: () => Promise<void>): Promise<void> {
    return this.#attachLock.runExclusive(async () => {
      await enter();
      const first = this.#endpoints.size === 0;
      this.#endpoints.add(endpoint);
      if (!first || this.bypass) return;
      const ranges = [...this.#mapped.values()];
      const requests = ranges.map(({ iova, gpa, size, perm }) => mapRequest(this.id, iova, gpa, size, perm));
      const statuses = await this.#host.submit(requests, `MAP in domain ${this.id}`);
      const refused = statuses.findIndex((status) => status !== S_OK);
      this.#expect(refused, statuses, ranges, 'MAP');
    });
  }

  /** Removes an endpoint by `leave`, with no map or unmap in flight. */
  dismiss(endpoint: number, leave: () => Promise<void>): Promise<void> {
    return this.#attachLock.runExclusive(async () => {
      await leave();
      this.#endpoints.delete(endpoint);
    });
  }

  #share<Result>(what: string, work: () => Promise<Result>): Promise<Result> {
    return this.#host.inFlight.run(what, () => this.#attachLock.runShared(work));
  }

  async #unmapDevices(ranges: readonly UnmapRange[]): Promise<void> {
    const requests = ranges.map(({ iova, size }) => unmapRequest(this.id, iova, size));
    const statuses = await this.#host.submit(requests, `UNMAP in domain ${this.id}`);
    const refused = statuses.findIndex((status) => status !== S_OK);
    this.#expect(refused, statuses, ranges, 'UNMAP');
  }

  #expect(refused: number, statuses: readonly number[], ranges: readonly UnmapRange[], what: string): void {
    if (refused < 0) return;
    const range = rangeText(ranges[refused] as UnmapRange);
    throw new VirtioIommuError(`${what} of ${range} in domain ${this.id}`, statuses[refused] as number);
  }

  /** Records the ranges; none if one is invalid. */
  #reserveAll(ranges: readonly MapRange[]): void {
    for (const [i, range] of ranges.entries())
      try {
        this.#reserve(range);
      } catch (error) {
        for (const { iova } of ranges.slice(0, i)) this.#mapped.delete(iova);
        throw error;
      }
  }

  #reserve(range: MapRange): void {
    const { granule } = this.#host;
    const { iova, gpa, size } = range;
    if (this.bypass) throw new VirtioIommuError(`domain ${this.id} is a bypass domain: it has no mappings`);
    if (
      !(
        size > 0 &&
        [iova, gpa, size].every(
          (value) => Number.isSafeInteger(value) && value >= 0 && isAligned(value, granule),
        )
      )
    )
      throw new VirtioIommuError(
        `${rangeText(range)} to ${hex(gpa)} is not a range of ${granule}-byte pages`,
      );
    const below = this.#mapped.getPairOrNextLower(iova + size - 1)?.[1];
    if (below && below.iova + below.size > iova)
      throw new VirtioIommuError(`${rangeText(range)} overlaps ${rangeText(below)}, which is mapped`);
    this.#mapped.set(iova, range);
  }

  #release(range: UnmapRange): number {
    const { iova, size } = range;
    const end = iova + size;
    const below = this.#mapped.getPairOrNextLower(iova)?.[1];
    const first = below && below.iova + below.size > iova ? below.iova : iova;
    const found: MapRange[] = [];
    this.#mapped.forRange(first, end, false, (_, mapped) => {
      found.push(mapped);
    });
    for (const mapped of found)
      if (mapped.iova < iova || mapped.iova + mapped.size > end)
        throw new VirtioIommuError(`${rangeText(range)} would split ${rangeText(mapped)}`);
    for (const mapped of found) this.#mapped.delete(mapped.iova);
    return found.reduce((sum, mapped) => sum + mapped.size, 0);
  }
}
