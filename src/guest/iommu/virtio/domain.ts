/**
 * One virtio-iommu domain of a guest, with what the guest has mapped in it.
 *
 * The device forgets a domain's mappings when its last endpoint leaves: the guest keeps them and maps them again for
 * the next first endpoint, as Linux does.
 */

import { S_OK, STATUS_NAMES } from '../../../abi/virtio-iommu.ts';
import { hex, isAligned } from '../../../memory/address.ts';
import { BTree } from '../../../memory/btree.ts';
import type { InFlight } from '../../in-flight.ts';
import { SharedMutex } from '../../mutex.ts';
import type { GuestDomain, MapRange, UnmapRange } from '../guest-iommu.ts';
import { mapRequest, unmapRequest } from './requests.ts';

/** Thrown when the device, or the driver for it, refuses a request. */
export class VirtioIommuError extends Error {
  /** The device's status by name; undefined if the driver did not ask it. */
  readonly status: string | undefined;
  constructor(what: string, status?: number) {
    const name = status === undefined ? undefined : (STATUS_NAMES[status] ?? String(status));
    super(name === undefined ? what : `${what}: the device answers ${name}`);
    this.name = 'VirtioIommuError';
    this.status = name;
  }
}

/** What a domain needs of its driver. */
export interface VirtioDomainHost {
  /** Smallest page, bytes. */
  readonly granule: number;
  readonly inFlight: InFlight;
  /** The status of each request, in order. */
  submit(requests: readonly Uint8Array[], what: string): Promise<number[]>;
}

/** What a domain knows; the device has it too, as long as somebody is in it. */
export interface VirtioIommuDomainState {
  readonly id: number;
  readonly bypass: boolean;
  readonly mapped: readonly (readonly [iova: number, gpa: number, size: number, perm: number])[];
  readonly endpoints: readonly number[];
}

const rangeText = ({ iova, size }: UnmapRange): string => `${hex(iova)} +${hex(size)}`;

export class VirtioIommuDomain implements GuestDomain {
  readonly id: number;
  readonly bypass: boolean;
  readonly #host: VirtioDomainHost;
  readonly #mapped = new BTree<number, MapRange>();
  readonly #endpoints = new Set<number>();
  /** Shared by map and unmap, exclusive to attach and detach. */
  readonly #attachLock = new SharedMutex();

  constructor(id: number, bypass: boolean, host: VirtioDomainHost) {
    this.id = id;
    this.bypass = bypass;
    this.#host = host;
  }

  /** One that goes on where another was: the device has its mappings, if anybody is in it. */
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

  /** Requester IDs of the devices in it. */
  get endpoints(): ReadonlySet<number> {
    return this.#endpoints;
  }

  /**
   * Resolves when devices see it.
   * @param size bytes, a multiple of the device's smallest page
   * @param perm PERM_READ | PERM_WRITE
   * @throws VirtioIommuError, RequestTimeout
   */
  map(iova: number, gpa: number, size: number, perm: number): Promise<void> {
    return this.mapAll([{ iova, gpa, size, perm }]);
  }

  /**
   * As {@link map} for several ranges with few notifications. When the device refuses one, the others stay mapped;
   * when one is no range that it could map, nothing is.
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
   * Removes every mapping in the range. Resolves, with the number of bytes that were mapped, when no device can use
   * them any more.
   * @throws VirtioIommuError if a mapping would be split, RequestTimeout
   */
  unmap(iova: number, size: number): Promise<number> {
    return this.unmapAll([{ iova, size }]);
  }

  /** As {@link unmap} for several ranges. When one throws, those before it are unmapped. */
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

  /** Lets `enter` put an endpoint in while nothing maps; the first one finds everything mapped afterwards. */
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

  /** Lets `leave` take an endpoint out while nothing maps. */
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

  /** All of them or, when one throws, none. */
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
        [iova, gpa, size].every((value) => Number.isSafeInteger(value) && isAligned(value, granule))
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
