/**
 * The device table: an entry of 32 bytes for each device id (specification section 2.2.2).
 */

import * as amdvi from '../../abi/amdvi.ts';
import { PERM_RW } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Quirks } from '../quirks.ts';
import { addressOf, EntryDecoder, permOf } from './entries.ts';
import { blockedByEntry, deviceTableUnreadable, type Fault, illegalDeviceTableEntry } from './faults.ts';
import { HostPageTables, type OnWalked } from './page-tables.ts';
import type { AmdViCapabilities, AmdViRegisterFile } from './registers.ts';
import { type DeviceTables, ExcludingTables, type ExclusionRange, IdentityTables } from './tables.ts';

/** Handling of a device's requests. Without `tables` they are untranslated. */
export type DeviceEntry =
  | {
      readonly ok: true;
      readonly domainId: number;
      readonly tables: DeviceTables | undefined;
      readonly suppress: Suppress;
    }
  | {
      readonly ok: false;
      readonly domainId: number;
      readonly fault: (write: boolean) => Fault;
      readonly suppress: Suppress;
    };

/** Events of page faults that the entry suppresses: none, all, or all after the first (SA, SE). */
type Suppress = 'none' | 'all' | 'later';

/** Reserved bits of words 5 to 7, which QEMU checks although they do not concern DMA. */
const QEMU_RESERVED = [0x0030_0000, 0x0000_7fff, 0x003f_0000] as const;

/** Reads the table in guest RAM at each call and keeps only its place. */
export class DeviceTable {
  readonly #ram: GuestRam;
  readonly #registers: AmdViRegisterFile;
  readonly #asQemu: boolean;
  readonly #dmaTranslation: boolean;
  readonly #decoder: EntryDecoder;
  readonly #onWalked: OnWalked;
  #base = 0;
  #entries = amdvi.DTES_PER_PAGE;

  constructor(
    ram: GuestRam,
    registers: AmdViRegisterFile,
    options: AmdViCapabilities,
    quirks: Quirks,
    onWalked: OnWalked,
  ) {
    this.#ram = ram;
    this.#registers = registers;
    this.#asQemu = quirks === 'qemu';
    this.#dmaTranslation = options.dmaTranslation ?? true;
    this.#decoder = new EntryDecoder(quirks);
    this.#onWalked = onWalked;
  }

  /** The register's value in use. */
  latched = 0n;

  /** Sets the place of the table from the register's value. */
  setPlace(register: bigint): void {
    this.latched = register;
    this.#base = Number(register & amdvi.BASE_ADDRESS_MASK);
    this.#entries = (Number(register & amdvi.DEVICE_TABLE_SIZE_MASK) + 1) * amdvi.DTES_PER_PAGE;
  }

  /** Looks up how the requests of a device are handled. */
  lookUp(requesterId: number): DeviceEntry {
    // QEMU ignores the table's size.
    if (requesterId >= this.#entries && !this.#asQemu) return blocked(0, blockedByEntry);
    const at = this.#base + requesterId * amdvi.DTE_BYTES;
    if (!this.#ram.contains(at, amdvi.DTE_BYTES))
      return blocked(0, (write) => deviceTableUnreadable(write, at));
    const [low, high] = [this.#ram.read32(at), this.#ram.read32(at + 4)];
    const domainId = this.#ram.read32(at + 8) & amdvi.DTE_DOMAIN_MASK;
    const flags = this.#ram.read32(at + 12);
    const suppress = this.#asQemu ? 'none' : suppression(flags);
    const valid = (low & amdvi.DTE_V) !== 0;
    if ((valid || this.#asQemu) && this.#reservedSet(at, low, high))
      return blocked(domainId, illegalDeviceTableEntry, suppress);
    if (!valid) return { ok: true, domainId, tables: undefined, suppress };
    const tables = (low & amdvi.DTE_TV) === 0 ? blockedByEntry : this.#tablesOf(low, high);
    const excluded = (flags & amdvi.DTE_EX) !== 0;
    if (typeof tables === 'function') return blocked(domainId, tables, suppress);
    return { ok: true, domainId, tables: this.#around(tables, excluded), suppress };
  }

  #reservedSet(at: number, low: number, high: number): boolean {
    if (((low & amdvi.DTE_RESERVED_LOW) | (high & amdvi.DTE_RESERVED_HIGH)) !== 0) return true;
    if (!this.#asQemu) return false;
    return QEMU_RESERVED.some((mask, i) => (this.#ram.read32(at + 20 + 4 * i) & mask) !== 0);
  }

  /** Returns the tables of an entry with V and TV, undefined for system memory, or the fault of every request. */
  #tablesOf(low: number, high: number): DeviceTables | undefined | ((write: boolean) => Fault) {
    const mode = (low >>> amdvi.MODE_SHIFT) & amdvi.MODE_MASK;
    const perm = permOf(high);
    if (mode === amdvi.MODE_NONE)
      return perm === PERM_RW || this.#asQemu ? undefined : new IdentityTables(this.#ram.regions, perm);
    if (mode > amdvi.MODE_MAX_LEVELS) return this.#asQemu ? blockedByEntry : illegalDeviceTableEntry;
    if (!this.#dmaTranslation) return illegalDeviceTableEntry;
    const place = { root: addressOf(low, high), levels: mode, perm };
    return new HostPageTables(this.#ram, place, this.#decoder, this.#onWalked);
  }

  #around(tables: DeviceTables | undefined, excluded: boolean): DeviceTables | undefined {
    const range = tables && this.#exclusion(excluded);
    return range ? new ExcludingTables(tables, range, this.#ram.regions) : tables;
  }

  /** Returns the exclusion range if it applies to a device with or without EX. */
  #exclusion(excluded: boolean): ExclusionRange | undefined {
    const base = this.#registers.get('ExclusionBase');
    if ((base & amdvi.EXCLUSION_ENABLE) === 0n) return undefined;
    if (!excluded && (base & amdvi.EXCLUSION_ALLOW) === 0n) return undefined;
    const start = Number(base & amdvi.BASE_ADDRESS_MASK);
    const end = Number(this.#registers.get('ExclusionLimit') & amdvi.BASE_ADDRESS_MASK) + 4096;
    return start < end ? { start, end } : undefined;
  }
}

const suppression = (flags: number): Suppress =>
  (flags & amdvi.DTE_SA) !== 0 ? 'all' : (flags & amdvi.DTE_SE) !== 0 ? 'later' : 'none';

const blocked = (
  domainId: number,
  fault: (write: boolean) => Fault,
  suppress: Suppress = 'none',
): DeviceEntry => ({
  ok: false,
  domainId,
  fault,
  suppress,
});
