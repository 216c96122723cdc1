/**
 * Every mutant, by area.
 */
import { MODEL_MUTANTS } from './areas/models.ts';
import { VGPU_MUTANTS } from './areas/vgpu.ts';
import { VGPU_ENGINE_MUTANTS } from './areas/vgpu-engine.ts';
import { VGPU_MEMORY_MUTANTS } from './areas/vgpu-memory.ts';
import type { Mutant } from './mutant.ts';

export const MUTANTS: readonly Mutant[] = [
  ...VGPU_MUTANTS,
  ...VGPU_ENGINE_MUTANTS,
  ...VGPU_MEMORY_MUTANTS,
  ...MODEL_MUTANTS,
];
