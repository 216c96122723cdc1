/**
 * The parts of a domain's translations that lie in guest RAM. A guest may map more than there is memory: an identity
 * domain covers the whole address space, and a leaf of 1 GiB may begin below the end of RAM. Only memory can be mapped
 * for a device; a DMA to the rest is a fault.
 */
import { type Gpa, type Iova, offsetBy } from '../memory/address.ts';
import type { RamRegion } from '../memory/guest-ram.ts';
import type { Translation, TranslationSource, TranslationVisitor } from './notifier.ts';

/** A translation source that shows of `whole` only what lies in RAM, each part with its own extent. */
export class RamParts implements TranslationSource {
  readonly whole: TranslationSource;
  readonly #ram: readonly RamRegion[];

  constructor(whole: TranslationSource, ram: readonly RamRegion[]) {
    this.whole = whole;
    this.#ram = ram;
  }

  get limit(): number | undefined {
    return this.whole.limit;
  }

  /** @param outside called for each translation of which a part lies outside RAM */
  walk(start: number, end: number, visit: TranslationVisitor, outside?: TranslationVisitor): void {
    const cut = this.cut(start, end, visit, outside);
    this.whole.walk(start, end, cut);
  }

  /** Returns a visitor of whole translations that visits the parts of each in RAM and in [start, end). */
  cut(
    start: number,
    end: number,
    visit: TranslationVisitor,
    outside?: TranslationVisitor,
  ): TranslationVisitor {
    return (iova, gpa, size, perm) => {
      if (this.contains(gpa, size)) return visit(iova, gpa, size, perm);
      outside?.(iova, gpa, size, perm);
      for (const region of this.#ram) {
        const part = partIn(region, iova, gpa, size, perm);
        if (!part || part.iova >= end || part.iova + part.size <= start) continue;
        if (visit(part.iova, part.gpa, part.size, perm) === false) return false;
      }
      return true;
    };
  }

  leafAt(iova: number): Translation | undefined {
    const leaf = this.whole.leafAt(iova);
    if (!leaf || this.contains(leaf.gpa, leaf.size)) return leaf;
    for (const region of this.#ram) {
      const part = partIn(region, leaf.iova, leaf.gpa, leaf.size, leaf.perm);
      if (part && iova >= part.iova && iova < part.iova + part.size) return part;
    }
    return undefined;
  }

  /** Returns whether all of a range of GPAs is RAM. */
  contains(gpa: number, size: number): boolean {
    for (const region of this.#ram)
      if (gpa >= region.gpa && gpa + size <= region.gpa + region.size) return true;
    return false;
  }
}

/** Returns the part of a translation that lies in one region. */
function partIn(
  region: RamRegion,
  iova: Iova,
  gpa: Gpa,
  size: number,
  perm: number,
): Translation | undefined {
  const from = Math.max(gpa, region.gpa);
  const to = Math.min(gpa + size, region.gpa + region.size);
  return from < to
    ? { iova: offsetBy(iova, from - gpa), gpa: from as Gpa, size: to - from, perm }
    : undefined;
}
