/**
 * Creation of a VM's vIOMMU by its kind, the word that scenarios and `--viommu` use.
 */

import { bridgeOfDevice, DEFAULT_WINDOW_START, SCENARIO_WINDOW_SIZE } from '../abi/spapr-host-bridges.ts';
import type { GuestRam } from '../memory/guest-ram.ts';
import { AmdViIommu } from './amdvi/iommu.ts';
import { NoIommu } from './none.ts';
import { BRIDGES_LIMIT, SpaprIommu } from './spapr/iommu.ts';
import type { VIommu } from './viommu.ts';
import { VirtioIommu } from './virtio/iommu.ts';
import { IntelIommu } from './vtd/iommu.ts';

const CREATORS: Readonly<Record<string, (ram: GuestRam) => VIommu>> = {
  none: (ram) => new NoIommu(ram),
  // Caching mode makes the guest announce new mappings too. QEMU requires it for VFIO devices.
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
  amd: (ram) => new AmdViIommu({ ram }),
  // Devices see system memory until the guest attaches them. The host bridge, 00:00.0, is an endpoint too.
  virtio: (ram) => new VirtioIommu({ ram, awBits: 48, bootBypass: true, functions: [0] }),
  // Each device has its own bridge, so windows are not shared. The platform chooses where dynamic windows lie. Here
  // they lie at 2^47, because a container holds 48-bit IOVAs.
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

export const VIOMMU_KINDS: readonly string[] = Object.keys(CREATORS);

/** Creates a vIOMMU in front of `ram`. @throws RangeError for an unknown kind */
export function createViommu(kind: string, ram: GuestRam): VIommu {
  const create = CREATORS[kind];
  if (!create) throw new RangeError(`no vIOMMU '${kind}'; accepted: ${VIOMMU_KINDS.join(', ')}`);
  return create(ram);
}
