/**
 * Checks of a user's model file: its definition, and the model that it creates. They are written by hand, because every
 * device worker loads this file, and zod would add about 45 ms to its start.
 */
import { hex } from '../memory/address.ts';
import { DeviceDefinitionError } from './errors.ts';

/** @throws DeviceDefinitionError unless `holds` */
export function check(holds: boolean, what: string, found: unknown, accepted: string): void {
  if (!holds) throw new DeviceDefinitionError(`${what} is ${String(found)}; accepted: ${accepted}`);
}

/** Checks for an integer from `min` to `max`. @throws DeviceDefinitionError */
export function checkRange(what: string, value: unknown, max: number, min = 0): void {
  const isWithin = Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
  check(isWithin, what, value, `${min === 0 ? 0 : hex(min)} to ${hex(max)}`);
}

/** @throws DeviceDefinitionError */
export function checkOneOf<T>(what: string, value: T, accepted: readonly T[]): void {
  check(accepted.includes(value), what, value, accepted.join(', '));
}

/** @throws DeviceDefinitionError */
export function checkFunction(what: string, value: unknown): void {
  check(typeof value === 'function', what, value, 'a function');
}

/** Returns the list, or an empty one for undefined. `items` names its items. @throws DeviceDefinitionError */
export function checkList(what: string, value: unknown, items: string): readonly unknown[] {
  if (value === undefined) return [];
  check(Array.isArray(value), what, value, `a list of ${items}`);
  return value as readonly unknown[];
}
