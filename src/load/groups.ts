/**
 * Groups of VMs that are alike. A scenario without `groups` has one.
 */
import { parseDuration } from '../metrics/units.ts';
import { ONLY_GROUP } from './compile.ts';
import type { Share } from './schedule.ts';
import type { IommuMode } from './schema.ts';

/** Settings of a group; those that are missing are the scenario's. */
interface GroupSettings {
  readonly vms: number;
  readonly vgpus: number;
  readonly ramMiB?: number | undefined;
  readonly viommu?: string | undefined;
  readonly iommu?: IommuMode | undefined;
  readonly types?: readonly string[] | undefined;
  /** Boot of the first VM on the run's clock, and the time between two boots. */
  readonly boot?: { readonly at: string; readonly every: string } | undefined;
}

/** The settings of a scenario that its groups depend on. */
export interface GroupedScenario {
  readonly vms: number;
  readonly vgpus: number;
  readonly ramMiB: number;
  readonly viommu: string;
  readonly iommu?: IommuMode | undefined;
  readonly gpu: { readonly types: readonly string[] };
  readonly groups?: Readonly<Record<string, GroupSettings>> | undefined;
}

export interface Group {
  readonly name: string;
  readonly vms: number;
  readonly vgpus: number;
  readonly ramMiB: number;
  readonly viommu: string;
  readonly iommu: IommuMode;
  /** Types of a VM's vGPUs, by index; after the last type, the first one follows again. */
  readonly types: readonly string[];
  readonly bootUs: number;
  readonly bootEveryUs: number;
}

/** A VM of a group. */
export interface GroupVm extends Group {
  readonly vm: number;
  readonly share: Share;
}

export function groupsOf(scenario: GroupedScenario): readonly Group[] {
  const { vms, vgpus, groups = { [ONLY_GROUP]: { vms, vgpus } } } = scenario;
  return Object.entries(groups).map(([name, group]) => {
    const viommu = group.viommu ?? scenario.viommu;
    return {
      name,
      vms: group.vms,
      vgpus: group.vgpus,
      ramMiB: group.ramMiB ?? scenario.ramMiB,
      viommu,
      iommu: group.iommu ?? scenario.iommu ?? (viommu === 'none' ? 'off' : 'strict'),
      types: group.types ?? scenario.gpu.types,
      bootUs: parseDuration(group.boot?.at ?? '0s') ?? 0,
      bootEveryUs: parseDuration(group.boot?.every ?? '0s') ?? 0,
    };
  });
}

/** Returns the VMs of all groups, in order of their numbers. */
export function vmsOf(scenario: GroupedScenario): readonly GroupVm[] {
  const members = groupsOf(scenario).flatMap((group) =>
    Array.from({ length: group.vms }, (_, index) => ({
      ...group,
      bootUs: group.bootUs + index * group.bootEveryUs,
      share: { index, count: group.vms },
    })),
  );
  return members.map((member, vm) => ({ ...member, vm }));
}
