/**
 * Who a defined device says it is, and what it may say.
 */
import { hex } from '../../memory/address.ts';
import { CONFIG_SPACE_BYTES, type PciIdentity } from '../../pci/config-space.ts';
import { isObject } from '../../platform/is-object.ts';

/** What it takes a model with a ConfigSpace of its own to stand behind. */
const MODELS_OWN = ['msix', 'express', 'wideBars'] as const;

/** What a definition says of its configuration space; BARs and vectors it declares apart. */
export type DeviceIdentity = Omit<
  PciIdentity,
  'bar0Bytes' | 'barBytes' | 'msiVectors' | (typeof MODELS_OWN)[number]
>;

/** Fields that are numbers, and the largest; the first ones must be there. */
const REQUIRED = {
  vendorId: 0xffff,
  deviceId: 0xffff,
  subsystemVendorId: 0xffff,
  subsystemId: 0xffff,
  revision: 0xff,
  classCode: 0xff_ffff,
} as const;
const OPTIONAL = { command: 0xffff, status: 0xffff, interruptPin: 4 } as const;
/** First byte behind the header: where capabilities and registers of a device's own begin. */
const HEADER_END = 0x40;

/** Throws what `error` makes of a text, for an identity that cannot be. */
export function checkIdentity(identity: DeviceIdentity, error: (text: string) => Error): void {
  const within = (what: string, value: unknown, max: number, min = 0) => {
    if (!(Number.isInteger(value) && (value as number) >= min && (value as number) <= max))
      throw error(`${what} is ${String(value)}; accepted: ${min === 0 ? 0 : hex(min)} to ${hex(max)}`);
  };
  const list = (what: string, value: unknown, accepted: string): readonly unknown[] => {
    if (value === undefined) return [];
    if (!Array.isArray(value)) throw error(`${what} is ${String(value)}; accepted: a list of ${accepted}`);
    return value;
  };
  if (!isObject(identity)) throw error('identity is missing; accepted: vendorId, deviceId, …');
  const fields: Readonly<Record<string, unknown>> = identity;
  for (const [name, max] of Object.entries(REQUIRED)) within(`identity.${name}`, fields[name], max);
  for (const [name, max] of Object.entries(OPTIONAL))
    if (fields[name] !== undefined) within(`identity.${name}`, fields[name], max);
  for (const name of MODELS_OWN)
    if (fields[name] !== undefined)
      throw error(`identity.${name} is set; accepted: only in a model that brings a ConfigSpace of its own`);
  for (const name of ['ioBars', 'prefetchableBars'] as const)
    for (const bar of list(`identity.${name}`, fields[name], 'numbers of BARs'))
      within(`identity.${name}`, bar, 5);
  const placed = (what: string, registers: unknown) => {
    for (const register of list(what, registers, 'registers')) {
      const { name, offset }: Record<string, unknown> = isObject(register) ? register : {};
      within(`${what}: offset of '${String(name)}'`, offset, CONFIG_SPACE_BYTES - 1, HEADER_END);
    }
  };
  placed('identity.registers', fields.registers);
  for (const [index, capability] of list(
    'identity.capabilities',
    fields.capabilities,
    'capabilities',
  ).entries()) {
    const what = `identity.capabilities[${index}]`;
    const { offset, id, registers = null }: Record<string, unknown> = isObject(capability) ? capability : {};
    within(`${what}.offset`, offset, CONFIG_SPACE_BYTES - 4, HEADER_END);
    if ((offset as number) % 4 !== 0)
      throw error(`${what}.offset is ${hex(offset as number)}; accepted: multiples of 4`);
    within(`${what}.id`, id, 0xff);
    placed(`${what}.registers`, registers);
  }
}
