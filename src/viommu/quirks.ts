/**
 * The two sets of answers of a vIOMMU. docs/viommu-differences.md lists the differences.
 */

/** `spec`: the specification's answers. `qemu`: QEMU 11.1.3's, as recorded, where they differ. */
export const QUIRKS = ['spec', 'qemu'] as const;
export type Quirks = (typeof QUIRKS)[number];
