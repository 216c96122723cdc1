/**
 * The models a device worker can run, by the name a scenario uses.
 */
import type { ModelFactory } from '../../src/device/model.ts';
import { FAULTY_PARTS } from './vgpu/faulty.ts';
import { Vgpu } from './vgpu/vgpu.ts';

export const MODELS: Readonly<Record<string, ModelFactory>> = {
  vgpu: (context, { fault }) => new Vgpu(context, fault === '' ? undefined : FAULTY_PARTS[fault]),
};
