import type { Iova } from '../memory/address.ts';
import type { HostExtent } from '../memory/guest-ram.ts';

/**
 * One mapping of a container, and the memory behind it.
 */

/** One mapping as VFIO_IOMMU_MAP_DMA made it. `vaddr` is the owner's address of the memory (for a VM: the GPA). */
export interface DmaMapping {
  readonly iova: Iova;
  readonly vaddr: number;
  readonly size: number;
  readonly perm: number;
}

/** The memory behind `vaddr`s: what get_user_pages is to the kernel. */
export interface Backing {
  /** @throws RangeError if any of the range is not memory */
  extents(vaddr: number, size: number): readonly HostExtent[];
  /** Host PFN of the page at `vaddr`, or -1 if it is not memory. Absent: pages are mapped one by one. */
  frameOf?(vaddr: number): number;
}
