/**
 * Saved state of a register file: each register under its name, checked against the bits that software and device can
 * change.
 */
import { hex } from '../memory/address.ts';
import type { StateReader } from '../proto/state-codec.ts';
import type { RegisterFile } from './register-file.ts';

/** Bits that the device itself sets, by register, in addition to those that software writes. */
export type DeviceBits<Name extends string> = Partial<Readonly<Record<Name, bigint>>>;

/** Returns the values of all registers by name, except those in `derived`, which follow from others. */
export function registerValues<Name extends string>(
  file: RegisterFile<Name>,
  derived: readonly Name[] = [],
): Record<string, bigint> {
  const values: Record<string, bigint> = {};
  for (const { spec, value } of file.entries()) if (!derived.includes(spec.name)) values[spec.name] = value;
  return values;
}

/**
 * Sets the registers of a new file to their saved values. Calls no action. Bits that neither software nor the device
 * can change must have the value that they have here: they describe the unit's capabilities, and the guest has read
 * them.
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

/** Returns the bits of a register that software can write. */
export function softwareBits<Name extends string>(file: RegisterFile<Name>, name: Name): bigint {
  for (const { spec } of file.entries()) if (spec.name === name) return spec.rw ?? 0n;
  return 0n;
}
