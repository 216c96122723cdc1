/**
 * A device's DMA address space and its switching (R1–R4, R6). It shows either system memory (identity) or the IOMMU's
 * translations, never both.
 */
import { nowUs } from '#host';
import { type Gpa, type Iova, offsetBy, PAGE_SIZE, PERM_RW, toIova } from '../memory/address.ts';
import type { DmaWindow } from '../memory/dma-window.ts';
import type { RamRegion } from '../memory/guest-ram.ts';
import { type Completion, whenDone } from '../platform/completion.ts';
import { MapBatcher } from './map-batcher.ts';
import type { IovaRange, MapNotifier, Translation, TranslationSource } from './notifier.ts';

/** `system`: guest RAM, identity-mapped. `iommu`: the translations of tables. `blocked`: nothing. */
export type AddressSpaceKind = 'system' | 'iommu' | 'blocked';

/** Exclusive upper bound of IOVAs, unless a source has its own limit: page tables translate at most 48 bits. */
export const IOVA_LIMIT = 2 ** 48;

/** A difference between a container and the guest's tables, found by {@link DeviceAddressSpace.audit}. */
export interface Divergence {
  readonly iova: Iova;
  readonly size: number;
  /** GPA in the container; undefined if nothing is mapped. */
  readonly held: Gpa | undefined;
  /** GPA in the tables; undefined if nothing is mapped. */
  readonly expected: Gpa | undefined;
}

/** An audit reports at most this many differences. */
export const DIVERGENCE_LIMIT = 16;

export interface SwitchCounters {
  switches: number;
  syncs: number;
  mapEvents: number;
  unmapEvents: number;
  /** Translations that could not be mapped: not RAM, or no space. */
  refused: number;
}

/** Called when a switch is complete: a change of kind, or of the tables within `iommu`. */
export type SwitchObserver = (from: AddressSpaceKind, to: AddressSpaceKind, tookUs: number) => void;

/** One device's address space. It keeps its kind and the mappings behind its notifier in step. */
export class DeviceAddressSpace {
  readonly requesterId: number;
  readonly counters: SwitchCounters = { switches: 0, syncs: 0, mapEvents: 0, unmapEvents: 0, refused: 0 };
  readonly #notifier: MapNotifier;
  readonly #ram: readonly RamRegion[];
  readonly #switched: SwitchObserver;
  #kind: AddressSpaceKind = 'blocked';
  #source: TranslationSource | undefined;

  constructor(
    requesterId: number,
    notifier: MapNotifier,
    ram: readonly RamRegion[],
    switched: SwitchObserver = () => {},
  ) {
    this.requesterId = requesterId;
    this.#notifier = notifier;
    this.#ram = ram;
    this.#switched = switched;
  }

  get kind(): AddressSpaceKind {
    return this.#kind;
  }

  /** Switches the device to identity-mapped guest RAM. */
  enterSystem(): Completion {
    if (this.#kind === 'system') return undefined;
    return this.#replaceAll('system', undefined, () => {
      for (const region of this.#ram) this.#map(toIova(region.gpa), region.gpa, region.size, PERM_RW);
    });
  }

  /** Passes the windows for all further mappings to the container. Nothing may be mapped outside them. */
  setWindows(windows: readonly DmaWindow[]): void {
    this.#notifier.windows?.(windows);
  }

  /** Switches the device to nothing: its context entry is absent or invalid. */
  enterBlocked(): Completion {
    if (this.#kind === 'blocked') return undefined;
    return this.#replaceAll('blocked', undefined, () => {});
  }

  /**
   * Switches the device to the translations of `source`. Coming from another kind, everything is removed and replayed.
   * Coming from other tables (a domain change), only the differences change.
   */
  enterIommu(source: TranslationSource): Completion {
    if (this.#kind !== 'iommu') return this.#replaceAll('iommu', source, () => this.#replay(source));
    this.#source = source;
    const since = this.#begin();
    return whenDone(this.#sync(source, 0, limitOf(source), true), () => this.#end('iommu', since));
  }

  /**
   * Updates the container from the tables in [start, end): unmaps what the tables no longer have, then maps what is
   * new. Sends no event for an unchanged translation. Does nothing unless the kind is `iommu`.
   */
  sync(start: number, end: number): Completion {
    if (this.#kind !== 'iommu' || !this.#source) return undefined;
    return this.#sync(this.#source, start, end);
  }

  /** Compares the container with a full walk of the tables, or with RAM in system memory. */
  audit(): Divergence[] {
    const found: Divergence[] = [];
    const source = this.#expectation();
    const report = (divergence: Divergence) => {
      if (found.length < DIVERGENCE_LIMIT) found.push(divergence);
    };
    this.#notifier.forEachMapping(0, limitOf(source), (iova, gpa, size, perm) => {
      const leaf = source.leafAt(iova);
      if (leaf?.iova === iova && leaf.gpa === gpa && leaf.size === size && leaf.perm === perm) return;
      report({ iova, size, held: gpa, expected: leaf && offsetBy(leaf.gpa, iova - leaf.iova) });
    });
    source.walk(0, limitOf(source), (iova, gpa, size) => {
      if (!this.#notifier.mappingAt(iova) && this.#inRam(gpa, size))
        report({ iova, size, held: undefined, expected: gpa });
    });
    return found;
  }

  /** Maps everything. Adjacent pages go to the notifier in batches. */
  #replay(source: TranslationSource): void {
    const pages = new MapBatcher(this.#notifier, (iova, gpa, size, perm) => this.#map(iova, gpa, size, perm));
    source.walk(0, limitOf(source), (iova, gpa, size, perm) => {
      if (size === PAGE_SIZE) return pages.add(iova, gpa, perm);
      return pages.flush() && this.#map(iova, gpa, size, perm);
    });
    pages.flush();
    this.counters.mapEvents += pages.mapped;
  }

  #replaceAll(kind: AddressSpaceKind, source: TranslationSource | undefined, replay: () => void): Completion {
    const from = this.#kind;
    const since = this.#begin();
    // R2: the mappings of the new kind appear only after no device can use those of the old kind.
    return whenDone(this.#notifier.unmapAll(), () => {
      this.#kind = kind;
      this.#source = source;
      replay();
      this.#end(from, since);
    });
  }

  #begin(): number {
    this.counters.switches++;
    this.#notifier.switchBegin();
    return nowUs();
  }

  #end(from: AddressSpaceKind, since: number): void {
    this.#notifier.switchEnd();
    this.#switched(from, this.#kind, nowUs() - since);
  }

  /** `switching`: a switch has already begun. */
  #sync(source: TranslationSource, start: number, end: number, switching = false): Completion {
    this.counters.syncs++;
    if (end - start === PAGE_SIZE) {
      const [leaf, held] = [source.leafAt(start), this.#notifier.mappingAt(start)];
      if (isPageAt(start, leaf) && isPageAt(start, held))
        return this.#syncPage(source, start as Iova, held, leaf, switching);
    }
    const [from, to] = this.#hull(source, start, end);
    const stale: IovaRange[] = [];
    let gap = false;
    this.#notifier.forEachMapping(from, to, (iova, gpa, size, perm) => {
      const leaf = source.leafAt(iova);
      if (leaf?.iova === iova && leaf.gpa === gpa && leaf.size === size && leaf.perm === perm) return;
      stale.push({ iova, size });
      gap ||= leaf !== undefined && !switching;
    });
    const mapNew = () =>
      source.walk(from, to, (iova, gpa, size, perm) => {
        if (!this.#notifier.has(iova, gpa, size, perm)) this.#map(iova, gpa, size, perm);
      });
    if (stale.length === 0) {
      mapNew();
      return undefined;
    }
    this.counters.unmapEvents += stale.length;
    // Hardware replaces an entry in one step. A device must not fault between our unmap and map.
    if (gap) this.#notifier.switchBegin();
    return whenDone(this.#notifier.unmap(stale), () => {
      mapNew();
      if (gap) this.#notifier.switchEnd();
    });
  }

  /** {@link sync} of a single page, the usual case of strict guests. No larger leaf or mapping covers it. */
  #syncPage(
    source: TranslationSource,
    iova: Iova,
    held: Translation | undefined,
    leaf: Translation | undefined,
    switching: boolean,
  ): Completion {
    if (!held) {
      if (leaf) this.#map(iova, leaf.gpa, PAGE_SIZE, leaf.perm);
      return undefined;
    }
    if (leaf && leaf.gpa === held.gpa && leaf.perm === held.perm) return undefined;
    this.counters.unmapEvents++;
    const gap = leaf !== undefined && !switching;
    if (gap) this.#notifier.switchBegin();
    const unmapped = this.#notifier.unmap([{ iova, size: PAGE_SIZE }]);
    const finish = (now: Translation | undefined) => {
      if (now) this.#map(now.iova, now.gpa, now.size, now.perm);
      if (gap) this.#notifier.switchEnd();
    };
    // The guest may have changed the entry while we waited for devices.
    if (unmapped) return unmapped.then(() => finish(source.leafAt(iova)));
    finish(leaf);
    return undefined;
  }

  /** Widens [start, end) until no mapping or translation straddles its ends: superpages change as a whole. */
  #hull(source: TranslationSource, start: number, end: number): [number, number] {
    let [from, to] = [start, Math.min(end, limitOf(source))];
    for (let grown = true; grown; ) {
      grown = false;
      for (const edge of [from, lastOf(to)])
        for (const cover of [source.leafAt(edge), this.#notifier.mappingAt(edge)]) {
          if (!cover) continue;
          if (cover.iova < from) [from, grown] = [cover.iova, true];
          if (cover.iova + cover.size > to) [to, grown] = [cover.iova + cover.size, true];
        }
    }
    return [from, to];
  }

  /** Maps one translation. Returns false when no further mapping is accepted, which ends a walk of garbage tables. */
  #map(iova: Iova, gpa: Gpa, size: number, perm: number): boolean {
    this.counters.mapEvents++;
    const outcome = this.#notifier.map(iova, gpa, size, perm);
    if (outcome !== 'mapped') this.counters.refused++;
    return outcome !== 'full';
  }

  #inRam(gpa: number, size: number): boolean {
    return this.#ram.some((region) => gpa >= region.gpa && gpa + size <= region.gpa + region.size);
  }

  /** Returns the translations that the container should hold. */
  #expectation(): TranslationSource {
    if (this.#kind === 'iommu' && this.#source) return this.#source;
    return identity(this.#kind === 'system' ? this.#ram : []);
  }
}

/** True for undefined, and for a translation of exactly the page at `iova`. */
const isPageAt = (iova: number, translation: Translation | undefined): boolean =>
  translation === undefined || (translation.iova === iova && translation.size === PAGE_SIZE);

const limitOf = (source: TranslationSource): number => source.limit ?? IOVA_LIMIT;

/** Returns an address in the last page below `end`. From 2^53 on, `end - 1` is not representable as a float64. */
const lastOf = (end: number): number => (end % PAGE_SIZE === 0 ? end - PAGE_SIZE : end - 1);

/** Returns system memory as a translation source: each RAM region maps to itself. */
function identity(ram: readonly RamRegion[]): TranslationSource {
  return {
    walk(start, end, visit) {
      for (const { gpa, size } of ram)
        if (gpa < end && gpa + size > start) visit(toIova(gpa), gpa, size, PERM_RW);
    },
    leafAt(iova) {
      const region = ram.find(({ gpa, size }) => iova >= gpa && iova < gpa + size);
      return region && { iova: toIova(region.gpa), ...region, perm: PERM_RW };
    },
  };
}
