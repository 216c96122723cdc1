/**
 * Writer of a device's migration stream. The stream consists of records (DeviceStateRecord), each behind its length
 * as a varint: a header, then pages of the memories, then register values, the model's own state, and an end.
 *
 * Registers are identified by name, so that a register table may grow.
 */

import protobuf from 'protobufjs/minimal.js';
import { hexDigits } from '../../memory/address.ts';
import { type DeviceStateRecord, type RegisterValue, writeDeviceStateRecord } from '../../proto/schema.ts';
import { encodeState, StateError } from '../../proto/state-codec.ts';
import { RegisterFile } from '../../registers/register-file.ts';
import { BAR_INDICES } from '../bar-region.ts';
import { DeviceMemory } from '../memory.ts';
import type { DeviceModel } from '../model.ts';

/** Version of the records. It increases with every change that an older reader cannot understand. */
export const DEVICE_STREAM_VERSION = 1;
/** Most bytes of a model's own state, because its reader holds all of it. */
export const MODEL_STATE_BYTES_MAX: number = 16 * 2 ** 20;
/** Most bytes of memory pages that are taken from the log at once. */
const PAGES_RECORD_BYTES = 32_768;
/** Most values in one record of registers. */
const REGISTERS_RECORD_VALUES = 64;

/** Bytes that were read from a stream. */
export interface DeviceStreamPart {
  readonly data: Uint8Array;
  /** No more bytes for now (PRE_COPY), or at all (STOP_COPY). */
  readonly end: boolean;
  /**
   * Bytes of pages that have never been sent, and of pages changed since they were sent (VFIO_MIG_GET_PRECOPY_INFO).
   */
  readonly initialBytes: number;
  readonly dirtyBytes: number;
}

/** Returns the register files of a model by their names in the stream. */
export function registerFiles({ config, bars }: DeviceModel): ReadonlyMap<string, RegisterFile<string>> {
  const files = new Map<string, RegisterFile<string>>([['config', config.registers as RegisterFile<string>]]);
  for (const bar of BAR_INDICES) {
    const region = bars[bar];
    if (region instanceof RegisterFile) files.set(`bar${bar}`, region);
  }
  return files;
}

/** Returns the memories of a model by name: the listed ones, and those behind its BARs. */
export function memoriesOf({ memories = [], bars }: DeviceModel): ReadonlyMap<string, DeviceMemory> {
  const all = [...memories, ...Object.values(bars).filter((region) => region instanceof DeviceMemory)];
  return new Map(all.map((memory) => [memory.name, memory]));
}

/** Returns the kind of device that a model's state belongs to: `1234:11e8`. */
export function modelKind({ config }: DeviceModel): string {
  const hex = (name: 'VendorId' | 'DeviceId') => hexDigits(config.registers.get32(name), 4);
  return `${hex('VendorId')}:${hex('DeviceId')}`;
}

/** Writes the stream of a device: pages while it runs, the rest after it has stopped. */
export class DeviceStreamWriter {
  readonly #model: DeviceModel;
  readonly #memories: readonly DeviceMemory[];
  /**
   * Encoded records that have not been read: the pages of one take from the log, or everything that follows the
   * pages.
   */
  #pending: Uint8Array[] = [];
  #stopped = false;
  #ended = false;

  /** Starts the log of writes to the model's memories. */
  constructor(model: DeviceModel) {
    this.#model = model;
    this.#memories = [...memoriesOf(model).values()];
    for (const memory of this.#memories) memory.startTracking();
    this.#put(this.#header());
  }

  /** Adds registers and the model's state after the last pages. The device has stopped. */
  stop(): void {
    this.#stopped = true;
  }

  /** Stops the log of all memories. */
  close(): void {
    for (const memory of this.#memories) memory.stopTracking();
  }

  /**
   * Returns the next bytes, at most `maxBytes`.
   * @throws StateError if the model's state cannot be saved; the caller may retry or abort
   */
  read(maxBytes: number): DeviceStreamPart {
    const pieces: Uint8Array[] = [];
    // The model's part is sent separately, so that its failure loses nothing already taken.
    for (let left = maxBytes; left > 0 && this.#fill(pieces.length === 0); ) {
      const first = this.#pending[0]!;
      const piece = first.subarray(0, left);
      pieces.push(piece);
      left -= piece.length;
      if (piece.length === first.length) this.#pending.shift();
      else this.#pending[0] = first.subarray(piece.length);
    }
    const sums = { initialBytes: 0, dirtyBytes: 0 };
    for (const { dirty } of this.#memories) {
      sums.initialBytes += dirty.initialBytes;
      sums.dirtyBytes += dirty.dirtyBytes;
    }
    const isDrained = this.#pending.length === 0 && sums.initialBytes + sums.dirtyBytes === 0;
    return { data: Buffer.concat(pieces), end: isDrained && (this.#ended || !this.#stopped), ...sums };
  }

  /** Makes a record pending: of pages, or of the rest if `mayEnd`. Returns false if there is nothing to send. */
  #fill(mayEnd: boolean): boolean {
    if (this.#pending.length > 0) return true;
    for (const memory of this.#memories) {
      this.#putPages(memory);
      if (this.#pending.length > 0) return true;
    }
    if (!mayEnd || !this.#stopped || this.#ended) return false;
    this.#putRest();
    return true;
  }

  #putPages(memory: DeviceMemory): void {
    for (const { offset, length, zero } of memory.takeDirty(PAGES_RECORD_BYTES)) {
      const data = new Uint8Array(zero ? 0 : length);
      memory.readInto(offset, data);
      this.#put({ memory: { memory: memory.name, offset, data, zeroBytes: zero ? length : 0 } });
    }
  }

  /** Adds everything that follows the pages; nothing, if the model fails. */
  #putRest(): void {
    const state = this.#modelState();
    for (const [file, registers] of registerFiles(this.#model)) {
      const values = Array.from(registers.entries(), ({ spec, value }) => registerValue(spec.name, value));
      for (let at = 0; at < values.length; at += REGISTERS_RECORD_VALUES)
        this.#put({ registers: { file, values: values.slice(at, at + REGISTERS_RECORD_VALUES) } });
    }
    this.#put({ model: { state } });
    this.#put({ end: {} });
    this.#ended = true;
  }

  #header(): DeviceStateRecord {
    const id = (name: Parameters<typeof registers.get32>[0]) => registers.get32(name);
    const { registers } = this.#model.config;
    const header = {
      version: DEVICE_STREAM_VERSION,
      vendorId: id('VendorId'),
      deviceId: id('DeviceId'),
      subsystemVendorId: id('SubsystemVendorId'),
      subsystemId: id('SubsystemId'),
      modelVersion: this.#model.state?.version ?? 0,
    };
    return { header };
  }

  #modelState(): Uint8Array {
    const { state } = this.#model;
    if (!state) return new Uint8Array();
    const kind = modelKind(this.#model);
    let bytes: Uint8Array;
    try {
      bytes = encodeState(kind, state.version, state.save());
    } catch (error) {
      throw new StateError(`state of ${kind} cannot be saved: ${String(error)}`);
    }
    if (bytes.length > MODEL_STATE_BYTES_MAX)
      throw new StateError(
        `state of ${kind} has ${bytes.length} bytes; accepted: up to ${MODEL_STATE_BYTES_MAX}`,
      );
    return bytes;
  }

  #put(record: DeviceStateRecord): void {
    const writer = protobuf.Writer.create();
    this.#pending.push(writeDeviceStateRecord(record, writer.fork()).ldelim().finish());
  }
}

const registerValue = (name: string, value: bigint): RegisterValue => ({
  name,
  low: Number(BigInt.asUintN(32, value)),
  high: Number(value >> 32n),
});
