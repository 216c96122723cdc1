/**
 * The state of one part of a VM on its way to another host: named values with a version, as protobuf. What reads it
 * trusts nothing: the bytes may come from another version, or from anybody.
 */
import protobuf from 'protobufjs/minimal.js';
import './codec.ts'; // sets the library up
import { readEncodedState, type StateField, writeEncodedState } from './schema.ts';

/** What a state may be made of. Numbers are finite; `numbers` is a list of them. */
export type StateValue = number | bigint | boolean | string | Uint8Array | readonly number[];
export type StateValues = Readonly<Record<string, StateValue>>;

/** Thrown for a state that cannot be taken up: which, what is wrong, what is accepted. */
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

/** Bytes of a state. `kind` says what it is the state of; `version`, from 1, rises with every change of the values. */
export function encodeState(kind: string, version: number, values: StateValues): Uint8Array {
  const fields = Object.entries(values).map(([name, value]) => fieldOf(name, value));
  return writeEncodedState({ kind, version, fields }, protobuf.Writer.create()).finish();
}

/**
 * Reads a state of this kind, of version `oldest` to `newest`.
 * @throws StateError for other bytes, another kind or another version
 */
export function decodeState(bytes: Uint8Array, kind: string, newest: number, oldest = newest): StateReader {
  let bag: ReturnType<typeof readEncodedState>;
  try {
    const reader = protobuf.Reader.create(bytes);
    bag = readEncodedState(reader, reader.len);
  } catch (error) {
    throw new StateError(`state of ${kind}: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (bag.kind !== kind) throw new StateError(`state of '${bag.kind.slice(0, 40)}'; accepted: ${kind}`);
  if (bag.version < oldest || bag.version > newest)
    throw new StateError(`state of ${kind} has version ${bag.version}; accepted: ${oldest} to ${newest}`);
  return new StateReader(kind, bag.version, new Map(bag.fields.map((field) => [field.name, field])));
}

/** A state's values by name, each checked as it is read. Everything here throws StateError. */
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

  /** The values of one part, `part.name` each, by their own names. */
  part(part: string): StateReader {
    const fields = new Map<string, StateField>();
    for (const [name, field] of this.#fields)
      if (name.startsWith(`${part}.`)) fields.set(name.slice(part.length + 1), field);
    return new StateReader(`${this.#kind}, ${part}`, this.version, fields);
  }

  /** A finite number. */
  number(name: string): number {
    const [value] = this.#numbers(name, this.#data(name, 'number', 8));
    return value as number;
  }

  /** An integer from `min` to `max`, Number.MAX_SAFE_INTEGER unless said otherwise. */
  integer(name: string, max: number = Number.MAX_SAFE_INTEGER, min = 0): number {
    const value = this.number(name);
    if (!Number.isInteger(value) || value < min || value > max)
      throw this.error(name, `is ${value}; accepted: integers from ${min} to ${max}`);
    return value;
  }

  /** A natural number below 2^bits. */
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

  /** Exactly `length` bytes, or any number of them. */
  bytes(name: string, length?: number): Uint8Array {
    return this.#data(name, 'bytes', length);
  }

  /** A list of at most `limit` finite numbers. */
  numbers(name: string, limit: number): number[] {
    const data = this.#data(name, 'numbers');
    if (data.length % 8 !== 0 || data.length > 8 * limit)
      throw this.error(name, `has ${data.length} bytes; accepted: up to ${limit} numbers of 8 bytes`);
    return this.#numbers(name, data);
  }

  /** What to throw for a value that cannot be. */
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
