/**
 * The ready-made workloads and what each needs of its VM.
 */

import { PAGE_2M } from '../memory/address.ts';

interface WorkloadNeeds {
  /** One iteration, for lists. */
  readonly meaning: string;
  /** Needs translation that is on: a vIOMMU, and `iommu: strict` or `lazy`. */
  readonly translation?: boolean;
  /** Needs `iommu: lazy`. */
  readonly lazy?: boolean;
  /** Guest RAM that it takes for each vGPU, beside the buffers of the VUs. */
  readonly vgpuBytes?: number;
  /** Changes the address space of a device while others work. */
  readonly switches?: boolean;
}

export const WORKLOADS: Readonly<Record<string, WorkloadNeeds>> = {
  fill: { meaning: 'fills 16 KiB with a random word' },
  copy: { meaning: 'copies 16 KiB of random words' },
  compute: { meaning: 'y = a·x + y on 1024 floats' },
  checksum: { meaning: 'the CRC-32 of 16 KiB of random words' },
  'dma-churn': { meaning: 'maps 2 new pages, fills, copies and unmaps them', translation: true },
  'dma-lazy': {
    meaning: 'as dma-churn; some iterations use a page once more, before or after the flush of its unmap',
    translation: true,
    lazy: true,
  },
  'iommu-flap': { meaning: 'disables and enables translation of the VM', translation: true, switches: true },
  'domain-switch': {
    meaning: 'moves the vGPU into a new domain and back',
    translation: true,
    switches: true,
  },
  'passthrough-flip': {
    meaning: 'sets the vGPU to pass-through and back',
    translation: true,
    switches: true,
  },
  'big-buffers': {
    meaning: 'maps 2 MiB as one large page, fills 1 MiB, copies it, sums it and unmaps',
    vgpuBytes: PAGE_2M,
  },
  'shadow-storm': {
    meaning: 'changes the GPU page table between two buffers, by the CPU and by the engine, and fills each',
  },
  'display-flip': { meaning: 'flips between two pictures in VRAM and waits for the frame' },
  reset: { meaning: 'resets the function of the vGPU and restores its state' },
  hang: { meaning: "a kernel that never ends, until its engine's reset" },
};

/** Name of the scenario's own `iteration` function in a mix. */
export const OWN_WORKLOAD = 'iteration';

/** All names that a stage may use. */
export const WORKLOAD_NAMES: readonly string[] = [...Object.keys(WORKLOADS), OWN_WORKLOAD];
