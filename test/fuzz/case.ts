/**
 * Skeleton of a fuzz case: plugs devices, runs the start steps, then random steps with an observation after each.
 */
import type { VIommu } from '../../src/viommu/viommu.ts';
import { DEVICES, type World } from './rig.ts';

export type Step = () => void;

/** One vIOMMU's part of a case. */
export interface FuzzProgram {
  readonly iommu: VIommu;
  /** Maximum count of random steps. */
  readonly stepLimit: number;
  /** Steps before the random ones. */
  readonly startSteps: readonly Step[];
  /** Random steps of this vIOMMU. A step that is listed twice is twice as likely. */
  readonly steps: readonly Step[];
  /** Returns how many walks per device the model has made so far. */
  walks(): number;
  /** Checks the model's limits and adds its visible state to the digest. */
  observe(): void;
}

export async function runProgram(world: World, program: FuzzProgram): Promise<void> {
  const { draw } = world;
  const { iommu, startSteps } = program;
  const run = (step: Step) => world.step(step, () => program.walks(), draw.chance(80));
  const steps = [...program.steps, ...commonSteps(world, iommu)];
  for (const id of DEVICES) if (draw.chance(60)) world.plug(iommu, id);
  for (const step of startSteps) await run(step);
  for (let left = 1 + draw.below(program.stepLimit); left > 0; left--) {
    await run(draw.one(steps));
    program.observe();
  }
}

/** Random steps of every vIOMMU: plug or unplug a device, switch slow removals, audit. */
const commonSteps = (world: World, iommu: VIommu): Step[] => [
  () => {
    const id = world.draw.one(DEVICES);
    if (world.draw.chance(60)) world.plug(iommu, id);
    else world.unplug(iommu, id);
  },
  () => world.setSlow(world.draw.chance(50)),
  () => {
    world.check();
    for (const id of world.plugged.slice(0, 1)) world.audit(id);
  },
];
