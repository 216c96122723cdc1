/**
 * The guest's driver for its vIOMMU, by the word a scenario uses.
 */
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { RegisterPort } from '../register-port.ts';
import type { GuestIommu } from './guest-iommu.ts';
import { SoftwareSwitchedSpapr, type SwitchedSpaprState } from './spapr/switched-driver.ts';
import type { VirtioIommuDriver } from './virtio/driver.ts';
import { SoftwareSwitchedVirtioIommu, type SwitchedVirtioState } from './virtio/switched-driver.ts';
import { VtdDriver, type VtdDriverState, type VtdMode } from './vtd/driver.ts';
import { ForgetfulVtdDriver, type ForgetfulVtdState } from './vtd/fault-injection.ts';

/** What a driver is made from. */
export interface GuestMachine {
  /** The word: `intel`, `virtio`, … */
  readonly viommu: string;
  readonly ram: GuestRam;
  /** Pages below 4 GiB, for tables and queues. */
  readonly pages: PageAllocator;
  readonly params: Readonly<Record<string, unknown>>;
  readonly requesterIds: readonly number[];
  /** A deliberate fault of the driver, by name; empty for a sound one. */
  readonly fault: string;
  registers(): RegisterPort;
  /** The VM's one virtio-iommu driver: scripts may use it beside the interface. */
  virtioIommu(): Promise<VirtioIommuDriver>;
}

/** What a driver is made from that another host has saved: its virtio-iommu driver is restored already. */
export interface RestoredMachine extends Omit<GuestMachine, 'virtioIommu'> {
  readonly virtioIommu: VirtioIommuDriver | undefined;
}

/** The VT-d driver's mode, by the vIOMMU's word and the parameter `stage`. */
const VTD_MODES: Readonly<Record<string, Readonly<Record<string, VtdMode>>>> = {
  intel: { second: 'legacy' },
  'intel-scalable': { second: 'second-stage', first: 'first-stage' },
};

/** @throws Error for a stage that this VT-d does not have */
function vtdMode(viommu: string, stage: string): VtdMode {
  const modes = VTD_MODES[viommu] ?? {};
  const mode = modes[stage];
  if (!mode) throw new Error(`no stage '${stage}' on '${viommu}'; accepted: ${Object.keys(modes)}`);
  return mode;
}

async function makeVtd(machine: GuestMachine): Promise<GuestIommu> {
  const mode = vtdMode(machine.viommu, String(machine.params.stage ?? 'second'));
  const Driver = machine.fault === 'skip-invalidation' ? ForgetfulVtdDriver : VtdDriver;
  const driver = new Driver(machine.registers(), machine.ram, machine.pages, { mode });
  await driver.start();
  return driver;
}

function restoreVtd(machine: RestoredMachine, saved: unknown): GuestIommu {
  const { ram, pages } = machine;
  if (machine.fault === 'skip-invalidation')
    return ForgetfulVtdDriver.restore(machine.registers(), ram, pages, saved as ForgetfulVtdState);
  return VtdDriver.restore(machine.registers(), ram, pages, saved as VtdDriverState);
}

interface Maker {
  make(machine: GuestMachine): Promise<GuestIommu>;
  /** @param saved what the driver's `save()` gave */
  restore(machine: RestoredMachine, saved: unknown): GuestIommu;
  /** Devices see nothing until the driver has started: the guest's kernel starts it before theirs. */
  readonly atBoot: boolean;
}

const CREATORS: Readonly<Record<string, Maker>> = {
  intel: { make: makeVtd, restore: restoreVtd, atBoot: false },
  'intel-scalable': { make: makeVtd, restore: restoreVtd, atBoot: false },
  virtio: {
    make: async (machine) => new SoftwareSwitchedVirtioIommu(await machine.virtioIommu()),
    restore: ({ virtioIommu }, saved) => {
      if (!virtioIommu) throw new Error('the saved guest has no virtio-iommu driver behind its vm.iommu()');
      return SoftwareSwitchedVirtioIommu.restore(virtioIommu, saved as SwitchedVirtioState);
    },
    atBoot: false,
  },
  spapr: {
    make: ({ registers, ram, pages, requesterIds }) =>
      SoftwareSwitchedSpapr.create(registers(), ram, pages, requesterIds),
    restore: ({ registers, ram, pages }, saved) =>
      SoftwareSwitchedSpapr.restore(registers(), ram, pages, saved as SwitchedSpaprState),
    atBoot: true,
  },
};

/** True if devices work only once the driver has started. */
export const startsAtBoot = (viommu: string): boolean => CREATORS[viommu]?.atBoot ?? false;

/** @throws Error if there is no such vIOMMU */
function makerOf(viommu: string): Maker {
  const maker = CREATORS[viommu];
  if (!maker)
    throw new Error(
      `vm.iommu(): vIOMMU '${viommu}' has no driver; accepted: ${Object.keys(CREATORS).join(', ')}. Ask vm.viommu first`,
    );
  return maker;
}

/** A started driver; translation is disabled. @throws Error if there is no such vIOMMU, the driver's own errors */
export async function createGuestIommu(machine: GuestMachine): Promise<GuestIommu> {
  return makerOf(machine.viommu).make(machine);
}

/**
 * A driver that goes on where another was, on another host. Guest RAM and the vIOMMU are as that one left them; neither
 * is touched.
 * @param saved what {@link GuestIommu.save} of a driver for the same vIOMMU gave; its shape is not checked
 * @throws Error if there is no such vIOMMU
 */
export function restoreGuestIommu(machine: RestoredMachine, saved: unknown): GuestIommu {
  return makerOf(machine.viommu).restore(machine, saved);
}
