/**
 * The guest's root and context tables and, in scalable mode, PASID tables: the domain of each device.
 *
 * Entries are written in place, also over present ones, the word with the present bit last. So a device changes from
 * its old page tables to the new ones without a moment in which it is blocked.
 */

import * as vtd from '../../../abi/vtd.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { Descriptor } from '../command-ring.ts';
import { contextDevice, pasidCache } from './descriptors.ts';

/** Target of an entry. `root` is the GPA of the top-level page table; undefined for pass-through. */
interface DeviceTarget {
  readonly domainId: number;
  readonly levels: number;
  readonly root: number | undefined;
}

/** State of the tables: their GPAs. */
export interface DeviceTablesState {
  readonly root: number;
  /** Context tables by bus; in scalable mode by half bus. */
  readonly contexts: readonly (readonly [bus: number, table: number])[];
  /** PASID tables by requester ID; empty in legacy mode. */
  readonly pasids: readonly (readonly [requesterId: number, table: number])[];
}

/** The tables of one mode. Changes return the invalidations after which hardware uses the new entry. */
export interface DeviceTables {
  /** Value of RTADDR: root table and mode. */
  readonly rootPointer: bigint;
  /**
   * Writes the entry of a device.
   * @param cachedDomain domain ID under which hardware may have cached the old entry
   * @throws PageAllocatorExhausted
   */
  set(requesterId: number, target: DeviceTarget, cachedDomain: number): readonly Descriptor[];
  /** Clears the entry of a device. */
  clear(requesterId: number, cachedDomain: number): readonly Descriptor[];
  save(): DeviceTablesState;
}

/** Root and context tables of legacy mode, sections 9.1 and 9.3. Allocates one page, and one for each bus. */
export class ContextTables implements DeviceTables {
  readonly #ram: GuestRam;
  readonly #pages: PageAllocator;
  readonly #root: number;
  readonly #tables: Map<number, number>;

  /** @param saved tables that are in guest RAM already */
  constructor(ram: GuestRam, pages: PageAllocator, saved?: DeviceTablesState) {
    this.#ram = ram;
    this.#pages = pages;
    this.#root = saved?.root ?? pages.allocate();
    this.#tables = new Map(saved?.contexts);
  }

  save(): DeviceTablesState {
    return { root: this.#root, contexts: [...this.#tables], pasids: [] };
  }

  get rootPointer(): bigint {
    return BigInt(this.#root);
  }

  set(requesterId: number, { domainId, levels, root }: DeviceTarget, cachedDomain: number): Descriptor[] {
    const type = root === undefined ? vtd.TT_PASS_THROUGH : vtd.TT_MULTI_LEVEL;
    const entry = this.#entry(requesterId);
    this.#ram.write32(entry + 12, 0);
    this.#ram.write32(entry + 8, (levels - 2) | (domainId << vtd.CONTEXT_DID_SHIFT));
    writePointer(this.#ram, entry, root ?? 0, (type << vtd.CONTEXT_TT_SHIFT) | vtd.CONTEXT_P);
    return [contextDevice(cachedDomain, requesterId)];
  }

  clear(requesterId: number, cachedDomain: number): Descriptor[] {
    this.#ram.write32(this.#entry(requesterId), 0);
    return [contextDevice(cachedDomain, requesterId)];
  }

  /** Returns the GPA of a device's context entry; creates the context table of its bus if necessary. */
  #entry(requesterId: number): number {
    const bus = requesterId >>> 8;
    let table = this.#tables.get(bus);
    if (table === undefined) {
      table = this.#pages.allocate();
      this.#tables.set(bus, table);
      writePointer(this.#ram, this.#root + bus * vtd.ROOT_ENTRY_BYTES, table, vtd.ROOT_P);
    }
    return table + (requesterId & 0xff) * vtd.CONTEXT_ENTRY_BYTES;
  }
}

/**
 * Root, context and PASID tables of scalable mode, sections 9.2 and 9.4 to 9.6. Allocates one page, one for each half
 * bus, and two for each device: a PASID directory and a PASID table, which have an entry for RID_PASID alone.
 */
export class PasidTables implements DeviceTables {
  readonly #ram: GuestRam;
  readonly #pages: PageAllocator;
  readonly #type: number;
  readonly #root: number;
  /** By half bus, and by requester ID. */
  readonly #contextTables: Map<number, number>;
  readonly #pasidTables: Map<number, number>;

  /**
   * @param type PGTT of a device with tables: PGTT_FIRST_STAGE or PGTT_SECOND_STAGE
   * @param saved tables that are in guest RAM already
   */
  constructor(ram: GuestRam, pages: PageAllocator, type: number, saved?: DeviceTablesState) {
    this.#ram = ram;
    this.#pages = pages;
    this.#type = type;
    this.#root = saved?.root ?? pages.allocate();
    this.#contextTables = new Map(saved?.contexts);
    this.#pasidTables = new Map(saved?.pasids);
  }

  save(): DeviceTablesState {
    return { root: this.#root, contexts: [...this.#contextTables], pasids: [...this.#pasidTables] };
  }

  get rootPointer(): bigint {
    return BigInt(this.#root) | vtd.RTADDR_TTM_SCALABLE;
  }

  set(requesterId: number, target: DeviceTarget, cachedDomain: number): Descriptor[] {
    const known = this.#pasidTables.has(requesterId);
    this.#writeEntry(this.#entry(requesterId), target);
    const pasid = pasidCache(cachedDomain, vtd.RID_PASID);
    return known ? [pasid] : [contextDevice(cachedDomain, requesterId), pasid];
  }

  clear(requesterId: number, cachedDomain: number): Descriptor[] {
    this.#ram.write32(this.#entry(requesterId), 0);
    return [pasidCache(cachedDomain, vtd.RID_PASID)];
  }

  #writeEntry(entry: number, { domainId, levels, root }: DeviceTarget): void {
    const type = root === undefined ? vtd.PGTT_PASS_THROUGH : this.#type;
    const firstStage = type === vtd.PGTT_FIRST_STAGE;
    const width = (levels - 2) << vtd.PASID_AW_SHIFT;
    this.#ram.write32(entry + 8, domainId);
    writePointer(this.#ram, entry + 16, firstStage ? (root ?? 0) : 0, 0);
    const low = (type << vtd.PASID_PGTT_SHIFT) | width | vtd.PASID_P;
    writePointer(this.#ram, entry, firstStage ? 0 : (root ?? 0), low);
  }

  /**
   * Returns the GPA of the entry for RID_PASID; creates the device's directory, table and context entry if necessary.
   */
  #entry(requesterId: number): number {
    let table = this.#pasidTables.get(requesterId);
    if (table === undefined) {
      table = this.#pages.allocate();
      this.#pasidTables.set(requesterId, table);
      const directory = this.#pages.allocate();
      writePointer(this.#ram, directory, table, vtd.PASID_DIR_P);
      const context = this.#contextEntry(requesterId);
      this.#ram.write32(context + 8, vtd.RID_PASID);
      writePointer(this.#ram, context, directory, vtd.CONTEXT_P);
    }
    return table + vtd.RID_PASID * vtd.PASID_ENTRY_BYTES;
  }

  #contextEntry(requesterId: number): number {
    const half = Math.floor(requesterId / vtd.SM_CONTEXT_ENTRIES);
    let table = this.#contextTables.get(half);
    if (table === undefined) {
      table = this.#pages.allocate();
      this.#contextTables.set(half, table);
      writePointer(this.#ram, this.#root + half * vtd.SM_ROOT_HALF_BYTES, table, vtd.ROOT_P);
    }
    return table + (requesterId % vtd.SM_CONTEXT_ENTRIES) * vtd.SM_CONTEXT_ENTRY_BYTES;
  }
}

/** Writes an address with `bits` below it, the high word first. */
function writePointer(ram: GuestRam, entry: number, gpa: number, bits: number): void {
  ram.write32(entry + 4, Math.floor(gpa / 2 ** 32));
  ram.write32(entry, (gpa % 2 ** 32) + bits);
}
