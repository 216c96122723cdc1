/**
 * What scenario files, and the tests of device models, import from `mdevsim`.
 */

export type { Gpa } from './address/address.ts';
export { PAGE_2M } from './address/address.ts';
export {
  DeviceHarness,
  type HarnessFault,
  type HarnessMapping,
  type HarnessOptions,
} from './device/harness.ts';
export * from './device/sdk.ts';
export { jainIndex, usageBetween, type VgpuFigures, type VgpuUsage } from './gpu/figures.ts';
export { POLICIES, type Policy, type Scheduling } from './gpu/policy.ts';
export type { DmaBuffer } from './guest/dma-api.ts';
export type { GpuContext, GpuMapping } from './guest/gpu-context.ts';
export type { GpuCommand, GpuCompletion } from './guest/gpu-driver.ts';
export {
  CommandTimeoutError,
  DeviceHaltedError,
  DeviceLostError,
  DeviceResetError,
} from './guest/gpu-driver.ts';
export type { GpuMode } from './guest/gpu-vram.ts';
export type { SavedDmaBuffer } from './guest/guest-state.ts';
export type { GuestGpu, GuestVm } from './guest/guest-vm.ts';
export type { GuestDomain, GuestFault, GuestIommu, GuestIommuCapabilities } from './guest/iommu-driver.ts';
export { type MigrateOptions, type Pause, VmMovedError } from './guest/migration.ts';
export { MigrationError, type MigrationFigures, type MigrationRound } from './guest/migration-settings.ts';
export { type GuestPciDevice, InterruptTimeoutError } from './guest/pci-device.ts';
export { NoScanoutError } from './guest/screenshot.ts';
export { type DmaWindow, type SpaprDomain, SpaprDriver } from './guest/spapr-driver.ts';
export type { VirtioIommuDomain, VirtioIommuDriver, VirtioIommuFault } from './guest/virtio-iommu-driver.ts';
export type { VtdDomain } from './guest/vtd-domain.ts';
export type { VtdDriver } from './guest/vtd-driver.ts';
export {
  allocatePages,
  churnRound,
  filled,
  probeUnmapped,
  SteadyLoad,
  submit,
  verifiedRound,
} from './guest/workload.ts';
export {
  CompletionStatus,
  GLOBAL_CONTEXT,
  GPU_PAGE_64K,
  type GpuEngine,
  Kernel,
  Opcode,
} from './pci/vgpu-interface.ts';
export * as vtd from './pci/vtd-format.ts';
export { type Scenario, scenario } from './scenario/scenario.ts';
