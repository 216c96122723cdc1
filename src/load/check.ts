/**
 * Checks of declared load against the rest of a scenario.
 */
import { METRICS } from '../metrics/catalogue.ts';
import { parseSelector, ThresholdError } from '../metrics/selector.ts';
import { VU_BYTES } from './buffers.ts';
import { compileLoad, mixOf, peakVus } from './compile.ts';
import { type IommuMode, type LoadSettings, type ThresholdSettings, VUS_LIMIT } from './schema.ts';
import { type Problem, unknownName } from './settings.ts';
import { OWN_WORKLOAD, WORKLOADS } from './workload-names.ts';

/** Part of a VM's RAM that the buffers of its VUs may take. */
const BUFFER_PART = 1 / 4;
const MIB = 2 ** 20;

/** The settings of a scenario that its load depends on. */
export interface LoadedScenario {
  readonly load?: LoadSettings | undefined;
  readonly thresholds: ThresholdSettings;
  readonly iommu?: IommuMode | undefined;
  readonly viommu: string;
  readonly model: string;
  readonly vgpus: number;
  readonly ramMiB: number;
}

/** The functions of a scenario. */
export interface ScenarioFunctions {
  readonly guest: boolean;
  readonly iteration: boolean;
}

/** Returns the mode of a guest's vIOMMU. */
export const iommuModeOf = ({ iommu, viommu }: Pick<LoadedScenario, 'iommu' | 'viommu'>): IommuMode =>
  iommu ?? (viommu === 'none' ? 'off' : 'strict');

/** Returns what does not fit together in settings that are valid one by one. */
export function loadProblems(scenario: LoadedScenario): Problem[] {
  const { load, iommu, viommu, model } = scenario;
  const problems: Problem[] = [];
  const add = (path: readonly PropertyKey[], message: string) => problems.push({ path, message });
  if (iommu !== undefined && load === undefined)
    add(
      ['iommu'],
      `${iommu} without load: a guest's script uses its vIOMMU itself; accepted: iommu with load`,
    );
  if (!load) return problems;
  if (model !== 'vgpu') add(['load'], `load on the model '${model}'; accepted: the model vgpu`);
  const mode = iommuModeOf(scenario);
  if (mode !== 'off' && viommu === 'none') add(['iommu'], `${mode} without a vIOMMU; accepted: off`);
  for (const [name, stage] of Object.entries(load)) {
    if (stage.group !== undefined)
      add(
        ['load', name, 'group'],
        `no group '${stage.group}'; accepted: no group, because the scenario has no groups`,
      );
    for (const [workload] of mixOf(stage.workload))
      if (WORKLOADS[workload]?.translation && (mode !== 'strict' || viommu === 'none'))
        add(
          ['load', name, 'workload'],
          `${workload} needs translation; accepted with a vIOMMU and iommu: strict (here: ${viommu}, ${mode})`,
        );
  }
  const peak = peakVus(compileLoad(load));
  if (peak > VUS_LIMIT)
    add(
      ['load'],
      `${peak} VUs on a vGPU at one time; accepted: at most ${VUS_LIMIT} over stages that overlap`,
    );
  const bytes = peak * scenario.vgpus * VU_BYTES;
  const room = scenario.ramMiB * MIB * BUFFER_PART;
  if (bytes > room)
    add(
      ['load'],
      `${peak} VUs on each of ${scenario.vgpus} vGPUs need ${Math.ceil(bytes / BUFFER_PART / MIB)} MiB of RAM; ` +
        `the VM has ${scenario.ramMiB}`,
    );
  return problems;
}

/** Returns what does not fit the functions of a scenario. A data file has none. */
export function functionProblems(
  { load = {}, thresholds }: LoadedScenario,
  functions: ScenarioFunctions,
): Problem[] {
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
  for (const text of Object.keys(thresholds)) {
    const problem = thresholdProblem(text, Object.keys(load), functions.guest || functions.iteration);
    if (problem !== undefined) problems.push({ path: ['thresholds', text], isName: true, message: problem });
  }
  return problems;
}

function thresholdProblem(text: string, stages: readonly string[], ownMetrics: boolean): string | undefined {
  try {
    const { name, tags } = parseSelector(text, ownMetrics);
    if (name in METRICS && tags.stage !== undefined && !stages.includes(tags.stage))
      return unknownName('stage', tags.stage, stages);
    return undefined;
  } catch (error) {
    if (error instanceof ThresholdError) return error.message;
    throw error;
  }
}
