/**
 * The names that a device model's file imports from `mdevsim/device`. Only what models need: every device worker
 * loads it.
 */

export type { Scanout } from '../../abi/scanout.ts';
export { type Hpa, type Iova, PAGE_SIZE, PERM_READ, PERM_RW, PERM_WRITE } from '../../memory/address.ts';
export type { PciCapability } from '../../pci/capability.ts';
export { ConfigSpace, type PciIdentity } from '../../pci/config-space.ts';
export { Msix } from '../../pci/msix.ts';
export { type MsixPlace, msixRegisters } from '../../pci/msix-format.ts';
export { StateError, type StateReader, type StateValue, type StateValues } from '../../proto/state-codec.ts';
export { RegisterFile, type RegisterSpec, RegisterTableError } from '../../registers/register-file.ts';
export type { BarIndex, BarRegion } from '../bar-region.ts';
export { type DeviceDma, DMA_FAULT, DMA_OK, DMA_RETRY, type DmaStatus } from '../dma.ts';
export { DeviceDefinitionError } from '../errors.ts';
export { DeviceMemory } from '../memory.ts';
export type {
  DeviceContext,
  DeviceMetrics,
  DeviceModel,
  DeviceOptions,
  DeviceTimers,
  ModelFactory,
  ModelState,
  StepResult,
} from '../model.ts';
export {
  type BarDefinition,
  type DefinedContext,
  type DeviceBehaviour,
  type DeviceDefinition,
  defineDevice,
  type MemoryBarDefinition,
  type RegisterBarDefinition,
} from './definition.ts';
export type { DeviceIdentity } from './identity.ts';
