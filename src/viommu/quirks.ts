/**
 * The two sets of answers of a vIOMMU. docs/viommu-differences.md lists the differences.
 */
import type { StateReader } from '../proto/state-codec.ts';

/** `spec`: the specification's answers. `qemu`: QEMU 11.1.3's, as recorded, where they differ. */
export const QUIRKS = ['spec', 'qemu'] as const;
export type Quirks = (typeof QUIRKS)[number];

/** Checks that a saved state has the quirks of the unit it is restored to. @throws StateError */
export function checkQuirks(state: StateReader, quirks: Quirks): void {
  const saved = state.text('quirks');
  if (saved !== quirks) throw state.error('quirks', `is '${saved.slice(0, 20)}'; accepted: ${quirks}`);
}
