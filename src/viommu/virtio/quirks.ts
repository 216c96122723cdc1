/**
 * Where QEMU 11.1.3's virtio-iommu departs from virtio 1.3 section 5.13, one name per departure.
 */

import type { Quirks } from '../quirks.ts';

export interface Behaviour {
  /** A device reset takes every endpoint out of its domain (5.13.5.1), not only a system reset. */
  readonly resetDetaches: boolean;
  /** DMA of an endpoint that no driver tried to attach faults with UNKNOWN instead of DOMAIN. */
  readonly unknownUntilAttached: boolean;
  /** ATTACH with reserved bytes that are not zero is INVAL. */
  readonly reservedChecked: boolean;
  /** ATTACH to the domain that the endpoint is in changes nothing, not even when it is refused. */
  readonly reattachKeeps: boolean;
  /** Flags of a feature that was not negotiated are INVAL; the input range binds if it was. */
  readonly featuresGate: boolean;
  /** MAP wants page alignment (RANGE) and nothing inside reserved regions (INVAL). */
  readonly mapChecked: boolean;
  /** UNMAP removes nothing when it would split a mapping. */
  readonly unmapIsAtomic: boolean;
  /** Endpoint ids are found modulo 2^16, and kept under all 32 bits. */
  readonly endpointsWrap: boolean;
  /** Translation is of whole pages, and finds a mapping that begins one byte further on. */
  readonly wholePages: boolean;
  /** DMA to the MSI region passes for an endpoint whose ATTACH failed. */
  readonly msiWithoutDomain: boolean;
  /** A request of unknown type is answered UNSUPP instead of being returned unwritten. */
  readonly unknownAnswered: boolean;
  /** A PROBE buffer that is too small gets properties and DEVERR at its start, instead of INVAL at its end. */
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
