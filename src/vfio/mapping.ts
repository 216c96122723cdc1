/**
 * A mapping of a container, and the host memory behind its addresses.
 */
import type { Iova } from '../memory/address.ts';
import type { HostExtent } from '../memory/guest-ram.ts';

/** One mapping, as VFIO_IOMMU_MAP_DMA made it. */
export interface DmaMapping {
  readonly iova: Iova;
  /** The owner's address of the memory. For a VM it is the GPA. */
  readonly vaddr: number;
  readonly size: number;
  readonly perm: number;
}

/** Host memory by `vaddr`. It does the work of the kernel's get_user_pages. */
export interface Backing {
  /** Returns the host extents behind a range. @throws RangeError if any of the range is not memory */
  extents(vaddr: number, size: number): readonly HostExtent[];
  /** Returns the host PFN of the page at `vaddr`, or -1 if it is not memory. If absent, pages are mapped one by one. */
  frameOf?(vaddr: number): number;
}
