/**
 * Declared layouts of wire structures. A layout is checked when it is declared: its fields follow one another without
 * gap or overlap and fill its size. All fields are little-endian.
 */

const KIND_BYTES = { u16: 2, u32: 4, u64: 8 } as const;
type Kind = keyof typeof KIND_BYTES;
type ValueOf<K extends Kind> = K extends 'u64' ? bigint : number;

type Fields = Readonly<Record<string, readonly [offset: number, kind: Kind]>>;
/** The values of a structure: 64-bit fields are bigints. */
export type Values<F extends Fields> = { -readonly [Name in keyof F]: ValueOf<F[Name][1]> };

/** Thrown at load for an inconsistent declaration. */
export class LayoutError extends Error {
  override name = 'LayoutError';
}

/** One wire structure. */
export class Layout<F extends Fields> {
  readonly name: string;
  readonly size: number;
  readonly fields: F;
  readonly #entries: readonly (readonly [name: string, offset: number, kind: Kind])[];
  readonly #blank: Readonly<Record<string, number>>;

  /** @throws LayoutError unless the fields fill [0, size) in order */
  constructor(name: string, size: number, fields: F) {
    this.name = name;
    this.size = size;
    this.fields = fields;
    this.#entries = Object.entries(fields).map(([field, [offset, kind]]) => [field, offset, kind]);
    this.#blank = Object.fromEntries(this.#entries.map(([field]) => [field, 0]));
    let end = 0;
    for (const [field, offset, kind] of this.#entries) {
      if (offset !== end) throw new LayoutError(`${name}.${field} is at ${offset}; accepted: ${end}`);
      end += KIND_BYTES[kind];
    }
    if (end !== size) throw new LayoutError(`the fields of ${name} end at ${end}; accepted: ${size}`);
  }

  /** Reads the structure at `at`. The caller has checked that it lies within `bytes`. */
  read(bytes: Uint8Array, at = 0): Values<F> {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    // A clone has the final shape from the start.
    const values: Record<string, number | bigint> = { ...this.#blank };
    for (const [name, offset, kind] of this.#entries) {
      if (kind === 'u32') values[name] = view.getUint32(at + offset, true);
      else if (kind === 'u64') values[name] = view.getBigUint64(at + offset, true);
      else values[name] = view.getUint16(at + offset, true);
    }
    return values as Values<F>;
  }

  /** Writes the structure at `at`. */
  write(bytes: Uint8Array, values: Values<F>, at = 0): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const source: Record<string, number | bigint> = values;
    for (const [name, offset, kind] of this.#entries) {
      const value = source[name] as number | bigint;
      if (kind === 'u32') view.setUint32(at + offset, value as number, true);
      else if (kind === 'u64') view.setBigUint64(at + offset, value as bigint, true);
      else view.setUint16(at + offset, value as number, true);
    }
  }

  /** Returns the bytes of the structure, with `extra` zero bytes behind it. */
  encode(values: Values<F>, extra = 0): Uint8Array {
    const bytes = new Uint8Array(this.size + extra);
    this.write(bytes, values);
    return bytes;
  }
}
