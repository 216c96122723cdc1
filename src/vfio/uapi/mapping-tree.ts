import { BTree } from '../../memory/btree.ts';
import { checkRoom, DMA_ENTRY_LIMIT, endOf, type Span, type Straddling, takenBy } from '../mapping-rules.ts';

/**
 * Mappings of the /dev/vfio calls' container, in a B-tree.
 */

/** One container's mappings. */
export class Mappings<M extends Span> {
  readonly limit: number;
  readonly #tree = new BTree<number, M>();

  constructor(limit: number = DMA_ENTRY_LIMIT) {
    this.limit = limit;
  }

  get size(): number {
    return this.#tree.size;
  }

  /** Mappings that may still be added: what VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL reports. */
  get available(): number {
    return this.limit - this.#tree.size;
  }

  /** All mappings in ascending order. */
  values(): IterableIterator<M> {
    return this.#tree.values();
  }

  /** The mapping that covers `iova`. */
  at(iova: number): M | undefined {
    const below = this.#tree.getPairOrNextLower(iova)?.[1];
    return below && endOf(below) > iova ? below : undefined;
  }

  /** A mapping that shares a place with `span`: the highest of them. */
  overlapping(span: Span): M | undefined {
    const below = this.#tree.nextLowerPair(endOf(span))?.[1];
    return below && endOf(below) > span.iova ? below : undefined;
  }

  /** Visits the mappings that intersect [start, end) in ascending order. The visitor must not change the set. */
  forEach(start: number, end: number, visit: (mapping: M) => void): void {
    const first = this.at(start);
    this.#tree.forRange(first?.iova ?? start, end, false, (_iova, mapping) => visit(mapping));
  }

  /**
   * Whether `span` may be added; as in the kernel an overlap is found before the limit.
   * @throws VfioError EEXIST, ENOSPC
   */
  checkFree(span: Span): void {
    checkRoom(span, this.overlapping(span), this.#tree.size, this.limit);
  }

  /** Adds a mapping that {@link checkFree} has let pass. */
  add(mapping: M): void {
    this.#tree.set(mapping.iova, mapping);
  }

  remove(mapping: Span): void {
    this.#tree.delete(mapping.iova);
  }

  /**
   * The mappings that an unmap of `span` removes, in ascending order.
   * @throws VfioError EINVAL under `refuse`
   */
  taken(span: Span, straddling: Straddling): M[] {
    const touched: M[] = [];
    this.forEach(span.iova, endOf(span), (mapping) => touched.push(mapping));
    return takenBy(straddling, span, touched);
  }
}
