/**
 * Register file, declared as a table of offsets, sizes, reset values and write masks.
 *
 * Partial accesses and accesses that span registers are handled here for all models. Values are little-endian bytes,
 * each with its writable and write-1-to-clear bits. A 2-byte write into the middle of an 8-byte register needs no
 * special case.
 */
import { allOnes } from '../memory/bus-access.ts';

/** A declared register. Masks and values are BigInt, because VT-d's registers are up to 64 bits wide. */
export interface RegisterSpec<Name extends string = string> {
  readonly name: Name;
  /** Byte offset in the register file. */
  readonly offset: number;
  readonly size: 1 | 2 | 4 | 8;
  readonly reset?: bigint;
  /** Bits that a write stores. */
  readonly rw?: bigint;
  /** Bits that a write of 1 clears (RW1C). */
  readonly w1c?: bigint;
  /** Specification of the register. */
  readonly spec?: string;
}

/** Called after a write is merged. `written` is the register's new value. */
export type WriteAction = (written: bigint) => void;

/** Called before a software read of a register. Returns its value. */
export type ReadAction = () => bigint;

/** Most offsets without a register whose accesses are counted, for the report. */
export const UNIMPLEMENTED_OFFSETS_LIMIT = 256;

/** Counts of the software reads and writes of one offset without a declared register. */
export interface UnimplementedCount {
  reads: number;
  writes: number;
}

/** Thrown by the constructor for an inconsistent table. */
export class RegisterTableError extends Error {
  override name = 'RegisterTableError';
}

interface Placed<Name extends string> extends RegisterSpec<Name> {
  action?: WriteAction;
  current?: ReadAction;
}

/** State of one register file. */
export class RegisterFile<Name extends string> {
  readonly size: number;
  /** Accesses that touched no declared register, by offset. */
  readonly unimplemented = new Map<number, UnimplementedCount>();
  /** Count of such accesses beyond UNIMPLEMENTED_OFFSETS_LIMIT offsets. */
  unimplementedOthers = 0;
  readonly #bytes: DataView;
  /** Value of the write that is being merged. */
  readonly #incoming = new DataView(new ArrayBuffer(8));
  readonly #rw: Uint8Array;
  readonly #w1c: Uint8Array;
  readonly #owner: (Placed<Name> | undefined)[];
  readonly #byName = new Map<Name, Placed<Name>>();
  #hasReadActions = false;

  /** @throws RegisterTableError for registers that overlap, are declared twice or do not fit in `size` bytes */
  constructor(size: number, table: readonly RegisterSpec<Name>[]) {
    this.size = size;
    this.#bytes = new DataView(new ArrayBuffer(size));
    this.#rw = new Uint8Array(size);
    this.#w1c = new Uint8Array(size);
    this.#owner = new Array(size);
    for (const spec of table) this.#place(spec);
    this.reset();
  }

  /** Sets every register to its reset value. Calls no action. */
  reset(): void {
    for (const spec of this.#byName.values()) this.set(spec.name, spec.reset ?? 0n);
  }

  /** Calls `action` once for each write access that touches any byte of the register. */
  onWrite(name: Name, action: WriteAction): void {
    this.#spec(name).action = action;
  }

  /** Calls `action` for each software read that touches any byte of the register, for its value at that moment. */
  onRead(name: Name, action: ReadAction): void {
    this.#spec(name).current = action;
    this.#hasReadActions = true;
  }

  get(name: Name): bigint {
    const { offset, size } = this.#spec(name);
    return this.#load(offset, size);
  }

  /** Returns the low 32 bits as a non-negative number. */
  get32(name: Name): number {
    const { offset, size } = this.#spec(name);
    if (size >= 4) return this.#bytes.getUint32(offset, true);
    return size === 2 ? this.#bytes.getUint16(offset, true) : this.#bytes.getUint8(offset);
  }

  /** Stores `value` as the device does: without masks and actions. */
  set(name: Name, value: bigint): void {
    const { offset, size } = this.#spec(name);
    if (size === 8) this.#bytes.setBigUint64(offset, value, true);
    else if (size === 4) this.#bytes.setUint32(offset, Number(BigInt.asUintN(32, value)), true);
    else if (size === 2) this.#bytes.setUint16(offset, Number(BigInt.asUintN(16, value)), true);
    else this.#bytes.setUint8(offset, Number(BigInt.asUintN(8, value)));
  }

  /** Stores a number of 32 bits as {@link set} does, without the garbage of a bigint. @param value 0 to 2^32 - 1 */
  set32(name: Name, value: number): void {
    const { offset, size } = this.#spec(name);
    if (size === 4) this.#bytes.setUint32(offset, value, true);
    else this.set(name, BigInt(value));
  }

  /** Reads 1, 2, 4 or 8 bytes as software does. Offsets outside the file read as all ones, undeclared offsets as 0. */
  read(offset: number, size: number): bigint {
    if (!this.#inside(offset, size)) return allOnes(size);
    this.#countUnimplemented(offset, size, 'reads');
    if (this.#hasReadActions) this.#refresh(offset, size);
    return this.#load(offset, size);
  }

  /** Writes 1, 2, 4 or 8 bytes as software does: through the masks, then the actions of the touched registers. */
  write(offset: number, size: number, value: bigint): void {
    if (!this.#inside(offset, size)) return;
    this.#countUnimplemented(offset, size, 'writes');
    this.#incoming.setBigUint64(0, value, true);
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      const incoming = this.#incoming.getUint8(i);
      const rw = this.#rw[at] as number;
      const kept = this.#bytes.getUint8(at) & ~rw & ~(incoming & (this.#w1c[at] as number));
      this.#bytes.setUint8(at, kept | (incoming & rw));
    }
    let previous: Placed<Name> | undefined;
    for (let at = offset; at < offset + size; at++) {
      const spec = this.#owner[at];
      if (spec && spec !== previous) spec.action?.(this.#load(spec.offset, spec.size));
      previous = spec;
    }
  }

  /** Returns the name of the register that contains the byte at `offset`, if any. */
  nameAt(offset: number): Name | undefined {
    return this.#owner[offset]?.name;
  }

  /** Yields the registers and their values in table order, for dumps and shared mirrors. */
  *entries(): Iterable<{ readonly spec: RegisterSpec<Name>; readonly value: bigint }> {
    for (const spec of this.#byName.values()) yield { spec, value: this.#load(spec.offset, spec.size) };
  }

  #place(spec: RegisterSpec<Name>): void {
    if (spec.offset + spec.size > this.size)
      throw new RegisterTableError(`register ${spec.name} does not fit a file of ${this.size} bytes`);
    if (this.#byName.has(spec.name)) throw new RegisterTableError(`register ${spec.name} is declared twice`);
    const placed: Placed<Name> = { ...spec };
    this.#byName.set(spec.name, placed);
    for (let i = 0; i < spec.size; i++) {
      const at = spec.offset + i;
      if (this.#owner[at])
        throw new RegisterTableError(`register ${spec.name} overlaps ${this.#owner[at]?.name}`);
      this.#owner[at] = placed;
      this.#rw[at] = Number(((spec.rw ?? 0n) >> BigInt(8 * i)) & 0xffn);
      this.#w1c[at] = Number(((spec.w1c ?? 0n) >> BigInt(8 * i)) & 0xffn);
    }
  }

  #spec(name: Name): Placed<Name> {
    const spec = this.#byName.get(name);
    if (!spec) throw new RegisterTableError(`no register ${name}`);
    return spec;
  }

  #inside(offset: number, size: number): boolean {
    return Number.isInteger(offset) && offset >= 0 && offset + size <= this.size;
  }

  #refresh(offset: number, size: number): void {
    let previous: Placed<Name> | undefined;
    for (let at = offset; at < offset + size; at++) {
      const spec = this.#owner[at];
      if (spec?.current && spec !== previous) this.set(spec.name, spec.current());
      previous = spec;
    }
  }

  #load(offset: number, size: number): bigint {
    if (size === 8) return this.#bytes.getBigUint64(offset, true);
    if (size === 4) return BigInt(this.#bytes.getUint32(offset, true));
    if (size === 2) return BigInt(this.#bytes.getUint16(offset, true));
    return BigInt(this.#bytes.getUint8(offset));
  }

  #countUnimplemented(offset: number, size: number, kind: keyof UnimplementedCount): void {
    for (let at = offset; at < offset + size; at++) if (this.#owner[at]) return;
    let count = this.unimplemented.get(offset);
    if (!count) {
      if (this.unimplemented.size >= UNIMPLEMENTED_OFFSETS_LIMIT) {
        this.unimplementedOthers++;
        return;
      }
      count = { reads: 0, writes: 0 };
      this.unimplemented.set(offset, count);
    }
    count[kind]++;
  }
}
