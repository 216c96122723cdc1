/**
 * What a device model's file imports from `mdevsim/device`: small, because every device worker loads it.
 */
export { type Hpa, type Iova, PAGE_SIZE, PERM_READ, PERM_RW, PERM_WRITE } from '../address/address.ts';
export { StateError, type StateReader, type StateValue, type StateValues } from '../channel/state-bag.ts';
export { ConfigSpace, type PciCapability, type PciIdentity } from '../pci/config-space.ts';
export { Msix } from '../pci/msix.ts';
export { type MsixPlace, msixRegisters } from '../pci/msix-format.ts';
export { RegisterFile, type RegisterSpec, RegisterTableError } from '../pci/registers.ts';
export type { Scanout } from '../pci/scanout.ts';
export {
  type BarDefinition,
  type DefinedContext,
  type DeviceBehaviour,
  type DeviceDefinition,
  DeviceDefinitionError,
  defineDevice,
  type MemoryBarDefinition,
  type RegisterBarDefinition,
} from './definition.ts';
export { type DeviceDma, DMA_FAULT, DMA_OK, DMA_RETRY, type DmaStatus } from './dma.ts';
export type { DeviceIdentity } from './identity.ts';
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
  ModelState,
  StepResult,
} from './model.ts';
