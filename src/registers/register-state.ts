/**
 * The state of a register file on its way to another host: each register under its own name, checked against what
 * software and device can put into it.
 */
import { hex } from '../memory/address.ts';
import type { StateReader } from '../proto/state-codec.ts';
import type { RegisterFile } from './register-file.ts';

/** Bits that the device itself sets, by register, besides those software writes. */
export type DeviceBits<Name extends string> = Partial<Readonly<Record<Name, bigint>>>;

/** The values of all registers by name, but for those that follow from others. */
export function registerValues<Name extends string>(
  file: RegisterFile<Name>,
  derived: readonly Name[] = [],
): Record<string, bigint> {
  const values: Record<string, bigint> = {};
  for (const { spec, value } of file.entries()) if (!derived.includes(spec.name)) values[spec.name] = value;
  return values;
}

/**
 * Sets the registers of a file just made to their saved values. No action is called. Bits that neither software nor
 * the device can change must be as they are here: they say what the unit can do, and the guest has read them.
 * @throws StateError
 */
export function restoreRegisters<Name extends string>(
  file: RegisterFile<Name>,
  state: StateReader,
  deviceBits: DeviceBits<Name>,
  derived: readonly Name[] = [],
): void {
  for (const { spec, value: here } of file.entries()) {
    if (derived.includes(spec.name)) continue;
    const value = state.bigint(spec.name, 8 * spec.size);
    const fixed = ~((spec.rw ?? 0n) | (deviceBits[spec.name] ?? 0n));
    if (((value ^ here) & fixed) !== 0n)
      throw state.error(spec.name, `is ${hex(value)}; accepted: ${hex(here)} but for bits ${hex(~fixed)}`);
    file.set(spec.name, value);
  }
}

/** Bits of a register that software writes. */
export function softwareBits<Name extends string>(file: RegisterFile<Name>, name: Name): bigint {
  for (const { spec } of file.entries()) if (spec.name === name) return spec.rw ?? 0n;
  return 0n;
}
