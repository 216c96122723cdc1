/**
 * Lookup of a requester's context in legacy and scalable mode. The result is a fault, system memory, or page tables.
 */

import * as vtd from '../../abi/vtd.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Quirks } from '../quirks.ts';
import { FirstStageFormat, FirstStageTables } from './first-stage.ts';
import { type Blocked, blocked, type ContextFormat, lookUpContext } from './legacy-context.ts';
import type { DomainTables, OnWalked } from './page-tables.ts';
import { lookUpPasid, type PasidEntry, type PasidFormat } from './pasid.ts';
import { hasSecondStage, type IntelCapabilities } from './registers.ts';
import { lookUpScalableContext } from './scalable-context.ts';
import { SecondLevelFormat, SecondLevelTables } from './second-level.ts';

/** Translation of a device's requests: by `tables`, or identity without. `fpd`: qualified faults are not recorded. */
export interface DeviceTranslation {
  readonly ok: true;
  readonly domainId: number;
  readonly tables: DomainTables | undefined;
  readonly fpd: boolean;
}

/** Reads the tables in guest RAM at each call and keeps only their address. */
export class ContextLookup {
  readonly #ram: GuestRam;
  readonly #context: ContextFormat;
  readonly #pasid: PasidFormat;
  readonly #secondLevel: SecondLevelFormat;
  readonly #firstStage: FirstStageFormat;
  readonly #scalableUnit: boolean;
  readonly #onWalked: OnWalked;
  #latched = 0n;
  #root = 0;
  #scalable = false;

  constructor(ram: GuestRam, options: IntelCapabilities, quirks: Quirks, onWalked: OnWalked) {
    const { awBits } = options;
    const asQemu = quirks === 'qemu';
    this.#ram = ram;
    this.#context = { awBits, deviceIotlb: options.deviceIotlb ?? false };
    this.#pasid = {
      awBits,
      firstStage: options.firstStage ?? false,
      secondStage: hasSecondStage(options),
      typeBeforePresent: asQemu,
    };
    this.#secondLevel = new SecondLevelFormat(options);
    this.#firstStage = new FirstStageFormat(options, asQemu);
    this.#scalableUnit = options.scalable ?? false;
    this.#onWalked = onWalked;
  }

  get scalable(): boolean {
    return this.#scalable;
  }

  /** RTADDR's value at the last {@link setRoot}, initially 0. */
  get latchedRoot(): bigint {
    return this.#latched;
  }

  /** Sets the root pointer from RTADDR's value. A unit without scalable mode ignores TTM. */
  setRoot(rtaddr: bigint): void {
    this.#latched = rtaddr;
    this.#root = Number(rtaddr & ~0xfffn);
    this.#scalable = this.#scalableUnit && (rtaddr & vtd.RTADDR_TTM_SCALABLE) !== 0n;
  }

  /**
   * Looks up how this device's requests without a PASID are translated, or why they are blocked.
   * @param ignorePresent treat the PASID entry as present
   */
  lookUp(requesterId: number, ignorePresent = false): DeviceTranslation | Blocked {
    return this.#scalable
      ? this.#lookUpScalable(requesterId, ignorePresent)
      : this.#lookUpLegacy(requesterId);
  }

  #lookUpLegacy(requesterId: number): DeviceTranslation | Blocked {
    const context = lookUpContext(this.#ram, this.#root, requesterId, this.#context);
    if (!context.ok) return context;
    const { domainId, fpd } = context;
    const tables = context.passThrough
      ? undefined
      : new SecondLevelTables(this.#ram, context.tables, context.levels, this.#secondLevel, this.#onWalked);
    return { ok: true, domainId, tables, fpd };
  }

  #lookUpScalable(requesterId: number, ignorePresent: boolean): DeviceTranslation | Blocked {
    const context = lookUpScalableContext(this.#ram, this.#root, requesterId, this.#context);
    if (!context.ok) return context;
    const { pasidDirectory } = context;
    const entry = lookUpPasid(this.#ram, pasidDirectory, vtd.RID_PASID, this.#pasid, ignorePresent);
    // Without a valid PASID entry only the context entry's FPD counts, as in QEMU.
    if (!entry.ok) return blocked(entry.reason, context.fpd);
    const { domainId } = entry;
    return { ok: true, domainId, tables: this.#tablesOf(entry), fpd: context.fpd || entry.fpd };
  }

  #tablesOf({ type, tables, width }: PasidEntry): DomainTables | undefined {
    if (type === vtd.PGTT_PASS_THROUGH) return undefined;
    if (type === vtd.PGTT_FIRST_STAGE)
      return new FirstStageTables(this.#ram, tables, this.#firstStage, this.#onWalked);
    return new SecondLevelTables(
      this.#ram,
      tables,
      vtd.levelsOfWidth(width),
      this.#secondLevel,
      this.#onWalked,
      vtd.FAULT.SM_INTERRUPT_RANGE,
    );
  }
}
