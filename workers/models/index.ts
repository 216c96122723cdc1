/**
 * The models a device worker can run, by the name a scenario uses.
 */
import { factoryOf } from '../../src/device/definition.ts';
import type { ModelFactory } from '../../src/device/model.ts';
import edu from './edu/edu.ts';
import { FAULTY_PARTS } from './vgpu/faulty.ts';
import { Vgpu, type VgpuOptions } from './vgpu/vgpu.ts';

export const MODELS: Readonly<Record<string, ModelFactory>> = {
  vgpu: (context, { fault, seat }: VgpuOptions) =>
    new Vgpu(context, fault === '' ? undefined : FAULTY_PARTS[fault], seat),
  edu: factoryOf(edu),
};
