/**
 * vGPU types: what part of a physical GPU's memory and engine one vGPU of the type has.
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

/** The types of a physical GPU: memory and engine are divided alike. */
export const VGPU_TYPES: readonly VgpuType[] = [
  typeOf('vgpu-512m', 512),
  typeOf('vgpu-1g', 1024),
  typeOf('vgpu-2g', 2048),
  typeOf('vgpu-4g', 4096),
  typeOf('vgpu-8g', 8192),
  typeOf('vgpu-16g', 16384),
];

/**
 * Four to a GPU. Sixteen share one engine at the price of handing it from thread to thread: first light's 16 vGPUs then did
 * 0.7 × the operations, with four to a GPU 0.94 ×, of those with a GPU each.
 */
export const DEFAULT_VGPU_TYPE = 'vgpu-4g';

/** @throws RangeError for a type that is not there */
export function vgpuType(id: string): VgpuType {
  const type = VGPU_TYPES.find((candidate) => candidate.id === id);
  if (!type)
    throw new RangeError(`no vGPU type '${id}'; accepted: ${VGPU_TYPES.map((t) => t.id).join(', ')}`);
  return type;
}
