/**
 * Differences of QEMU 11.1.3's virtio-iommu from virtio 1.3 section 5.13, one name for each.
 */

import type { Quirks } from '../quirks.ts';

export interface Behaviour {
  /** A device reset, not only a system reset, removes every endpoint from its domain (5.13.5.1). */
  readonly resetDetaches: boolean;
  /** DMA of an endpoint that no driver has tried to attach faults with UNKNOWN instead of DOMAIN. */
  readonly unknownUntilAttached: boolean;
  /** ATTACH with reserved bytes that are not zero is INVAL. */
  readonly reservedChecked: boolean;
  /** ATTACH to the endpoint's current domain changes nothing, even if it is refused. */
  readonly reattachKeeps: boolean;
  /** Flags of a feature that is not negotiated are INVAL. */
  readonly featuresGate: boolean;
  /** MAP checks alignment and input range (RANGE) and reserved regions (INVAL). */
  readonly mapChecked: boolean;
  /** UNMAP removes nothing if it would split a mapping. */
  readonly unmapIsAtomic: boolean;
  /** Endpoint ids are looked up modulo 2^16 and stored with all 32 bits. */
  readonly endpointsWrap: boolean;
  /** Whole pages are translated, and an access also finds a mapping that begins one byte above it. */
  readonly wholePages: boolean;
  /** DMA to the MSI region passes for an endpoint whose ATTACH has failed. */
  readonly msiWithoutDomain: boolean;
  /** A request of unknown type is answered with UNSUPP instead of being returned unwritten. */
  readonly unknownAnswered: boolean;
  /** A PROBE buffer that is too small gets properties and DEVERR at its start instead of INVAL at its end. */
  readonly shortProbeFilled: boolean;
}

export const BEHAVIOURS: Readonly<Record<Quirks, Behaviour>> = {
  spec: {
    resetDetaches: true,
    unknownUntilAttached: false,
    reservedChecked: true,
    reattachKeeps: true,
    featuresGate: true,
    mapChecked: true,
    unmapIsAtomic: true,
    endpointsWrap: false,
    wholePages: false,
    msiWithoutDomain: false,
    unknownAnswered: false,
    shortProbeFilled: false,
  },
  qemu: {
    resetDetaches: false,
    unknownUntilAttached: true,
    reservedChecked: false,
    reattachKeeps: false,
    featuresGate: false,
    mapChecked: false,
    unmapIsAtomic: false,
    endpointsWrap: true,
    wholePages: true,
    msiWithoutDomain: true,
    unknownAnswered: true,
    shortProbeFilled: true,
  },
};
