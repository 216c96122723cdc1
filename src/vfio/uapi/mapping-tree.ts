/**
 * Mappings of the /dev/vfio calls' container, in a B-tree. Each mapping is an object with the state that the calls
 * need. Spans count pages.
 */
import { BTree } from '../../memory/btree.ts';
import { checkRoom, DMA_ENTRY_LIMIT, endOf, type Span, type Straddling, takenBy } from '../mapping-rules.ts';

/** One container's mappings, in ascending order. They never overlap. */
export class MappingTree<M extends Span> {
  readonly limit: number;
  readonly #tree = new BTree<number, M>();

  constructor(limit: number = DMA_ENTRY_LIMIT) {
    this.limit = limit;
  }

  get size(): number {
    return this.#tree.size;
  }

  /** Count of mappings that may still be added, as VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL reports it. */
  get available(): number {
    return this.limit - this.#tree.size;
  }

  /** Returns all mappings in ascending order. */
  values(): IterableIterator<M> {
    return this.#tree.values();
  }

  /** Returns the mapping that covers `iova`. */
  at(iova: number): M | undefined {
    const below = this.#tree.getPairOrNextLower(iova)?.[1];
    return below && endOf(below) > iova ? below : undefined;
  }

  /** Returns the highest mapping that overlaps `span`. */
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
   * Checks that `span` may be added.
   * @throws VfioError EEXIST, ENOSPC
   */
  checkFree(span: Span): void {
    checkRoom(span, this.overlapping(span), this.#tree.size, this.limit);
  }

  /** Adds a mapping that {@link checkFree} has accepted. */
  add(mapping: M): void {
    this.#tree.set(mapping.iova, mapping);
  }

  remove(mapping: Span): void {
    this.#tree.delete(mapping.iova);
  }

  /**
   * Returns the mappings that an unmap of `span` removes, in ascending order.
   * @throws VfioError EINVAL under `refuse`
   */
  taken(span: Span, straddling: Straddling): M[] {
    const touched: M[] = [];
    this.forEach(span.iova, endOf(span), (mapping) => touched.push(mapping));
    return takenBy(straddling, span, touched);
  }
}
