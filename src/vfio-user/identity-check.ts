/**
 * Checks rule R2 on a stream of maps, recorded or live: guest RAM's identity map and the vIOMMU's translations are never live together.
 *
 * A DMA_MAP does not state which of the two sides it belongs to. It shows its side by these rules:
 *
 * 1. No fd: a ROM of the system address space, so **GPA**.
 * 2. An fd, and an offset that differs from the IOVA: a translation, so **IOVA**. In a guest of up to 2 GiB, a GPA is its
 *    own offset in the memfd. In a larger one, RAM above 4 GiB is the end of the memfd: such a map is **open**, or **GPA**
 *    if no translation has its form (rule 3).
 * 3. An fd, offset = IOVA, and a range that is the whole memfd or is not a naturally aligned power of two: **GPA**. A
 *    vIOMMU never maps such a range: intel-iommu sends one map per leaf PTE, and the VMM splits the maps of
 *    virtio-iommu into naturally aligned powers of two. All 18,729 translations of the recorded streams have this form.
 * 4. Any other map with an fd and offset = IOVA: **open**. It may be a section of RAM (such as 0xe8000 +0x8000), or a
 *    translation whose IOVA equals its GPA.
 *
 * A switch passes through an empty container (R3), so all live maps belong to one side. An open map therefore takes
 * the side of the maps that are live with it. If none of them has shown a side, it takes the side of the first map
 * that shows one while it is live.
 *
 * So the check fails if a map of one side arrives while a map of the other side is live, in either order. The live map
 * may be an open one that took its side from a map which has been removed since. The check cannot detect a violation
 * by open maps alone.
 */

/** IOVA from which RAM that does not fit below 4 GiB is. */
const HIGH_RAM: number = 2 ** 32;
/** Size of the largest leaf of a vIOMMU's tables. */
const LARGEST_LEAF: number = 2 ** 30;

/** The parts of a DMA_MAP that show its side. */
interface ShownMap {
  readonly iova: number;
  readonly size: number;
  readonly offset: number;
  readonly hasFd: boolean;
}

export type Side = 'gpa' | 'iova' | 'open';

/** Side of a live map. The check replaces `open` when it knows the side. */
export interface SidedMap {
  side: Side;
}

/** Returns the side that a map shows by itself; `memfdSize` is in bytes. */
export function sideShown({ iova, size, offset, hasFd }: ShownMap, memfdSize: number): Side {
  if (!hasFd) return 'gpa';
  const translationShaped =
    size > 0 && size <= LARGEST_LEAF && (size & (size - 1)) === 0 && iova % size === 0;
  const isHighRam = iova >= HIGH_RAM && offset + size === memfdSize;
  if (offset !== iova && !isHighRam) return 'iova';
  return translationShaped && size !== memfdSize ? 'open' : 'gpa';
}

/** Sides of the maps that are live now. */
export class ExclusiveCheck {
  #gpa = 0;
  #iova = 0;
  readonly #open = new Set<SidedMap>();

  /** Returns the side of a map that shows `shown`, given the live maps. */
  sideNow(shown: Side): Side {
    if (shown !== 'open') return shown;
    if (this.#gpa > 0) return 'gpa';
    return this.#iova > 0 ? 'iova' : 'open';
  }

  /** Returns the count of live maps of the other side. If it is not 0, a map of `side` violates R2. */
  othersOf(side: Side): number {
    if (side === 'open') return 0;
    return side === 'gpa' ? this.#iova : this.#gpa;
  }

  add(map: SidedMap): void {
    if (map.side === 'open') {
      this.#open.add(map);
      return;
    }
    this.#count(map.side, 1 + this.#open.size);
    for (const earlier of this.#open) earlier.side = map.side;
    this.#open.clear();
  }

  remove(map: SidedMap): void {
    if (map.side === 'open') this.#open.delete(map);
    else this.#count(map.side, -1);
  }

  #count(side: 'gpa' | 'iova', by: number): void {
    if (side === 'gpa') this.#gpa += by;
    else this.#iova += by;
  }
}
