/**
 * The DMA maps of one client, in the device's container and pin table. A map with a file leads to host memory. A map
 * without one leads to a bus address below all host memory, where the client reads and writes for the device.
 *
 * The thread that serves the socket is the pin table's writer and its only reader (R5), so an unmap finds no DMA section
 * open. It asks the device to unpin, and is complete when nothing can use the range (R6).
 */
import type { PeerOutcome } from '../channel/peer-block.ts';
import type { DmaPeers } from '../device/dma.ts';
import { hex, type Iova, PAGE_SIZE, PERM_READ, PERM_WRITE } from '../memory/address.ts';
import { HPA_BASE } from '../memory/host-memory.ts';
import { type Completion, whenDone } from '../platform/completion.ts';
import type { Container } from '../vfio/container.ts';
import { VfioError } from '../vfio/errors.ts';
import type { DmaMapping } from '../vfio/mapping.ts';
import { endOf } from '../vfio/mapping-rules.ts';
import type { ClientMemory } from './client-memory.ts';
import type { GuestFile, GuestWindows } from './guest-windows.ts';
import { ExclusiveCheck, type Side, type SidedMap, sideShown } from './identity-check.ts';

/** Most DMA maps of one device. */
export const SERVED_MAPS_LIMIT: number = 2 ** 18;

/** IOVAs below it have the same bus address. The others get one from here up to the host memory. */
const HIGH_BUS_BASE: number = HPA_BASE / 2;

/** A DMA_MAP request. */
export interface MapRequest {
  readonly address: bigint;
  readonly size: bigint;
  readonly offset: bigint;
  readonly flags: number;
  /** A descriptor of the memory, which stays the caller's; undefined for memory by messages. */
  readonly fd: number | undefined;
}

/** Kinds of a device's addresses: not known yet, those of guest RAM, or those of a vIOMMU. */
type SpaceName = 'blocked' | 'system' | 'iommu';

/** The parts of a device that its DMA space uses. */
interface DmaSpaceParts {
  readonly container: Container;
  readonly windows: GuestWindows;
  readonly client: ClientMemory;
  /** Called when the first map of another address space than before arrives. */
  switched(from: SpaceName, to: SpaceName): void;
  /** Called for a rule that is broken. */
  violation(kind: string, detail: string): void;
  /** Returns the pin table's entry of an IOVA; 0 for none. */
  lookup(iova: Iova): number;
  /** Called before mappings are removed: the device drops its pins, a log takes their dirty pages. */
  beforeUnmap(mappings: readonly DmaMapping[]): void;
}

const SPACE_END: bigint = 2n ** 64n;
/** Addresses up to here are exact numbers; the container accepts less. */
const EXACT_END: bigint = 2n ** 53n;
const PAGE: bigint = BigInt(PAGE_SIZE);

export class DmaSpace implements DmaPeers {
  /** The largest count of live maps so far. */
  peakMaps = 0;
  /** Count of maps that the last unmap has removed. */
  lastRemoved = 0;
  /** Count of maps that arrived while maps of the other side were live (R2). */
  mixedMaps = 0;
  readonly #parts: DmaSpaceParts;
  /** IOVAs of the maps by messages with a high bus address, by that address. */
  readonly #high = new Map<number, DmaMapping>();
  #nextHigh = HIGH_BUS_BASE;
  readonly #exclusive = new ExclusiveCheck();
  #space: SpaceName = 'blocked';
  /** Sides of the live maps, by IOVA. */
  readonly #sides = new Map<number, SidedMap>();

  constructor(parts: DmaSpaceParts) {
    this.#parts = parts;
  }

  get liveMaps(): number {
    return this.#parts.container.liveMappings;
  }

  /** Returns the live maps in ascending order of their IOVAs, at most `limit`. */
  ranges(limit: number): readonly DmaMapping[] {
    return this.#within(0, Number.POSITIVE_INFINITY, limit);
  }

  /** Maps a range. @throws VfioError */
  map(request: MapRequest): void {
    const { address, size, flags } = request;
    const isRange = size > 0n && address % PAGE === 0n && size % PAGE === 0n;
    if (!isRange || address + size > EXACT_END)
      throw new VfioError('EINVAL', `map of ${hex(address)} +${hex(size)}; accepted: page-aligned`);
    if (flags < 1 || flags > 3) throw new VfioError('EINVAL', `flags ${hex(flags)}; accepted: 1 to 3`);
    const [iova, bytes] = [Number(address) as Iova, Number(size)];
    if (request.fd === undefined) this.#mapByMessages(iova, bytes, flags);
    else this.#mapFile(request, request.fd, iova, bytes);
    this.peakMaps = Math.max(this.peakMaps, this.liveMaps);
  }

  /**
   * Removes the maps that lie in a range; no map at all is no error. A map that straddles an end stays.
   * @throws VfioError EINVAL for a range that is a part of a map
   */
  unmap(address: bigint, size: bigint): Completion {
    if (size === 0n || address % PAGE !== 0n || size % PAGE !== 0n || address + size > SPACE_END)
      throw new VfioError(
        'EINVAL',
        `unmap of ${hex(address)} +${hex(size)}; accepted: page-aligned, in 64 bits`,
      );
    const [start, end] = [Number(address), Number(address + size)];
    const touched = this.#within(start, end);
    const inside = touched.filter((mapping) => mapping.iova >= start && endOf(mapping) <= end);
    if (touched.length > 0 && inside.length === 0)
      throw new VfioError('EINVAL', `unmap of ${hex(address)} +${hex(size)} is a part of a map`);
    return this.#remove(inside);
  }

  /** Removes every map of a client that has gone. */
  leave(): Completion {
    return whenDone(this.unmapAll(), () => this.#enter('blocked'));
  }

  /** Removes every map. */
  unmapAll(): Completion {
    return this.#remove(this.#within(0, Number.POSITIVE_INFINITY));
  }

  /** Reads or writes memory that only the client reaches. */
  access(isWrite: boolean, address: number, bytes: Uint8Array): PeerOutcome {
    if (address < HIGH_BUS_BASE) return this.#parts.client.access(isWrite, address as Iova, bytes);
    for (const [base, { iova, size }] of this.#high)
      if (address >= base && address < base + size)
        return this.#parts.client.access(isWrite, (iova + address - base) as Iova, bytes);
    return 'refused';
  }

  #mapByMessages(iova: Iova, size: number, perm: number): void {
    const { container } = this.#parts;
    if (iova + size <= HIGH_BUS_BASE) {
      container.map(iova, iova, size, perm);
      this.#added(iova, 'gpa');
      return;
    }
    if (this.#high.size === 0) this.#nextHigh = HIGH_BUS_BASE;
    const bus = this.#nextHigh;
    if (bus + size > HPA_BASE)
      throw new VfioError('ENOSPC', `map of ${hex(iova)} +${hex(size)} without a descriptor`);
    container.map(iova, bus, size, perm);
    this.#added(iova, 'gpa');
    this.#high.set(bus, { iova, size, vaddr: bus, perm });
    this.#nextHigh = bus + size;
  }

  #mapFile({ offset, flags }: MapRequest, fd: number, iova: Iova, size: number): void {
    const { windows, container } = this.#parts;
    const file = windows.open(fd);
    checkAccess(file, flags);
    if (offset % PAGE !== 0n || offset + BigInt(size) > BigInt(file.length))
      throw new VfioError(
        'EINVAL',
        `offset ${hex(offset)} +${hex(size)} in a file of ${hex(file.length)} bytes`,
      );
    container.map(iova, windows.addressOf(file, Number(offset)), size, flags);
    file.maps++;
    const shown = { iova, size, offset: Number(offset), hasFd: true };
    this.#added(iova, sideShown(shown, file.length));
  }

  /** Notes the side of a new map, and counts one that arrives while maps of the other side are live. */
  #added(iova: Iova, shown: Side): void {
    const map = { side: this.#exclusive.sideNow(shown) };
    if (this.#exclusive.othersOf(map.side) > 0) this.mixedMaps++;
    this.#exclusive.add(map);
    this.#sides.set(iova, map);
    if (map.side !== 'open') this.#enter(map.side === 'gpa' ? 'system' : 'iommu');
  }

  #enter(space: SpaceName): void {
    if (space === this.#space) return;
    this.#parts.switched(this.#space, space);
    this.#space = space;
  }

  /** Checks that the pin table has nothing of an unmapped range any more (R6), by its ends. */
  #checkGone({ iova, size }: DmaMapping): void {
    const side = this.#sides.get(iova);
    if (side) this.#exclusive.remove(side);
    this.#sides.delete(iova);
    for (const at of [iova, iova + size - PAGE_SIZE])
      if (this.#parts.lookup(at as Iova) !== 0)
        this.#parts.violation('stale-map', `IOVA ${hex(at)} still leads to memory after its unmap`);
  }

  #within(start: number, end: number, limit = Number.POSITIVE_INFINITY): DmaMapping[] {
    const found: DmaMapping[] = [];
    this.#parts.container.forEach(start, end, (iova, size, vaddr, perm) => {
      found.push({ iova: iova as Iova, size, vaddr, perm });
      return found.length < limit;
    });
    return found;
  }

  #remove(mappings: readonly DmaMapping[]): Completion {
    this.lastRemoved = mappings.length;
    if (mappings.length === 0) return undefined;
    const { container, client, windows, beforeUnmap } = this.#parts;
    for (const { iova, size, vaddr } of mappings)
      if (vaddr < HPA_BASE) {
        this.#high.delete(vaddr);
        client.forget(iova, iova + size);
      }
    beforeUnmap(mappings);
    return whenDone(container.unmapMappings(mappings), () => {
      for (const mapping of mappings) {
        const { vaddr } = mapping;
        this.#checkGone(mapping);
        const file = vaddr < HPA_BASE ? undefined : windows.fileAt(vaddr);
        if (file) file.maps--;
      }
    });
  }
}

function checkAccess(file: GuestFile, perm: number): void {
  if (((perm & PERM_READ) !== 0 && !file.canRead) || ((perm & PERM_WRITE) !== 0 && !file.canWrite))
    throw new VfioError('EACCES', `permission ${perm} in a file that is not open for it`);
}
