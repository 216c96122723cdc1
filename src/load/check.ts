/**
 * Checks of declared load against the rest of a scenario.
 */
import { METRICS } from '../metrics/catalogue.ts';
import { parseSelector, ThresholdError } from '../metrics/selector.ts';
import { VU_BYTES } from './buffers.ts';
import { compileLoad, mixOf, peakVus } from './compile.ts';
import { type EventSettings, eventProblems } from './events.ts';
import { type Group, type GroupedScenario, groupsOf } from './groups.ts';
import { type IommuMode, type LoadSettings, type ThresholdSettings, VUS_LIMIT } from './schema.ts';
import { type Problem, unknownName } from './settings.ts';
import { OWN_WORKLOAD, WORKLOADS } from './workload-names.ts';

/** Part of a VM's RAM that the buffers of its VUs may take. */
const BUFFER_PART = 1 / 4;
const MIB = 2 ** 20;
/** Limit of RAM behind sPAPR: with a TCE per vGPU and 4 KiB, the vGPUs of a VM stay below the platform's 2^20 TCEs. */
export const SPAPR_RAM_MIB_MAX = 128;

/** The settings of a scenario that its load depends on. */
export interface LoadedScenario extends GroupedScenario {
  readonly load?: LoadSettings | undefined;
  readonly events: EventSettings;
  readonly thresholds: ThresholdSettings;
  readonly model: string;
  readonly mdevs?: unknown;
}

/** The functions of a scenario. */
export interface ScenarioFunctions {
  readonly guest: boolean;
  readonly iteration: boolean;
}

/** Returns what does not fit together in settings that are valid one by one. */
export function loadProblems(scenario: LoadedScenario): Problem[] {
  const { load, iommu, model, groups, mdevs } = scenario;
  const problems: Problem[] = [];
  const add: AddProblem = (path, message) => problems.push({ path, message });
  if (groups && !load) add(['groups'], 'groups without load; accepted: stages of load');
  if (iommu !== undefined && !load)
    add(
      ['iommu'],
      `${iommu} without load: a guest's script uses its vIOMMU itself; accepted: iommu with load`,
    );
  problems.push(...eventProblems(scenario, compileLoad(load ?? {})));
  if (!load) return problems;
  if (model !== 'vgpu') add(['load'], `load on the model '${model}'; accepted: the model vgpu`);
  if (groups && mdevs !== undefined) add(['mdevs'], 'definitions with groups; accepted: one of them');
  const all = groupsOf(scenario);
  if (all.every(({ bootUs }) => bootUs > 0))
    add(['groups'], 'no group boots at 0s; accepted: at least one, which starts the clock');
  const names = all.map(({ name }) => name);
  for (const [name, { group }] of Object.entries(load))
    if (group !== undefined && !groups)
      add(
        ['load', name, 'group'],
        `no group '${group}'; accepted: no group, because the scenario has no groups`,
      );
    else if (group !== undefined && !names.includes(group))
      add(['load', name, 'group'], unknownName('group', group, names));
  for (const group of all) checkGroup(group, load, groups ? ['groups', group.name] : [], add);
  return problems;
}

/** Returns the modes of the vIOMMU in which a workload runs that needs translation. */
const acceptedModes = (workload: string): readonly IommuMode[] =>
  WORKLOADS[workload]?.lazy ? ['lazy'] : ['strict', 'lazy'];

type AddProblem = (path: readonly PropertyKey[], message: string) => void;

/** Checks a group, whose settings are at `at`, with the stages that run on it. */
function checkGroup(group: Group, load: LoadSettings, at: readonly string[], add: AddProblem): void {
  const { viommu, iommu, ramMiB, vgpus } = group;
  if (iommu !== 'off' && viommu === 'none') add([...at, 'iommu'], `${iommu} without a vIOMMU; accepted: off`);
  if (iommu === 'lazy' && viommu === 'spapr')
    add([...at, 'iommu'], 'lazy behind spapr, where a changed TCE takes effect at once; accepted: strict');
  if (viommu === 'spapr' && ramMiB > SPAPR_RAM_MIB_MAX)
    add(
      [...at, 'ramMiB'],
      `${ramMiB} behind spapr, which maps RAM by pages; accepted: up to ${SPAPR_RAM_MIB_MAX}`,
    );
  const stages = Object.entries(load).filter(([, stage]) => (stage.group ?? group.name) === group.name);
  for (const [name, { workload }] of stages)
    for (const [each] of mixOf(workload))
      if (WORKLOADS[each]?.translation && !acceptedModes(each).includes(iommu))
        add(
          ['load', name, 'workload'],
          `${each} needs translation; accepted with a vIOMMU and iommu: ${acceptedModes(each).join(' or ')} (here: ${viommu}, ${iommu})`,
        );
  const peak = peakVus(compileLoad(Object.fromEntries(stages)));
  if (peak > VUS_LIMIT)
    add(
      ['load'],
      `${peak} VUs on a vGPU at one time; accepted: at most ${VUS_LIMIT} over stages that overlap`,
    );
  const used = new Set(stages.flatMap(([, { workload }]) => mixOf(workload).map(([each]) => each)));
  const shared = [...used].reduce((sum, each) => sum + (WORKLOADS[each]?.vgpuBytes ?? 0), 0);
  const bytes = vgpus * (peak * VU_BYTES + shared);
  if (bytes > ramMiB * MIB * BUFFER_PART)
    add(
      ['load'],
      `the buffers of ${peak} VUs on each of ${vgpus} vGPUs need ${Math.ceil(bytes / BUFFER_PART / MIB)} MiB of RAM; ` +
        `the VM has ${ramMiB}`,
    );
}

/** Returns what does not fit the functions of a scenario. A data file has none. */
export function functionProblems(scenario: LoadedScenario, functions: ScenarioFunctions): Problem[] {
  const { load = {}, thresholds } = scenario;
  const known = { stage: Object.keys(load), group: groupsOf(scenario).map(({ name }) => name) };
  const problems: Problem[] = [];
  for (const [name, { workload }] of Object.entries(load))
    if (!functions.iteration && mixOf(workload).some(([each]) => each === OWN_WORKLOAD))
      problems.push({
        path: ['load', name, ...(workload === undefined ? [] : ['workload'])],
        message:
          workload === undefined
            ? `no workload; accepted: ${Object.keys(WORKLOADS).join(', ')}`
            : `'${OWN_WORKLOAD}' is the scenario's own function, and it has none; accepted: ${Object.keys(WORKLOADS).join(', ')}`,
      });
  if (functions.guest && scenario.events.length > 0)
    problems.push({
      path: ['events'],
      message:
        'events of VMs with a script guest(vm), which neither moves nor reboots; accepted: no guest(vm)',
    });
  for (const text of Object.keys(thresholds)) {
    const problem = thresholdProblem(text, known, functions.guest || functions.iteration);
    if (problem !== undefined) problems.push({ path: ['thresholds', text], isName: true, message: problem });
  }
  return problems;
}

function thresholdProblem(
  text: string,
  known: { readonly stage: readonly string[]; readonly group: readonly string[] },
  ownMetrics: boolean,
): string | undefined {
  try {
    const { name, tags } = parseSelector(text, ownMetrics);
    for (const tag of ['stage', 'group'] as const) {
      const value = tags[tag];
      if (name in METRICS && value !== undefined && !known[tag].includes(value))
        return unknownName(tag, value, known[tag]);
    }
    return undefined;
  } catch (error) {
    if (error instanceof ThresholdError) return error.message;
    throw error;
  }
}
