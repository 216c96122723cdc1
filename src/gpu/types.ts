/**
 * vGPU types: the part of a physical GPU's memory and engine that one vGPU of the type has.
 */

export interface VgpuType {
  readonly id: string;
  readonly vramMiB: number;
  /** Part of the engine under the policy fixed-share, in (0, 1]. */
  readonly share: number;
}

/** Memory of a physical GPU, MiB. */
export const GPU_VRAM_MIB = 16 * 1024;

const typeOf = (id: string, vramMiB: number): VgpuType => ({ id, vramMiB, share: vramMiB / GPU_VRAM_MIB });

/** The types of a physical GPU. Memory and engine are divided in the same proportion. */
export const VGPU_TYPES: readonly VgpuType[] = [
  typeOf('vgpu-512m', 512),
  typeOf('vgpu-1g', 1024),
  typeOf('vgpu-2g', 2048),
  typeOf('vgpu-4g', 4096),
  typeOf('vgpu-8g', 8192),
  typeOf('vgpu-16g', 16384),
];

/**
 * Four vGPUs per GPU. More of them share one engine, which then changes threads more often: compared with one GPU
 * each, first light's 16 vGPUs did 0.7 × the operations on one GPU, and 0.94 × with four per GPU.
 */
export const DEFAULT_VGPU_TYPE = 'vgpu-4g';

/** @throws RangeError for an unknown type */
export function vgpuType(id: string): VgpuType {
  const type = VGPU_TYPES.find((candidate) => candidate.id === id);
  if (!type)
    throw new RangeError(`no vGPU type '${id}'; accepted: ${VGPU_TYPES.map((t) => t.id).join(', ')}`);
  return type;
}
