/**
 * Rule R2 on a recorded stream: guest RAM's identity map and the vIOMMU's translations are never live together.
 *
 * A DMA_MAP does not say which of the two it belongs to. What it shows:
 *
 * 1. No fd: a ROM of the system address space, hence **GPA**.
 * 2. An fd and an offset that differs from the IOVA: a translation, hence **IOVA**. (In a guest of up to 2 GiB a GPA
 *    is its own offset in the memfd; larger ones are not replayed.)
 * 3. An fd and offset = IOVA, and the range is no naturally aligned power of two, or it is the whole memfd: **GPA**.
 *    A vIOMMU never maps such a range: intel-iommu sends one map per leaf PTE, and what virtio-iommu was asked to map
 *    is split into naturally aligned powers of two. All 18,729 translations of the recorded streams are.
 * 4. An fd and offset = IOVA otherwise: **open**. It may be a section of RAM (0xe8000 +0x8000 is one), or a translation
 *    whose IOVA happens to equal its GPA.
 *
 * An open map belongs to the epoch it appears in. A switch passes through an empty container (R3), so all that is
 * live belongs to one side: an open map takes the side of the maps that are live with it. If none has shown a side
 * yet it waits, and takes that of the first one that does while it is live.
 *
 * So the rule fails when a map of one side arrives while a map of the other is live, whichever side was first, and
 * also when the last live maps of the old side are open ones whose company gave them away before. It cannot see a
 * violation made of open maps alone.
 */
import type { MapEvent } from './capture.ts';

export type Side = 'gpa' | 'iova' | 'open';

/** A live map's side; an open one's is filled in when it is known. */
export interface SidedMap {
  side: Side;
}

/** Side that a map shows by itself; `memfdSize` in bytes. */
export function sideShown({ iova, size, offset, hasFd }: MapEvent, memfdSize: number): Side {
  if (!hasFd) return 'gpa';
  if (offset !== iova) return 'iova';
  const translationShaped = size > 0n && (size & (size - 1n)) === 0n && iova % size === 0n;
  return translationShaped && size !== BigInt(memfdSize) ? 'open' : 'gpa';
}

/** The sides of the maps that are live now. */
export class ExclusiveCheck {
  #gpa = 0;
  #iova = 0;
  readonly #open = new Set<SidedMap>();

  /** Side of a map that shows `shown`, given what is live. */
  sideNow(shown: Side): Side {
    if (shown !== 'open') return shown;
    if (this.#gpa > 0) return 'gpa';
    return this.#iova > 0 ? 'iova' : 'open';
  }

  /** How many maps of the other side are live: more than 0 if a map of `side` breaks R2. */
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
