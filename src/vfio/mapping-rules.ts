/**
 * Rules for the mappings of a container: they never overlap, their count is limited, and an unmap removes whole ones.
 * Two sets follow these rules: mapping-store.ts (the devices' container) and uapi/mapping-tree.ts (the /dev/vfio
 * calls' container).
 *
 * The set chooses the unit of a span. The devices' container counts bytes. The calls' container counts pages, so that
 * 64-bit ranges stay exact.
 */
import { hex } from '../memory/address.ts';
import { VfioError } from './errors.ts';

/** Maximum count of live mappings: the default of the kernel's dma_entry_limit. */
export const DMA_ENTRY_LIMIT = 65535;

/** A range of IOVAs. */
export interface Span {
  readonly iova: number;
  readonly size: number;
}

/**
 * Rule for a mapping that straddles an end of an unmap:
 * - `refuse`: the call is refused and nothing is removed (type1 v2);
 * - `keep`: the mapping stays, and those inside are removed (as a vfio-user client expects);
 * - `whole`: a mapping that begins inside is removed whole; if one begins before the range, nothing is removed
 *   (type1 v1).
 */
export type Straddling = 'refuse' | 'keep' | 'whole';

export const endOf = ({ iova, size }: Span): number => iova + size;
export const spanText = ({ iova, size }: Span): string => `${hex(iova)} +${hex(size)}`;

/**
 * Checks that `span` may be added. As in the kernel, the overlap is checked before the limit.
 * @param other a mapping that overlaps `span`
 * @param live count of live mappings
 * @throws VfioError EEXIST, ENOSPC
 */
export function checkRoom(span: Span, other: Span | undefined, live: number, limit: number): void {
  if (other) throw new VfioError('EEXIST', `${spanText(span)} overlaps ${spanText(other)}`);
  if (live >= limit) throw new VfioError('ENOSPC', `limit of ${limit} live mappings reached`);
}

/** Returns those of the mappings that intersect `span` that an unmap of it removes. @throws VfioError EINVAL */
export const takenBy = <M extends Span>(straddling: Straddling, span: Span, touched: M[]): M[] =>
  RULES[straddling](span, touched);

const isInside = (outer: Span, inner: Span): boolean =>
  inner.iova >= outer.iova && endOf(inner) <= endOf(outer);

/** Per rule: selects, of the mappings that intersect the span, those to remove. */
const RULES: Readonly<Record<Straddling, <M extends Span>(span: Span, touched: M[]) => M[]>> = {
  refuse: (span, touched) => {
    const split = touched.find((mapping) => !isInside(span, mapping));
    if (split)
      throw new VfioError('EINVAL', `unmap of ${spanText(span)} would split the mapping ${spanText(split)}`);
    return touched;
  },
  keep: (span, touched) => touched.filter((mapping) => isInside(span, mapping)),
  whole: (span, touched) => (touched[0] && touched[0].iova < span.iova ? [] : touched),
};
