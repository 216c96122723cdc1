/**
 * Receiver of map events in a vector run: holds mappings at any bus address, as a container without limits would.
 */
import { type Gpa, hex, type Iova } from '../memory/address.ts';
import { BTree } from '../memory/btree.ts';
import type { GuestRam } from '../memory/guest-ram.ts';
import type { Completion } from '../platform/completion.ts';
import type {
  IovaRange,
  MapNotifier,
  MapOutcome,
  Translation,
  TranslationVisitor,
} from '../viommu/notifier.ts';
import { VectorFormatError } from './outcome.ts';

/** Maximum count of mappings. Recorded vectors have up to 262,144. A guest table can map itself for ever. */
const MAPPINGS_LIMIT = 2 ** 19;

export class MappingRecord implements MapNotifier {
  readonly #ram: GuestRam;
  readonly #held = new BTree<number, Translation>();

  constructor(ram: GuestRam) {
    this.#ram = ram;
  }

  get size(): number {
    return this.#held.size;
  }

  /** @throws Error for an overlap, which a vIOMMU must never request; VectorFormatError beyond MAPPINGS_LIMIT */
  map(iova: Iova, gpa: Gpa, size: number, perm: number): MapOutcome {
    if (!this.#ram.contains(gpa, size)) return 'refused';
    const next = this.#held.getPairOrNextHigher(iova)?.[1];
    if (this.mappingAt(iova) || (next && next.iova < iova + size))
      throw new Error(`map of ${hex(iova)} +${hex(size)} overlaps a live mapping`);
    if (this.#held.size >= MAPPINGS_LIMIT)
      throw new VectorFormatError(`more than ${MAPPINGS_LIMIT} mappings of a device`);
    this.#held.set(iova, { iova, gpa, size, perm });
    return 'mapped';
  }

  /** @throws Error for a range that is not exactly one live mapping */
  unmap(ranges: readonly IovaRange[]): Completion {
    for (const { iova, size } of ranges) {
      if (this.#held.get(iova)?.size !== size)
        throw new Error(`unmap of ${hex(iova)} +${hex(size)}, which is not a live mapping`);
      this.#held.delete(iova);
    }
    return undefined;
  }

  unmapAll(): Completion {
    this.#held.clear();
    return undefined;
  }

  has(iova: Iova, gpa: Gpa, size: number, perm: number): boolean {
    const held = this.#held.get(iova);
    return held?.gpa === gpa && held.size === size && held.perm === perm;
  }

  mappingAt(iova: number): Translation | undefined {
    const held = this.#held.getPairOrNextLower(iova)?.[1];
    return held && iova < held.iova + held.size ? held : undefined;
  }

  forEachMapping(start: number, end: number, visit: TranslationVisitor): void {
    const first = this.mappingAt(start)?.iova ?? start;
    this.#held.forRange(first, end, false, (_, { iova, gpa, size, perm }) => {
      visit(iova, gpa, size, perm);
    });
  }

  switchBegin(): void {}

  switchEnd(): void {}
}
