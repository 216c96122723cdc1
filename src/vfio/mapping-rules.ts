/**
 * The set of mappings that a container holds: ordered, never overlapping, limited in number; and which of them an
 * unmap takes. This is the set of the calls' container, with what a call needs to know of each; the devices' container
 * keeps numbers alone (mapping-columns.ts) under the same rules.
 *
 * The unit is the owner's: the container counts bytes, type1 counts pages, so that 64-bit ranges stay exact.
 */
import { hex } from '../memory/address.ts';
import { VfioError } from './errors.ts';

/** Live mappings a container takes: the default of the kernel's dma_entry_limit. */
export const DMA_ENTRY_LIMIT = 65535;

export interface Span {
  readonly iova: number;
  readonly size: number;
}

/**
 * What happens to a mapping that straddles an end of an unmap:
 * - `refuse`: the call is refused and nothing is removed (type1 v2);
 * - `keep`: it stays, those inside go (what a vfio-user client expects);
 * - `whole`: one that begins inside goes whole; if one begins before the range, nothing goes (type1 v1).
 */
export type Straddling = 'refuse' | 'keep' | 'whole';

export const endOf = ({ iova, size }: Span): number => iova + size;
export const spanText = ({ iova, size }: Span): string => `${hex(iova)} +${hex(size)}`;

/**
 * Whether `span` may be added to `live` mappings, of which `other` overlaps it; an overlap is found before the limit.
 * @throws VfioError EEXIST, ENOSPC
 */
export function checkRoom(span: Span, other: Span | undefined, live: number, limit: number): void {
  if (other) throw new VfioError('EEXIST', `${spanText(span)} overlaps ${spanText(other)}`);
  if (live >= limit) throw new VfioError('ENOSPC', `${limit} mappings are live, the limit`);
}

/** From the mappings that touch `span` to those that an unmap of it removes. @throws VfioError EINVAL */
export const takenBy = <M extends Span>(straddling: Straddling, span: Span, touched: M[]): M[] =>
  RULES[straddling](span, touched);

const isInside = (outer: Span, inner: Span): boolean =>
  inner.iova >= outer.iova && endOf(inner) <= endOf(outer);

/** From the mappings that touch the range to those that go. */
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
