/**
 * Fixed DMA windows: the ranges of IOVAs through which a device reaches memory behind an sPAPR host bridge.
 */

export interface DmaWindow {
  /** First IOVA, a float64 exact to the page also beyond 2^53. */
  readonly start: number;
  /** Bytes, a multiple of the page size. */
  readonly size: number;
  /** IOMMU pages have 2^pageShift bytes. */
  readonly pageShift: number;
}
