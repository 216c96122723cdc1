/**
 * Test doubles around the VT-d model: a notifier that records and checks, and small RAM.
 */
import { Prng } from '#host';
import type { Gpa, Hpa, Iova } from '../../src/memory/address.ts';
import { GuestRam, type RamRegion } from '../../src/memory/guest-ram.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import type { Completion } from '../../src/viommu/completion.ts';
import type {
  IovaRange,
  MapNotifier,
  MapOutcome,
  Translation,
  TranslationVisitor,
} from '../../src/viommu/notifier.ts';

export const MIB = 2 ** 20;

export const smallRam = (below4g = 32 * MIB, above4g = 0, seed = 1): GuestRam =>
  GuestRam.allocate(HPA_BASE as Hpa, below4g, above4g, new Prng(seed));

/** Holds mappings as a container would. Throws on what a vIOMMU must never do: overlap, unmap of what is not mapped. */
export class RecordingNotifier implements MapNotifier {
  readonly log: string[] = [];
  readonly #regions: readonly RamRegion[];
  #held: Translation[] = [];
  /** While set, removals complete only when it is called. */
  #gate: Promise<void> | undefined;
  #open: (() => void) | undefined;

  constructor(ram: { readonly regions: readonly RamRegion[] }) {
    this.#regions = ram.regions;
  }

  get mappings(): readonly Translation[] {
    return this.#held;
  }

  /** From now on `unmap` and `unmapAll` pend until {@link release}. */
  hold(): void {
    this.#gate = new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  release(): void {
    this.#open?.();
    this.#gate = undefined;
  }

  map(iova: Iova, gpa: Gpa, size: number, perm: number): MapOutcome {
    if (!this.#regions.some((r) => gpa >= r.gpa && gpa + size <= r.gpa + r.size)) return 'refused';
    const at = this.#firstEndingAfter(iova);
    const next = this.#held[at];
    if (next && next.iova < iova + size) throw new Error(`overlap at ${iova.toString(16)} +${size}`);
    this.#held.splice(at, 0, { iova, gpa, size, perm });
    this.log.push(`map ${iova.toString(16)} ${size}`);
    return 'mapped';
  }

  unmap(ranges: readonly IovaRange[]): Completion {
    for (const { iova, size } of ranges) {
      const at = this.#firstEndingAfter(iova);
      const held = this.#held[at];
      if (held?.iova !== iova || held.size !== size)
        throw new Error(`unmap of ${iova.toString(16)} +${size}`);
      this.#held.splice(at, 1);
      this.log.push(`unmap ${iova.toString(16)} ${size}`);
    }
    return this.#gate;
  }

  unmapAll(): Completion {
    this.#held = [];
    this.log.push('unmapAll');
    return this.#gate;
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

  switchBegin(): void {
    this.log.push('switchBegin');
  }

  switchEnd(): void {
    this.log.push('switchEnd');
  }

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
