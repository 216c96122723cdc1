/**
 * Translations of a device besides page tables: system memory with less than full permissions, and the exclusion range.
 */

import { type Gpa, type Iova, PERM_READ, PERM_RW, PERM_WRITE } from '../../memory/address.ts';
import type { RamRegion } from '../../memory/guest-ram.ts';
import {
  IOVA_LIMIT,
  type Translation,
  type TranslationSource,
  type TranslationVisitor,
} from '../notifier.ts';
import { type Fault, permissionDenied } from './faults.ts';

/** A device's translations, as the unit uses them. */
export interface DeviceTables extends TranslationSource {
  /** Equal for equal translations at any time: tables with the same root, levels and permissions. */
  readonly key: string;
  /** Returns the translation that serves one access, or the fault. */
  translate(iova: number, write: boolean): Translation | Fault;
}

/** Mode 0 with one permission: system memory that can only be read or only be written. */
export class IdentityTables implements DeviceTables {
  readonly key: string;
  readonly #ram: readonly RamRegion[];
  readonly #perm: number;

  constructor(ram: readonly RamRegion[], perm: number) {
    this.key = `identity/${perm}`;
    this.#ram = ram;
    this.#perm = perm;
  }

  translate(iova: number, write: boolean): Translation | Fault {
    if ((this.#perm & (write ? PERM_WRITE : PERM_READ)) === 0) return permissionDenied(write);
    return pageAt(iova, this.#perm);
  }

  walk(start: number, end: number, visit: TranslationVisitor): void {
    if (this.#perm === 0) return;
    for (const { gpa, size } of this.#ram)
      if (gpa < end && gpa + size > start && visit(gpa as number as Iova, gpa, size, this.#perm) === false)
        return;
  }

  leafAt(iova: number): Translation | undefined {
    const region = this.#ram.find(({ gpa, size }) => iova >= gpa && iova < gpa + size);
    if (!region || this.#perm === 0) return undefined;
    return { iova: region.gpa as number as Iova, gpa: region.gpa, size: region.size, perm: this.#perm };
  }
}

/** Bounds of the exclusion range, multiples of 4096. */
export interface ExclusionRange {
  readonly start: number;
  readonly end: number;
}

/** Tables around the exclusion range, whose addresses are neither translated nor checked. */
export class ExcludingTables implements DeviceTables {
  readonly key: string;
  readonly limit: number = IOVA_LIMIT;
  readonly #tables: DeviceTables;
  readonly #range: ExclusionRange;
  readonly #ram: readonly RamRegion[];

  constructor(tables: DeviceTables, range: ExclusionRange, ram: readonly RamRegion[]) {
    this.key = `${tables.key}!${range.start}-${range.end}`;
    this.#tables = tables;
    this.#range = range;
    this.#ram = ram;
  }

  translate(iova: number, write: boolean): Translation | Fault {
    return this.#excludes(iova) ? pageAt(iova, PERM_RW) : this.#tables.translate(iova, write);
  }

  walk(start: number, end: number, visit: TranslationVisitor): void {
    const { start: from, end: to } = this.#range;
    let goOn = true;
    const tell: TranslationVisitor = (iova, gpa, size, perm) => {
      goOn = visit(iova, gpa, size, perm) !== false;
      return goOn;
    };
    if (start < from) this.#tables.walk(start, Math.min(end, from), this.#outside(tell, 0, from));
    if (goOn && start < to && end > from)
      for (const part of this.#parts()) if (goOn) visitPart(part, start, end, tell);
    if (goOn && end > to)
      this.#tables.walk(Math.max(start, to), end, this.#outside(tell, to, Number.POSITIVE_INFINITY));
  }

  leafAt(iova: number): Translation | undefined {
    if (this.#excludes(iova))
      return this.#parts().find((part) => iova >= part.iova && iova < part.iova + part.size);
    const leaf = this.#tables.leafAt(iova);
    let found: Translation | undefined;
    const keep: TranslationVisitor = (at, gpa, size, perm) => {
      found = { iova: at, gpa, size, perm };
    };
    const [low, high] =
      iova < this.#range.start ? [0, this.#range.start] : [this.#range.end, Number.POSITIVE_INFINITY];
    if (leaf) this.#outside(keep, low, high)(leaf.iova, leaf.gpa, leaf.size, leaf.perm);
    return found;
  }

  #excludes(iova: number): boolean {
    return iova >= this.#range.start && iova < this.#range.end;
  }

  /** Returns the parts of the range that are memory. */
  #parts(): Translation[] {
    return this.#ram.flatMap(({ gpa, size }) => {
      const start = Math.max(gpa, this.#range.start);
      const end = Math.min(gpa + size, this.#range.end);
      return start < end
        ? [{ iova: start as Iova, gpa: start as Gpa, size: end - start, perm: PERM_RW }]
        : [];
    });
  }

  /** Returns a visitor that cuts translations to [low, high), one side of the range. */
  #outside(visit: TranslationVisitor, low: number, high: number): TranslationVisitor {
    return (iova, gpa, size, perm) => {
      const start = Math.max(iova, low);
      const end = Math.min(iova + size, high);
      if (start >= end) return true;
      return visit(start as Iova, (gpa + (start - iova)) as Gpa, end - start, perm);
    };
  }
}

function visitPart(part: Translation, start: number, end: number, visit: TranslationVisitor): void {
  if (part.iova < end && part.iova + part.size > start) visit(part.iova, part.gpa, part.size, part.perm);
}

/** Returns the identity translation of the page of `iova`. */
const pageAt = (iova: number, perm: number): Translation => {
  const page = iova - (iova % 4096);
  return { iova: page as Iova, gpa: page as Gpa, size: 4096, perm };
};
