/**
 * The identity of a defined device: its configuration space header and its own capabilities, and their check.
 */
import { hex } from '../../memory/address.ts';
import { CONFIG_SPACE_BYTES, type PciIdentity } from '../../pci/config-space.ts';
import { isObject } from '../../platform/is-object.ts';
import { check, checkList, checkRange } from '../check.ts';
import { DeviceDefinitionError } from '../errors.ts';

/** Fields that need a model with its own ConfigSpace. */
const MODELS_OWN = ['msix', 'express', 'wideBars'] as const;

/** Identity of a device in configuration space. BARs and vectors have their own fields in the definition. */
export type DeviceIdentity = Omit<
  PciIdentity,
  'bar0Bytes' | 'barBytes' | 'msiVectors' | (typeof MODELS_OWN)[number]
>;

/** Numeric fields that must be present, and their maxima. */
const REQUIRED = {
  vendorId: 0xffff,
  deviceId: 0xffff,
  subsystemVendorId: 0xffff,
  subsystemId: 0xffff,
  revision: 0xff,
  classCode: 0xff_ffff,
} as const;
/** Numeric fields that may be absent, and their maxima. */
const OPTIONAL = { command: 0xffff, status: 0xffff, interruptPin: 4 } as const;
/** First byte behind the header, where a device's capabilities and registers may begin. */
const HEADER_END = 0x40;

/** @throws DeviceDefinitionError for an invalid identity */
export function checkIdentity(identity: DeviceIdentity): void {
  if (!isObject(identity))
    throw new DeviceDefinitionError('identity is missing; accepted: vendorId, deviceId, …');
  const fields: Readonly<Record<string, unknown>> = identity;
  for (const [name, max] of Object.entries(REQUIRED)) checkRange(`identity.${name}`, fields[name], max);
  for (const [name, max] of Object.entries(OPTIONAL))
    if (fields[name] !== undefined) checkRange(`identity.${name}`, fields[name], max);
  for (const name of MODELS_OWN)
    if (fields[name] !== undefined)
      throw new DeviceDefinitionError(
        `identity.${name} is set; accepted: only in a model with its own ConfigSpace`,
      );
  for (const name of ['ioBars', 'prefetchableBars'] as const)
    for (const bar of checkList(`identity.${name}`, fields[name], 'numbers of BARs'))
      checkRange(`identity.${name}`, bar, 5);
  checkRegisters('identity.registers', fields.registers);
  const capabilities = checkList('identity.capabilities', fields.capabilities, 'capabilities');
  for (const [index, capability] of capabilities.entries())
    checkCapability(`identity.capabilities[${index}]`, capability);
}

function checkCapability(what: string, capability: unknown): void {
  const { offset, id, registers = null }: Record<string, unknown> = isObject(capability) ? capability : {};
  checkRange(`${what}.offset`, offset, CONFIG_SPACE_BYTES - 4, HEADER_END);
  const isAligned = (offset as number) % 4 === 0;
  check(isAligned, `${what}.offset`, hex(offset as number), 'multiples of 4');
  checkRange(`${what}.id`, id, 0xff);
  checkRegisters(`${what}.registers`, registers);
}

/** Checks a list of registers that lies behind the header. */
function checkRegisters(what: string, registers: unknown): void {
  for (const register of checkList(what, registers, 'registers')) {
    const { name, offset }: Record<string, unknown> = isObject(register) ? register : {};
    checkRange(`${what}: offset of '${String(name)}'`, offset, CONFIG_SPACE_BYTES - 1, HEADER_END);
  }
}
