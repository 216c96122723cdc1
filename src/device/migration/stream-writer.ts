/**
 * A device's migration stream, as it is written: records (DeviceStateRecord), each behind its length as a varint. First a
 * header, then pages of the memories, then register values, the model's own state, and an end.
 *
 * Registers travel by name: a table that has grown since can still be read.
 */

import protobuf from 'protobufjs/minimal.js';
import { hexDigits } from '../../memory/address.ts';
import { type DeviceStateRecord, type RegisterValue, writeDeviceStateRecord } from '../../proto/schema.ts';
import { encodeState, StateError } from '../../proto/state-codec.ts';
import { RegisterFile } from '../../registers/register-file.ts';
import { BAR_INDICES } from '../bar-region.ts';
import { DeviceMemory } from '../memory.ts';
import type { DeviceModel } from '../model.ts';

/** Of the records, raised with every change that an older reader cannot understand. */
export const DEVICE_STREAM_VERSION = 1;
/** Bytes of a model's own state, at most: what its reader must hold at once. */
export const MODEL_STATE_BYTES_MAX: number = 16 * 2 ** 20;
/** Bytes of memory in one record. */
const PAGES_RECORD_BYTES = 32_768;
/** Values in one record of registers. */
const REGISTERS_RECORD_VALUES = 64;

/** What has been read of a stream. */
export interface DeviceStreamPart {
  readonly data: Uint8Array;
  /** Nothing more now (PRE_COPY), or at all (STOP_COPY). */
  readonly end: boolean;
  /** Bytes of pages that have yet to be sent for the first time, and of those that changed since (VFIO_MIG_GET_PRECOPY_INFO). */
  readonly initialBytes: number;
  readonly dirtyBytes: number;
}

/** The register files of a model by their names in the stream. */
export function registerFiles({ config, bars }: DeviceModel): ReadonlyMap<string, RegisterFile<string>> {
  const files = new Map<string, RegisterFile<string>>([['config', config.registers as RegisterFile<string>]]);
  for (const bar of BAR_INDICES) {
    const region = bars[bar];
    if (region instanceof RegisterFile) files.set(`bar${bar}`, region);
  }
  return files;
}

/** The memories of a model by name: those that it lists, and those behind its BARs. */
export function memoriesOf({ memories = [], bars }: DeviceModel): ReadonlyMap<string, DeviceMemory> {
  const all = [...memories, ...Object.values(bars).filter((region) => region instanceof DeviceMemory)];
  return new Map(all.map((memory) => [memory.name, memory]));
}

/** `1234:11e8`: what a model's state is the state of. */
export function modelKind({ config }: DeviceModel): string {
  const hex = (name: 'VendorId' | 'DeviceId') => hexDigits(config.registers.get32(name), 4);
  return `${hex('VendorId')}:${hex('DeviceId')}`;
}

/** Writes the stream of a device: pages while it runs, the rest once it has stopped. */
export class DeviceStreamWriter {
  readonly #model: DeviceModel;
  readonly #memories: readonly DeviceMemory[];
  /** Encoded, and not read yet: the pages of one look into the log, or all that follows them. */
  #pending: Uint8Array[] = [];
  #stopped = false;
  #ended = false;

  /** From now on the model's memories note what is written to them. */
  constructor(model: DeviceModel) {
    this.#model = model;
    this.#memories = [...memoriesOf(model).values()];
    for (const memory of this.#memories) memory.startTracking();
    this.#put(this.#header());
  }

  /** The device stands still: registers and the model's state follow its last pages. */
  stop(): void {
    this.#stopped = true;
  }

  /** No memory notes anything any more. */
  close(): void {
    for (const memory of this.#memories) memory.stopTracking();
  }

  /** The next bytes, at most `maxBytes`. @throws StateError if the model's state cannot be had; to be tried again, or given up */
  read(maxBytes: number): DeviceStreamPart {
    const pieces: Uint8Array[] = [];
    // The rest comes alone: if the model fails there, nothing that was taken out is lost.
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

  /** Sees to it that something is pending, the rest only if it may. False if there is nothing. */
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

  /** All that follows the pages. Nothing of it is sent if the model fails. */
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
