/**
 * Reader of a device's migration stream, into a new device. The stream comes in pieces of any size and from an
 * untrusted source. Invalid data is refused, and at most one record is buffered.
 */

import protobuf from 'protobufjs/minimal.js';
import { hex, hexDigits } from '../../memory/address.ts';
import {
  type DeviceMemoryPages,
  type DeviceStateHeader,
  type DeviceStateRecord,
  type RegisterValues,
  readDeviceStateRecord,
} from '../../proto/schema.ts';
import { decodeState, StateError } from '../../proto/state-codec.ts';
import type { RegisterFile, RegisterSpec } from '../../registers/register-file.ts';
import { DIRTY_PAGE_BYTES } from '../memory.ts';
import type { DeviceModel } from '../model.ts';
import {
  DEVICE_STREAM_VERSION,
  MODEL_STATE_BYTES_MAX,
  memoriesOf,
  modelKind,
  registerFiles,
} from './stream-writer.ts';

/** Most bytes of a record: a model's state and its field headers. */
const RECORD_BYTES_MAX: number = MODEL_STATE_BYTES_MAX + 64;
/** End of the header registers, which every PCI device has. */
const HEADER_END = 0x40;

type RecordKind = keyof DeviceStateRecord;
/** The records that each record may follow. */
const AFTER: Readonly<Record<RecordKind, readonly (RecordKind | undefined)[]>> = {
  header: [undefined],
  memory: ['header', 'memory'],
  registers: ['header', 'memory', 'registers'],
  model: ['header', 'memory', 'registers'],
  end: ['model'],
};
const KINDS = Object.keys(AFTER) as RecordKind[];

interface FileByName {
  readonly file: RegisterFile<string>;
  readonly specs: ReadonlyMap<string, RegisterSpec>;
}

/** Restores the stream of a device of the same kind. Every method throws StateError. */
export class DeviceStreamReader {
  readonly #model: DeviceModel;
  readonly #files: ReadonlyMap<string, FileByName>;
  readonly #memories: ReturnType<typeof memoriesOf>;
  readonly #seen = new Set<string>();
  readonly #input = new RecordInput();
  #last: RecordKind | undefined;

  constructor(model: DeviceModel) {
    this.#model = model;
    const byName = (file: RegisterFile<string>): FileByName => ({
      file,
      specs: new Map(Array.from(file.entries(), ({ spec }) => [spec.name, spec])),
    });
    this.#files = new Map([...registerFiles(model)].map(([name, file]) => [name, byName(file)]));
    this.#memories = memoriesOf(model);
  }

  /** Takes the next bytes. After an error the device must not be used. */
  write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#last === 'end')
        throw new StateError(`device state: ${bytes.length - at} bytes after its end`);
      at += this.#input.take(bytes.subarray(at));
      const record = this.#input.next();
      if (record) this.#apply(decodeRecord(record));
    }
  }

  /** Checks that the stream is complete. */
  finish(): void {
    if (this.#last !== 'end')
      throw new StateError(`device state: ends after ${this.#last ?? 'nothing'}; accepted: header to end`);
  }

  #apply(record: DeviceStateRecord): void {
    const kinds = KINDS.filter((name) => record[name] !== undefined);
    const [kind] = kinds;
    if (!kind || kinds.length > 1)
      throw new StateError(
        `device state: a record of ${kinds.join(' and ') || 'nothing'}; accepted: ${KINDS.join()}`,
      );
    if (!AFTER[kind].includes(this.#last))
      throw new StateError(`device state: ${kind} after ${this.#last ?? 'nothing'}`);
    this.#last = kind;
    if (record.header) this.#begin(record.header);
    else if (record.memory) this.#storePages(record.memory);
    else if (record.registers) this.#setRegisters(record.registers);
    else if (record.model) this.#restoreModel(record.model.state);
  }

  /** Clears all memories, because zero pages are not sent: the initial picture of a new device must not remain. */
  #begin(header: DeviceStateHeader): void {
    this.#checkHeader(header);
    for (const memory of this.#memories.values()) memory.clear();
  }

  #checkHeader(header: DeviceStateHeader): void {
    if (header.version !== DEVICE_STREAM_VERSION)
      throw new StateError(`device state has version ${header.version}; accepted: ${DEVICE_STREAM_VERSION}`);
    const { registers } = this.#model.config;
    const names = ['VendorId', 'DeviceId', 'SubsystemVendorId', 'SubsystemId'] as const;
    const own = names.map((name) => registers.get32(name));
    const found = [header.vendorId, header.deviceId, header.subsystemVendorId, header.subsystemId];
    if (found.some((id, index) => id !== own[index]))
      throw new StateError(`state of device ${idText(found)}; accepted: ${idText(own)}`);
    const { version = 0, oldest = version } = this.#model.state ?? {};
    if (header.modelVersion < oldest || header.modelVersion > version)
      throw new StateError(
        `state of device ${idText(own)}: its model's has version ${header.modelVersion}; accepted: ${oldest} to ${version}`,
      );
  }

  #storePages({ memory: name, offset, data, zeroBytes }: DeviceMemoryPages): void {
    const memory = this.#memories.get(name);
    if (!memory)
      throw new StateError(
        `device state: memory '${cut(name)}'; accepted: ${[...this.#memories.keys()].join() || 'none'}`,
      );
    const length = data.length + zeroBytes;
    const isOne = (data.length === 0) !== (zeroBytes === 0);
    const isWhole = length % DIRTY_PAGE_BYTES === 0 || offset + length === memory.size;
    const isInside = Number.isSafeInteger(offset + length) && offset + length <= memory.size;
    if (!isOne || !isWhole || !isInside || offset % DIRTY_PAGE_BYTES !== 0)
      throw new StateError(
        `device state: memory '${name}': ${data.length} bytes and ${zeroBytes} zeros at ${offset}; ` +
          `accepted: pages of data or of zeros within ${memory.size} bytes`,
      );
    if (zeroBytes > 0) memory.clear(offset, zeroBytes);
    else memory.store(offset, data);
  }

  /** Sets registers without running their actions. A register that is not named keeps its initial value. */
  #setRegisters({ file: name, values }: RegisterValues): void {
    const found = this.#files.get(name);
    if (!found)
      throw new StateError(
        `device state: registers '${cut(name)}'; accepted: ${[...this.#files.keys()].join()}`,
      );
    for (const { name: register, low, high } of values) {
      const place = `${name}.${register}`;
      const spec = found.specs.get(register);
      const value = (BigInt(high) << 32n) | BigInt(low);
      if (!spec) throw new StateError(`device state: register ${cut(place)} is unknown`);
      if (this.#seen.has(place)) throw new StateError(`device state: register ${place} comes twice`);
      if (value >> BigInt(8 * spec.size) !== 0n)
        throw new StateError(
          `device state: register ${place} is ${hex(value)}; accepted: ${spec.size} bytes`,
        );
      if (name === 'config' && spec.offset < HEADER_END)
        checkHardWired(spec, value, found.file.get(register));
      this.#seen.add(place);
      found.file.set(register, value);
    }
  }

  #restoreModel(bytes: Uint8Array): void {
    const { state } = this.#model;
    if (!state) {
      if (bytes.length > 0)
        throw new StateError("device state: has a model's state, but this model has none");
      return;
    }
    const kind = modelKind(this.#model);
    const reader = decodeState(bytes, kind, state.version, state.oldest);
    try {
      state.restore(reader);
    } catch (error) {
      if (error instanceof StateError) throw error;
      throw new StateError(`state of ${kind} cannot be restored: ${String(error)}`);
    }
  }
}

/**
 * Read-only bits of the header describe the device: sizes of BARs, its class, its capabilities. They must be equal.
 */
function checkHardWired({ name, rw = 0n, w1c = 0n }: RegisterSpec, value: bigint, own: bigint): void {
  if (((value ^ own) & ~(rw | w1c)) !== 0n)
    throw new StateError(
      `device state: register config.${name} is ${hex(value)}, in bits that cannot be written; here ${hex(own)}`,
    );
}

function decodeRecord(bytes: Uint8Array): DeviceStateRecord {
  try {
    const reader = protobuf.Reader.create(bytes);
    return readDeviceStateRecord(reader, reader.len);
  } catch (error) {
    throw new StateError(
      `device state: not a record: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}

const idText = ([vendor, device, subvendor, sub]: readonly number[]): string => {
  const hex4 = (id = 0) => hexDigits(id, 4);
  return `${hex4(vendor)}:${hex4(device)} (${hex4(subvendor)}:${hex4(sub)})`;
};

const cut = (text: string): string => text.slice(0, 60);

/** Assembles records from pieces of any size. */
class RecordInput {
  /** Grows with the bytes received, not with the announced length. */
  #buffer = Buffer.alloc(0);
  #filled = 0;
  /** Bytes of the record; undefined until its length is complete. */
  #size: number | undefined;
  #length = 0;
  #scale = 1;

  /** Takes bytes up to the end of a length or of a record. Returns their count. @throws StateError */
  take(bytes: Uint8Array): number {
    if (this.#size === undefined) {
      this.#takeLength(bytes[0]!);
      return 1;
    }
    const piece = bytes.subarray(0, this.#size - this.#filled);
    const filled = this.#filled + piece.length;
    if (filled > this.#buffer.length) {
      const grown = Buffer.alloc(Math.min(this.#size, Math.max(filled, 2 * this.#buffer.length)));
      this.#buffer.copy(grown, 0, 0, this.#filled);
      this.#buffer = grown;
    }
    this.#buffer.set(piece, this.#filled);
    this.#filled = filled;
    return piece.length;
  }

  /** Returns a record when it is complete. */
  next(): Uint8Array | undefined {
    if (this.#size === undefined || this.#filled < this.#size) return undefined;
    const record = this.#buffer.subarray(0, this.#size);
    this.#buffer = Buffer.alloc(0);
    this.#filled = 0;
    this.#size = undefined;
    return record;
  }

  #takeLength(byte: number): void {
    this.#length += (byte & 0x7f) * this.#scale;
    this.#scale *= 128;
    const isLast = (byte & 0x80) === 0;
    if (this.#length > RECORD_BYTES_MAX || this.#scale > 2 ** 35 || (isLast && this.#length === 0))
      throw new StateError(
        `device state: a record of ${this.#length} bytes; accepted: 1 to ${RECORD_BYTES_MAX}`,
      );
    if (!isLast) return;
    this.#size = this.#length;
    this.#length = 0;
    this.#scale = 1;
  }
}
