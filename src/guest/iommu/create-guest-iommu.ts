/**
 * Creates or restores the guest's driver for a vIOMMU of any kind.
 */
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { RegisterPort } from '../register-port.ts';
import { AmdViDriver, type AmdViDriverState } from './amdvi/driver.ts';
import { SkippingAmdViDriver, type SkippingAmdViState } from './amdvi/fault-injection.ts';
import type { GuestIommu } from './guest-iommu.ts';
import { SoftwareSwitchedSpapr, type SwitchedSpaprState } from './spapr/switched-driver.ts';
import type { VirtioIommuDriver } from './virtio/driver.ts';
import { SoftwareSwitchedVirtioIommu, type SwitchedVirtioState } from './virtio/switched-driver.ts';
import { VtdDriver, type VtdDriverState, type VtdMode } from './vtd/driver.ts';
import { SkippingVtdDriver, type SkippingVtdState } from './vtd/fault-injection.ts';

/** The parts of a guest that its driver for the vIOMMU uses. */
export interface GuestIommuParts {
  /** Kind of the vIOMMU: `intel`, `intel-scalable`, `amd`, `virtio` or `spapr`. */
  readonly viommu: string;
  readonly ram: GuestRam;
  /** Pages below 4 GiB, for tables and queues. */
  readonly pages: PageAllocator;
  /** The scenario's parameters; the VT-d driver reads `stage`. */
  readonly params: Readonly<Record<string, unknown>>;
  readonly requesterIds: readonly number[];
  /** Name of a fault to inject into the driver; empty for none. */
  readonly fault: string;
  registers(): RegisterPort;
  /** The VM's only virtio-iommu driver, which scripts may also use directly. */
  virtioIommu(): Promise<VirtioIommuDriver>;
}

/** The parts on restore, when the virtio-iommu driver, if any, is restored already. */
interface RestoredGuestIommuParts extends Omit<GuestIommuParts, 'virtioIommu'> {
  readonly virtioIommu: VirtioIommuDriver | undefined;
}

/** Modes of the VT-d driver, by kind of vIOMMU and the parameter `stage`. */
const VTD_MODES: Readonly<Record<string, Readonly<Record<string, VtdMode>>>> = {
  intel: { second: 'legacy' },
  'intel-scalable': { second: 'second-stage', first: 'first-stage' },
};

/** @throws Error for an unknown stage */
function vtdMode(viommu: string, stage: string): VtdMode {
  const modes = VTD_MODES[viommu] ?? {};
  const mode = modes[stage];
  if (!mode) throw new Error(`no stage '${stage}' on '${viommu}'; accepted: ${Object.keys(modes)}`);
  return mode;
}

async function createVtd(parts: GuestIommuParts): Promise<GuestIommu> {
  const mode = vtdMode(parts.viommu, String(parts.params.stage ?? 'second'));
  const Driver = parts.fault === 'skip-invalidation' ? SkippingVtdDriver : VtdDriver;
  const driver = new Driver(parts.registers(), parts.ram, parts.pages, { mode });
  await driver.start();
  return driver;
}

function restoreVtd(parts: RestoredGuestIommuParts, saved: unknown): GuestIommu {
  const { ram, pages } = parts;
  if (parts.fault === 'skip-invalidation')
    return SkippingVtdDriver.restore(parts.registers(), ram, pages, saved as SkippingVtdState);
  return VtdDriver.restore(parts.registers(), ram, pages, saved as VtdDriverState);
}

interface DriverFactory {
  create(parts: GuestIommuParts): Promise<GuestIommu>;
  /** @param saved result of the driver's `save()` */
  restore(parts: RestoredGuestIommuParts, saved: unknown): GuestIommu;
  /**
   * True if devices see nothing before the driver has started: a guest kernel starts it before the device drivers.
   */
  readonly atBoot: boolean;
}

const FACTORIES: Readonly<Record<string, DriverFactory>> = {
  intel: { create: createVtd, restore: restoreVtd, atBoot: false },
  'intel-scalable': { create: createVtd, restore: restoreVtd, atBoot: false },
  amd: {
    create: async ({ registers, ram, pages, requesterIds, fault }) => {
      const Driver = fault === 'skip-invalidation' ? SkippingAmdViDriver : AmdViDriver;
      const driver = new Driver(registers(), ram, pages, requesterIds);
      await driver.start();
      return driver;
    },
    restore: ({ registers, ram, pages, fault }, saved) =>
      fault === 'skip-invalidation'
        ? SkippingAmdViDriver.restore(registers(), ram, pages, saved as SkippingAmdViState)
        : AmdViDriver.restore(registers(), ram, pages, saved as AmdViDriverState),
    atBoot: false,
  },
  virtio: {
    create: async (parts) => new SoftwareSwitchedVirtioIommu(await parts.virtioIommu()),
    restore: ({ virtioIommu }, saved) => {
      if (!virtioIommu) throw new Error('the saved guest has no virtio-iommu driver behind its vm.iommu()');
      return SoftwareSwitchedVirtioIommu.restore(virtioIommu, saved as SwitchedVirtioState);
    },
    atBoot: false,
  },
  spapr: {
    create: ({ registers, ram, pages, requesterIds }) =>
      SoftwareSwitchedSpapr.create(registers(), ram, pages, requesterIds),
    restore: ({ registers, ram, pages }, saved) =>
      SoftwareSwitchedSpapr.restore(registers(), ram, pages, saved as SwitchedSpaprState),
    atBoot: true,
  },
};

/** Returns true if devices work only after the driver has started. */
export const startsAtBoot = (viommu: string): boolean => FACTORIES[viommu]?.atBoot ?? false;

/** @throws Error for an unknown kind of vIOMMU */
function factoryOf(viommu: string): DriverFactory {
  const factory = FACTORIES[viommu];
  if (!factory)
    throw new Error(
      `vm.iommu(): vIOMMU '${viommu}' has no driver; accepted: ${Object.keys(FACTORIES).join(', ')}. Check vm.viommu first`,
    );
  return factory;
}

/**
 * Resolves to a started driver; translation is disabled.
 * @throws Error for an unknown kind; the driver's own errors
 */
export async function createGuestIommu(parts: GuestIommuParts): Promise<GuestIommu> {
  return factoryOf(parts.viommu).create(parts);
}

/**
 * Restores a driver that was saved on another host. Guest RAM and the vIOMMU are restored already and are not
 * touched.
 * @param saved result of {@link GuestIommu.save} of a driver for the same vIOMMU; its shape is not checked
 * @throws Error for an unknown kind of vIOMMU
 */
export function restoreGuestIommu(parts: RestoredGuestIommuParts, saved: unknown): GuestIommu {
  return factoryOf(parts.viommu).restore(parts, saved);
}
