/**
 * Every mutant, by area.
 */

import { AMDVI_MUTANTS } from './areas/amdvi.ts';
import { COORDINATOR_MUTANTS } from './areas/coordinator.ts';
import { DEVICE_MUTANTS } from './areas/device.ts';
import { DEVICE_STATE_MUTANTS } from './areas/device-state.ts';
import { GPU_MUTANTS } from './areas/gpu.ts';
import { GUEST_MUTANTS } from './areas/guest.ts';
import { GUEST_GPU_MUTANTS } from './areas/guest-gpu.ts';
import { GUEST_IOMMU_MUTANTS } from './areas/guest-iommu.ts';
import { MDEV_MUTANTS } from './areas/mdev.ts';
import { MEMORY_MUTANTS } from './areas/memory.ts';
import { MIGRATION_MUTANTS } from './areas/migration.ts';
import { MODEL_MUTANTS } from './areas/models.ts';
import { PCI_MUTANTS } from './areas/pci.ts';
import { PIN_TABLE_MUTANTS } from './areas/pin-table.ts';
import { REPORT_MUTANTS } from './areas/report.ts';
import { SPAPR_MUTANTS } from './areas/spapr.ts';
import { VFIO_MUTANTS } from './areas/vfio.ts';
import { VFIO_UAPI_MUTANTS } from './areas/vfio-uapi.ts';
import { VGPU_MUTANTS } from './areas/vgpu.ts';
import { VGPU_ENGINE_MUTANTS } from './areas/vgpu-engine.ts';
import { VGPU_MEMORY_MUTANTS } from './areas/vgpu-memory.ts';
import { VIOMMU_MUTANTS } from './areas/viommu.ts';
import { VIRTIO_MUTANTS } from './areas/virtio.ts';
import { VIRTIO_IOMMU_MUTANTS } from './areas/virtio-iommu.ts';
import { VTD_MUTANTS } from './areas/vtd.ts';
import { VTD_TABLES_MUTANTS } from './areas/vtd-tables.ts';
import type { Mutant } from './mutant.ts';

export const MUTANTS: readonly Mutant[] = [
  ...GPU_MUTANTS,
  ...GUEST_GPU_MUTANTS,
  ...GUEST_IOMMU_MUTANTS,
  ...GUEST_MUTANTS,
  ...MDEV_MUTANTS,
  ...MEMORY_MUTANTS,
  ...MODEL_MUTANTS,
  ...PCI_MUTANTS,
  ...REPORT_MUTANTS,
  ...VGPU_ENGINE_MUTANTS,
  ...VGPU_MEMORY_MUTANTS,
  ...VGPU_MUTANTS,
  ...VIRTIO_MUTANTS,
  ...COORDINATOR_MUTANTS,
  ...DEVICE_MUTANTS,
  ...VIOMMU_MUTANTS,
  ...AMDVI_MUTANTS,
  ...SPAPR_MUTANTS,
  ...VTD_MUTANTS,
  ...VTD_TABLES_MUTANTS,
  ...PIN_TABLE_MUTANTS,
  ...VIRTIO_IOMMU_MUTANTS,
  ...VFIO_MUTANTS,
  ...VFIO_UAPI_MUTANTS,
  ...DEVICE_STATE_MUTANTS,
  ...MIGRATION_MUTANTS,
];
