/**
 * The vIOMMU of a VM, by the word a scenario uses.
 */

import { bridgeOfDevice, DEFAULT_WINDOW_START, SCENARIO_WINDOW_SIZE } from '../abi/spapr-host-bridges.ts';
import type { GuestRam } from '../memory/guest-ram.ts';
import { NoIommu } from './none.ts';
import { BRIDGES_LIMIT, SpaprIommu } from './spapr/iommu.ts';
import type { VIommu } from './viommu.ts';
import { VirtioIommu } from './virtio/iommu.ts';
import { IntelIommu } from './vtd/iommu.ts';

const CREATORS: Readonly<Record<string, (ram: GuestRam) => VIommu>> = {
  none: (ram) => new NoIommu(ram),
  // Caching mode, as QEMU demands for VFIO devices: the guest announces new mappings too.
  intel: (ram) => new IntelIommu({ ram, awBits: 48, cachingMode: true }),
  'intel-scalable': (ram) =>
    new IntelIommu({
      ram,
      awBits: 48,
      cachingMode: true,
      scalable: true,
      firstStage: true,
      secondStage: true,
    }),
  // Devices see system memory until the guest attaches them.
  // The host bridge, 00:00.0, is an endpoint too.
  virtio: (ram) => new VirtioIommu({ ram, awBits: 48, bootBypass: true, functions: [0] }),
  // Each device has a bridge of its own: windows are not shared. Dynamic windows lie where a container of 48-bit IOVAs holds them: the place is the platform's choice.
  spapr: (ram) =>
    new SpaprIommu({
      ram,
      bridges: Array.from({ length: BRIDGES_LIMIT }, () => ({
        defaultWindow: { start: DEFAULT_WINDOW_START, size: SCENARIO_WINDOW_SIZE },
        dynamicWindowStart: 2 ** 47,
        busAddressLimit: 2 ** 48,
      })),
      bridgeOf: bridgeOfDevice,
    }),
};

export const IOMMU_NAMES: readonly string[] = Object.keys(CREATORS);

/** @throws RangeError naming the accepted words */
export function createViommu(name: string, ram: GuestRam): VIommu {
  const make = CREATORS[name];
  if (!make) throw new RangeError(`no vIOMMU '${name}'; accepted: ${IOMMU_NAMES.join(', ')}`);
  return make(ram);
}
