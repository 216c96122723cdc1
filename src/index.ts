/**
 * The module `mdevsim`: imports of scenario files and of tests of device models.
 */

export { MDPY_HEIGHT, MDPY_WIDTH } from './abi/mdpy.ts';
export { PIXEL_BYTES } from './abi/scanout.ts';
export * as uart from './abi/uart.ts';
export {
  CompletionStatus,
  GLOBAL_CONTEXT,
  GPU_PAGE_64K,
  type GpuEngine,
  Kernel,
  Opcode,
} from './abi/vgpu/vgpu.ts';
export * as vtd from './abi/vtd.ts';
export {
  DeviceHarness,
  type HarnessFault,
  type HarnessMapping,
  type HarnessOptions,
  HarnessViolationError,
} from './device/sdk/harness.ts';
export * from './device/sdk/index.ts';
export { POLICIES, type Policy, type Scheduling } from './gpu/policy.ts';
export { jainIndex, usageBetween, type VgpuStats, type VgpuUsage } from './gpu/stats.ts';
export type { GpuContext, GpuMapping } from './guest/gpu/context.ts';
export {
  CommandTimeoutError,
  DeviceHaltedError,
  DeviceLostError,
  DeviceResetError,
} from './guest/gpu/errors.ts';
export type { GpuCommand, GpuCompletion } from './guest/gpu/ring.ts';
export { NoScanoutError } from './guest/gpu/screenshot.ts';
export type { GpuMode } from './guest/gpu/vram.ts';
export type { SavedDmaBuffer } from './guest/guest-state.ts';
export type { GuestVm } from './guest/guest-vm.ts';
export type { DmaBuffer } from './guest/iommu/dma-api.ts';
export type {
  GuestDomain,
  GuestFault,
  GuestIommu,
  GuestIommuCapabilities,
} from './guest/iommu/guest-iommu.ts';
export {
  type DmaWindowProperties,
  type SpaprDmaWindow,
  SpaprDriver,
  type SpaprDriverOptions,
  type WindowCapabilities,
} from './guest/iommu/spapr/driver.ts';
export type { VirtioIommuDomain, VirtioIommuDriver, VirtioIommuFault } from './guest/iommu/virtio/driver.ts';
export type { VtdDomain, VtdDriver } from './guest/iommu/vtd/driver.ts';
export { type MigrateOptions, type Pause, VmMovedError } from './guest/migration.ts';
export { MigrationError, type MigrationRound, type MigrationStats } from './guest/migration-settings.ts';
export { type GuestPciDevice, InterruptTimeoutError } from './guest/pci-device.ts';
export type { GuestGpu } from './guest/vm-parts.ts';
export {
  allocatePages,
  churnRound,
  filled,
  probeUnmapped,
  SteadyLoad,
  submit,
  verifiedRound,
} from './guest/workload.ts';
export type { Gpa } from './memory/address.ts';
export { offsetBy, PAGE_2M, toIova } from './memory/address.ts';
export type { Counter, Gauge, Metrics, Rate, Tags, Trend } from './metrics/metrics.ts';
export { type DirectedRun, type DirectedVm, DirectorError } from './scenario/directed-run.ts';
export { type Scenario, scenario } from './scenario/scenario.ts';
