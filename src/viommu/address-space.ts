/**
 * A device's DMA address space and its switching (R1–R4, R6). It shows either system memory (identity) or the IOMMU's
 * translations, never both.
 */
import { nowUs } from '#host';
import { type Gpa, type Iova, PAGE_SIZE, PERM_RW, toIova } from '../memory/address.ts';
import type { DmaWindow } from '../memory/dma-window.ts';
import type { RamRegion } from '../memory/guest-ram.ts';
import { type Completion, whenDone } from '../platform/completion.ts';
import {
  DIVERGENCE_LIMIT,
  type Divergence,
  type Lacking,
  lackingIn,
  readDivergences,
  Suspects,
} from './audit.ts';
import { MapBatcher } from './map-batcher.ts';
import {
  type IovaRange,
  limitOf,
  type MapNotifier,
  type Translation,
  type TranslationSource,
  type TranslationVisitor,
} from './notifier.ts';
import { RamParts } from './ram-parts.ts';
import { UnmappedLog } from './unmapped-log.ts';

/** `system`: guest RAM, identity-mapped. `iommu`: the translations of tables. `blocked`: nothing. */
export type AddressSpaceKind = 'system' | 'iommu' | 'blocked';

export interface SwitchCounters {
  switches: number;
  syncs: number;
  mapEvents: number;
  unmapEvents: number;
  /** Translations that could not be mapped whole: not RAM, or no space. */
  refused: number;
}

/** A complete switch: a change of kind, or of the tables within `iommu`. */
export interface CompletedSwitch {
  readonly from: AddressSpaceKind;
  readonly to: AddressSpaceKind;
  readonly startUs: number;
  /** Time until no device could use the mappings of the old kind; 0 for a change of tables. */
  readonly removedUs: number;
  readonly tookUs: number;
}

/** Observer of switches, which come one after the other. */
export interface SwitchObserver {
  /** A switch begins. The container still holds all mappings. */
  begins(): void;
  switched(complete: CompletedSwitch): void;
}

const NO_OBSERVER: SwitchObserver = { begins: () => {}, switched: () => {} };

/**
 * One device's address space. It keeps its kind and the mappings behind its notifier in step.
 *
 * Of the guest's translations it maps the parts that lie in RAM. Those for which the container has no room are mapped as
 * soon as an unmap makes room: a guest cannot see that they are missing, and will not announce them again.
 */
export class DeviceAddressSpace {
  readonly requesterId: number;
  readonly counters: SwitchCounters = { switches: 0, syncs: 0, mapEvents: 0, unmapEvents: 0, refused: 0 };
  /** Translations that could not be mapped, or only in part. */
  readonly unmapped = new UnmappedLog();
  readonly #notifier: MapNotifier;
  readonly #suspects = new Suspects();
  readonly #ram: readonly RamRegion[];
  readonly #observer: SwitchObserver;
  #kind: AddressSpaceKind = 'blocked';
  #source: RamParts | undefined;
  /** Lowest IOVA of a translation for which the container had no room. */
  #hungryFrom = Number.POSITIVE_INFINITY;
  /** True if the container has refused a mapping of the current kind. Without, it lacks none. */
  #wasRefused = false;

  constructor(
    requesterId: number,
    notifier: MapNotifier,
    ram: readonly RamRegion[],
    observer: SwitchObserver = NO_OBSERVER,
  ) {
    this.requesterId = requesterId;
    this.#notifier = notifier;
    this.#ram = ram;
    this.#observer = observer;
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

  /** Has the device's interrupt messages go to the vIOMMU, or pass as they are. */
  remapInterrupts(on: boolean): void {
    this.#notifier.remapInterrupts?.(on);
  }

  /** Switches the device to nothing: its context entry is absent or invalid. */
  enterBlocked(): Completion {
    if (this.#kind === 'blocked') return undefined;
    return this.#replaceAll('blocked', undefined, () => {});
  }

  /**
   * Switches the device to the translations of `tables`. Coming from another kind, everything is removed and replayed.
   * Coming from other tables (a domain change), only the differences change.
   */
  enterIommu(tables: TranslationSource): Completion {
    const source = new RamParts(tables, this.#ram);
    if (this.#kind !== 'iommu') return this.#replaceAll('iommu', source, () => this.#replay(source));
    this.#source = source;
    const since = this.#begin();
    return whenDone(this.#sync(source, 0, limitOf(source), true), () => this.#end('iommu', since, since));
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
    return this.#read(DIVERGENCE_LIMIT);
  }

  /**
   * Begins an audit while the guest works: notes every difference as a suspect. An innocent guest has begun to announce
   * its change. Returns the count of suspects.
   */
  beginAudit(): number {
    return this.#suspects.begin(this.#read(Suspects.limit));
  }

  /**
   * Ends an audit, when all that the guest had begun is complete. Returns the suspects that no invalidation has covered
   * and that are still the same.
   */
  endAudit(): Divergence[] {
    return this.#suspects.end(() => this.#read(Suspects.limit)).slice(0, DIVERGENCE_LIMIT);
  }

  /** Returns the translations that the container lacks because it cannot hold them; undefined if it lacks none. */
  lacking(): Lacking | undefined {
    return this.#wasRefused ? lackingIn(this.#expectation(), this.#notifier) : undefined;
  }

  /** Returns why the container cannot hold the translation that covers `iova`; undefined if it can or does. */
  refusalAt(iova: number): string | undefined {
    const leaf = this.#notifier.mappingAt(iova) ? undefined : this.#expectation().leafAt(iova);
    return leaf && this.#notifier.refusal?.(leaf.iova, leaf.gpa, leaf.size, leaf.perm);
  }

  #read(limit: number): Divergence[] {
    return readDivergences(this.#expectation(), this.#notifier, limit);
  }

  /**
   * Maps everything. Adjacent pages go to the notifier in batches, which it maps only if all of them are RAM. The others
   * are cut to RAM one by one.
   */
  #replay(source: RamParts): void {
    const end = limitOf(source);
    const mapParts = source.cut(
      0,
      end,
      (iova, gpa, size, perm) => this.#map(iova, gpa, size, perm),
      this.#outside,
    );
    const pages = new MapBatcher(this.#notifier, mapParts);
    source.whole.walk(0, end, (iova, gpa, size, perm) => {
      if (size === PAGE_SIZE) return pages.add(iova, gpa, perm);
      return pages.flush() && mapParts(iova, gpa, size, perm);
    });
    pages.flush();
    this.counters.mapEvents += pages.mapped;
  }

  #replaceAll(kind: AddressSpaceKind, source: RamParts | undefined, replay: () => void): Completion {
    const from = this.#kind;
    const since = this.#begin();
    this.#suspects.explain(0, Number.POSITIVE_INFINITY);
    // R2: the mappings of the new kind appear only after no device can use those of the old kind.
    return whenDone(this.#notifier.unmapAll(), () => {
      const removed = nowUs();
      this.#hungryFrom = Number.POSITIVE_INFINITY;
      this.#wasRefused = false;
      this.#kind = kind;
      this.#source = source;
      replay();
      this.#end(from, since, removed);
    });
  }

  #begin(): number {
    this.counters.switches++;
    this.#observer.begins();
    this.#notifier.switchBegin();
    return nowUs();
  }

  #end(from: AddressSpaceKind, startUs: number, removed: number): void {
    this.#notifier.switchEnd();
    const [removedUs, tookUs] = [removed - startUs, nowUs() - startUs];
    this.#observer.switched({ from, to: this.#kind, startUs, removedUs, tookUs });
  }

  /** `switching`: a switch has already begun. */
  #sync(source: RamParts, start: number, end: number, switching = false): Completion {
    this.counters.syncs++;
    if (end - start === PAGE_SIZE) {
      this.#suspects.explain(start, end);
      const [leaf, held] = [source.leafAt(start), this.#notifier.mappingAt(start)];
      if (isPageAt(start, leaf) && isPageAt(start, held))
        return this.#syncPage(source, start as Iova, held, leaf, switching);
    }
    const [from, to] = this.#hull(source, start, end);
    this.#suspects.explain(from, to);
    const stale: IovaRange[] = [];
    let gap = false;
    this.#notifier.forEachMapping(from, to, (iova, gpa, size, perm) => {
      const leaf = source.leafAt(iova);
      if (leaf?.iova === iova && leaf.gpa === gpa && leaf.size === size && leaf.perm === perm) return;
      stale.push({ iova, size });
      gap ||= leaf !== undefined && !switching;
    });
    const mapNew = () => {
      const add: TranslationVisitor = (iova, gpa, size, perm) =>
        this.#notifier.has(iova, gpa, size, perm) || this.#map(iova, gpa, size, perm);
      source.walk(from, to, add, this.#outside);
    };
    if (stale.length === 0) {
      mapNew();
      return undefined;
    }
    this.counters.unmapEvents += stale.length;
    // Hardware replaces an entry in one step. A device must not fault between our unmap and map.
    if (gap) this.#notifier.switchBegin();
    return whenDone(this.#notifier.unmap(stale), () => {
      mapNew();
      this.#useRoom(source);
      if (gap) this.#notifier.switchEnd();
    });
  }

  /** {@link sync} of a single page, the usual case of strict guests. No larger leaf or mapping covers it. */
  #syncPage(
    source: RamParts,
    iova: Iova,
    held: Translation | undefined,
    leaf: Translation | undefined,
    switching: boolean,
  ): Completion {
    if (!held) {
      if (leaf) this.#map(iova, leaf.gpa, PAGE_SIZE, leaf.perm);
      else source.walk(iova, iova + PAGE_SIZE, () => true, this.#outside);
      return undefined;
    }
    if (leaf && leaf.gpa === held.gpa && leaf.perm === held.perm) return undefined;
    this.counters.unmapEvents++;
    const gap = leaf !== undefined && !switching;
    if (gap) this.#notifier.switchBegin();
    const unmapped = this.#notifier.unmap([{ iova, size: PAGE_SIZE }]);
    const finish = (now: Translation | undefined) => {
      if (now) this.#map(now.iova, now.gpa, now.size, now.perm);
      this.#useRoom(source);
      if (gap) this.#notifier.switchEnd();
    };
    // The guest may have changed the entry while we waited for devices.
    if (unmapped) return unmapped.then(() => finish(source.leafAt(iova)));
    finish(leaf);
    return undefined;
  }

  /** Widens [start, end) until no mapping or translation straddles its ends: superpages change as a whole. */
  #hull(source: RamParts, start: number, end: number): [number, number] {
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
    if (outcome === 'mapped') return true;
    this.#wasRefused = true;
    this.counters.refused++;
    const isFull = outcome === 'full';
    if (isFull) this.#hungryFrom = Math.min(this.#hungryFrom, iova);
    const reason = this.#notifier.refusal?.(iova, gpa, size, perm) ?? WHY_NOT[outcome];
    this.unmapped.refused({ iova, size }, isFull ? `${reason}; mapped when there is room` : reason);
    return !isFull;
  }

  /** Notes a translation of which a part lies outside RAM. */
  readonly #outside: TranslationVisitor = (iova, gpa, size, perm) => {
    this.counters.refused++;
    const partly = this.#ram.some((region) => gpa < region.gpa + region.size && gpa + size > region.gpa);
    this.unmapped.outsideRam({ iova, gpa, size, perm }, partly);
  };

  /** Maps the translations for which there was no room, from the lowest on, until there is no room again. */
  #useRoom(source: RamParts): void {
    const from = this.#hungryFrom;
    if (from === Number.POSITIVE_INFINITY) return;
    this.#hungryFrom = Number.POSITIVE_INFINITY;
    const add: TranslationVisitor = (iova, gpa, size, perm) => {
      let isFree = true;
      this.#notifier.forEachMapping(iova, iova + size, () => {
        isFree = false;
        return false;
      });
      // The guest may have changed other entries, which it has not announced yet.
      return !isFree || this.#map(iova, gpa, size, perm);
    };
    source.walk(from, limitOf(source), add, this.#outside);
  }

  /** Returns the translations that the container should hold. */
  #expectation(): TranslationSource {
    if (this.#kind === 'iommu' && this.#source) return this.#source;
    return identity(this.#kind === 'system' ? this.#ram : []);
  }
}

/** Reasons for a failed map event, where the notifier tells none. */
const WHY_NOT = { full: 'there is no room', refused: 'another mapping is in the way' } as const;

/** True for undefined, and for a translation of exactly the page at `iova`. */
const isPageAt = (iova: number, translation: Translation | undefined): boolean =>
  translation === undefined || (translation.iova === iova && translation.size === PAGE_SIZE);

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
