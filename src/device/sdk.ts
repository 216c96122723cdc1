/**
 * What a device model's file imports from `mdevsim/device`: small, because every device worker loads it.
 */
export { type Hpa, type Iova, PAGE_SIZE, PERM_READ, PERM_RW, PERM_WRITE } from '../address/address.ts';
export { ConfigSpace, type PciCapability, type PciIdentity } from '../pci/config-space.ts';
export { RegisterFile, type RegisterSpec, RegisterTableError } from '../pci/registers.ts';
export type { Scanout } from '../pci/scanout.ts';
export {
  type BarDefinition,
  type DefinedContext,
  type DeviceBehaviour,
  type DeviceDefinition,
  DeviceDefinitionError,
  type DeviceIdentity,
  defineDevice,
} from './definition.ts';
export { type DeviceDma, DMA_FAULT, DMA_OK, DMA_RETRY, type DmaStatus } from './dma.ts';
export { DeviceMemory } from './memory.ts';
export type {
  BarIndex,
  BarRegion,
  DeviceContext,
  DeviceMetrics,
  DeviceModel,
  DeviceOptions,
  DeviceTimers,
  ModelFactory,
  StepResult,
} from './model.ts';
