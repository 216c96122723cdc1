/**
 * Codec of the saved state of one part of a VM: named values with a version, as protobuf. The reader trusts nothing,
 * because the bytes may come from another version or from anyone.
 */
import protobuf from 'protobufjs/minimal.js';
import './codec.ts'; // configures the library
import { readEncodedState, type StateField, writeEncodedState } from './schema.ts';

/** Types of the values of a state. Numbers are finite. */
export type StateValue = number | bigint | boolean | string | Uint8Array | readonly number[];
/** Values of a state by name. */
export type StateValues = Readonly<Record<string, StateValue>>;

/** Thrown for a state that cannot be restored. The message names the state, the error and what is accepted. */
export class StateError extends Error {
  override name = 'StateError';
}

type StateType = 'number' | 'bigint' | 'boolean' | 'text' | 'bytes' | 'numbers';

const text = new TextDecoder('utf-8', { fatal: true });

function fieldOf(name: string, value: StateValue): StateField {
  const field = (type: StateType, data: Uint8Array): StateField => ({ name, type, data });
  if (value instanceof Uint8Array) return field('bytes', value);
  if (typeof value === 'number') return field('number', float64([value]));
  if (typeof value === 'boolean') return field('boolean', Uint8Array.of(value ? 1 : 0));
  if (typeof value === 'bigint') return field('bigint', Buffer.from(value.toString(16)));
  if (typeof value === 'string') return field('text', Buffer.from(value));
  return field('numbers', float64(value));
}

function float64(values: readonly number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 * values.length));
  for (const [i, value] of values.entries()) view.setFloat64(8 * i, value, true);
  return new Uint8Array(view.buffer);
}

/** Returns the bytes of a state. `kind` names the part. `version`, from 1, rises with every change of its values. */
export function encodeState(kind: string, version: number, values: StateValues): Uint8Array {
  const fields = Object.entries(values).map(([name, value]) => fieldOf(name, value));
  return writeEncodedState({ kind, version, fields }, protobuf.Writer.create()).finish();
}

/**
 * Reads a state of `kind` with a version from `oldest` to `newest`.
 * @throws StateError for an invalid encoding, another kind or another version
 */
export function decodeState(bytes: Uint8Array, kind: string, newest: number, oldest = newest): StateReader {
  let state: ReturnType<typeof readEncodedState>;
  try {
    const reader = protobuf.Reader.create(bytes);
    state = readEncodedState(reader, reader.len);
  } catch (error) {
    throw new StateError(`state of ${kind}: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (state.kind !== kind) throw new StateError(`state of '${state.kind.slice(0, 40)}'; accepted: ${kind}`);
  if (state.version < oldest || state.version > newest)
    throw new StateError(`state of ${kind} has version ${state.version}; accepted: ${oldest} to ${newest}`);
  return new StateReader(kind, state.version, new Map(state.fields.map((field) => [field.name, field])));
}

/** Values of a state by name, each checked when it is read. Every method that reads a value throws StateError. */
export class StateReader {
  readonly version: number;
  readonly #kind: string;
  readonly #fields: ReadonlyMap<string, StateField>;

  constructor(kind: string, version: number, fields: ReadonlyMap<string, StateField>) {
    this.#kind = kind;
    this.version = version;
    this.#fields = fields;
  }

  has(name: string): boolean {
    return this.#fields.has(name);
  }

  /** Returns the values named `part.name`, under their names without `part`. */
  part(part: string): StateReader {
    const fields = new Map<string, StateField>();
    for (const [name, field] of this.#fields)
      if (name.startsWith(`${part}.`)) fields.set(name.slice(part.length + 1), field);
    return new StateReader(`${this.#kind}, ${part}`, this.version, fields);
  }

  /** Returns a finite number. */
  number(name: string): number {
    const [value] = this.#numbers(name, this.#data(name, 'number', 8));
    return value as number;
  }

  /** Returns an integer from `min` to `max`. */
  integer(name: string, max: number = Number.MAX_SAFE_INTEGER, min = 0): number {
    const value = this.number(name);
    if (!Number.isInteger(value) || value < min || value > max)
      throw this.error(name, `is ${value}; accepted: integers from ${min} to ${max}`);
    return value;
  }

  /** Returns an integer from 0 to 2^bits - 1. */
  bigint(name: string, bits = 64): bigint {
    const digits = Buffer.from(this.#data(name, 'bigint')).toString('latin1');
    const value = /^[0-9a-f]{1,64}$/.test(digits) ? BigInt(`0x${digits}`) : -1n;
    if (value < 0n || value >> BigInt(bits) > 0n)
      throw this.error(name, `is 0x${digits.slice(0, 40)}; accepted: ${bits} bits`);
    return value;
  }

  boolean(name: string): boolean {
    return this.#data(name, 'boolean', 1)[0] !== 0;
  }

  text(name: string): string {
    const data = this.#data(name, 'text');
    try {
      return text.decode(data);
    } catch {
      throw this.error(name, 'is not UTF-8');
    }
  }

  /** Returns exactly `length` bytes, or any count of them by default. */
  bytes(name: string, length?: number): Uint8Array {
    return this.#data(name, 'bytes', length);
  }

  /** Returns a list of at most `limit` finite numbers. */
  numbers(name: string, limit: number): number[] {
    const data = this.#data(name, 'numbers');
    if (data.length % 8 !== 0 || data.length > 8 * limit)
      throw this.error(name, `has ${data.length} bytes; accepted: up to ${limit} numbers of 8 bytes`);
    return this.#numbers(name, data);
  }

  /** Returns the error to throw for an invalid value. */
  error(name: string, wrong: string): StateError {
    return new StateError(`state of ${this.#kind}: ${name} ${wrong}`);
  }

  #numbers(name: string, data: Uint8Array): number[] {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const values = Array.from({ length: data.length / 8 }, (_, i) => view.getFloat64(8 * i, true));
    if (!values.every(Number.isFinite)) throw this.error(name, 'is not finite');
    return values;
  }

  #data(name: string, type: StateType, length?: number): Uint8Array {
    const field = this.#fields.get(name);
    if (!field) throw this.error(name, `is missing; accepted: ${type}`);
    if (field.type !== type)
      throw this.error(name, `is of type '${field.type.slice(0, 20)}'; accepted: ${type}`);
    if (length !== undefined && field.data.length !== length)
      throw this.error(name, `has ${field.data.length} bytes; accepted: ${length}`);
    return field.data;
  }
}
