/**
 * A container's bookkeeping without a container: what a vIOMMU has mapped, sorted, for comparison with its tables.
 */
import type { Gpa, Iova } from '../address/address.ts';
import type { RamRegion } from '../host/guest-ram.ts';
import type {
  Completion,
  IovaRange,
  MapNotifier,
  MapOutcome,
  Translation,
  TranslationVisitor,
} from '../viommu/notifier.ts';

/** Throws Error on what a vIOMMU must never do: overlap, unmap of what is not mapped. */
export class MappingRecorder implements MapNotifier {
  readonly #regions: readonly RamRegion[];
  #held: Translation[] = [];

  constructor(ram: { readonly regions: readonly RamRegion[] }) {
    this.#regions = ram.regions;
  }

  /** What is mapped now, by ascending IOVA. */
  get mappings(): readonly Translation[] {
    return this.#held;
  }

  map(iova: Iova, gpa: Gpa, size: number, perm: number): MapOutcome {
    if (!this.#regions.some((r) => gpa >= r.gpa && gpa + size <= r.gpa + r.size)) return 'refused';
    const at = this.#firstEndingAfter(iova);
    const next = this.#held[at];
    if (next && next.iova < iova + size) throw new Error(`overlap at ${iova.toString(16)} +${size}`);
    this.#held.splice(at, 0, { iova, gpa, size, perm });
    return 'mapped';
  }

  unmap(ranges: readonly IovaRange[]): Completion {
    for (const { iova, size } of ranges) {
      const at = this.#firstEndingAfter(iova);
      const held = this.#held[at];
      if (held?.iova !== iova || held.size !== size)
        throw new Error(`unmap of ${iova.toString(16)} +${size}`);
      this.#held.splice(at, 1);
    }
    return undefined;
  }

  unmapAll(): Completion {
    this.#held = [];
    return undefined;
  }

  has(iova: Iova, gpa: Gpa, size: number, perm: number): boolean {
    const held = this.mappingAt(iova);
    return held?.iova === iova && held.gpa === gpa && held.size === size && held.perm === perm;
  }

  mappingAt(iova: number): Translation | undefined {
    const held = this.#held[this.#firstEndingAfter(iova)];
    return held && held.iova <= iova ? held : undefined;
  }

  forEachMapping(start: number, end: number, visit: TranslationVisitor): void {
    for (const { iova, gpa, size, perm } of this.#held.slice(this.#firstEndingAfter(start))) {
      if (iova >= end) break;
      visit(iova, gpa, size, perm);
    }
  }

  switchBegin(): void {}

  switchEnd(): void {}

  #firstEndingAfter(iova: number): number {
    let [low, high] = [0, this.#held.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      const held = this.#held[middle] as Translation;
      if (held.iova + held.size > iova) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
