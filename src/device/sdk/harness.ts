/**
 * Runs one device model alone in the thread of a test, with a small guest RAM, an IOVA map, recorded interrupts and
 * faults, and a clock that only the test moves. It behaves as in a device worker.
 */
import { Prng } from '#host';
import { REGION_CONFIG } from '../../channel/mmio-channel.ts';
import {
  type Gpa,
  type Hpa,
  hex,
  type Iova,
  isAligned,
  offsetBy,
  PAGE_2M,
  PAGE_SIZE,
  PERM_RW,
} from '../../memory/address.ts';
import { GuestRam } from '../../memory/guest-ram.ts';
import { HPA_BASE } from '../../memory/host-memory.ts';
import { BAR_SIZE_PROBE, BarSpace } from '../../pci/bar-allocator.ts';
import {
  BAR_OFFSETS,
  COMMAND_BUS_MASTER,
  COMMAND_IO_SPACE,
  COMMAND_MEMORY_SPACE,
  MSI_CAPABILITY,
  MSI_CONTROL_ENABLE,
} from '../../pci/config-space.ts';
import { PinTableReader } from '../../pin-table/reader.ts';
import { PinTableWriter } from '../../pin-table/writer.ts';
import { encodePng } from '../../report/png.ts';
import type { BarIndex } from '../bar-region.ts';
import { DeviceInstance } from '../instance.ts';
import { MigrationState } from '../migration/states.ts';
import type { DeviceModel, ModelFactory } from '../model.ts';
import { type DeviceDefinition, factoryOf } from './definition.ts';

/** Steps within which a model must finish its work, by default. */
const HARNESS_STEPS_LIMIT = 10_000;
/** Default and largest guest RAM, in MiB. */
const HARNESS_RAM_MIB = 4;
const HARNESS_RAM_MIB_MAX = 256;
/** Pin table nodes: enough for the pages of the largest RAM, wherever they are mapped. Unused nodes take no memory. */
const TABLE_NODES = 2 ** 17;
/** Bytes of a migration stream per read or write. */
const HARNESS_DATA_BYTES = 8192;

/** A range of IOVAs and the guest RAM behind it. */
export interface HarnessMapping {
  readonly iova: number;
  readonly gpa: number;
  /** In bytes; like both addresses a multiple of 4096. */
  readonly size: number;
  /** PERM_READ, PERM_WRITE or PERM_RW (the default). */
  readonly perm?: number;
}

/** Options of a harness. */
export interface HarnessOptions {
  /** By default `vm0/gpu0`. */
  readonly name?: string;
  /** An even number. */
  readonly ramMiB?: number;
  /** The device's mappings: all of RAM at IOVA = GPA (the default), or these ranges. */
  readonly map?: 'identity' | readonly HarnessMapping[];
}

/** A DMA without a mapping, or without permission. */
export interface HarnessFault {
  readonly iova: number;
  readonly write: boolean;
  readonly denied: boolean;
}

/** Most violations that the error of {@link DeviceHarness.assertClean} lists. */
const VIOLATIONS_SHOWN = 8;

/** Thrown at the end of a test whose model has broken a contract. */
export class HarnessViolationError extends Error {
  constructor(violations: readonly string[]) {
    const shown = violations.slice(0, VIOLATIONS_SHOWN).map((text) => `\n  ${text}`);
    const hidden = violations.length - shown.length;
    const others = hidden > 0 ? `\n  and ${hidden} more` : '';
    super(`the model has ${violations.length} violations:${shown.join('')}${others}`);
    this.name = 'HarnessViolationError';
  }
}

/** A device model in the thread of its test, with guest RAM and mappings. */
export class DeviceHarness {
  readonly ram: GuestRam;
  /** Vectors of the delivered interrupts, in order. */
  readonly interrupts: number[] = [];
  readonly faults: HarnessFault[] = [];
  /** Broken contracts, as `kind: detail`, with the kinds of a run's report. */
  readonly violations: string[] = [];
  readonly logged: string[] = [];
  /** The clock, in microseconds. {@link advance} moves it and runs the timers that become due. */
  nowUs = 0;
  readonly #table = new PinTableWriter(TABLE_NODES);
  readonly #device: DeviceInstance;

  /** @throws DeviceDefinitionError, RangeError for an invalid map or RAM size, or whatever the model throws */
  constructor(model: DeviceDefinition | ModelFactory, options: HarnessOptions = {}) {
    const { name = 'vm0/gpu0', ramMiB = HARNESS_RAM_MIB, map = 'identity' } = options;
    if (!(Number.isInteger(ramMiB / 2) && ramMiB > 0 && ramMiB <= HARNESS_RAM_MIB_MAX))
      throw new RangeError(`${ramMiB} MiB of RAM; accepted: an even number from 2 to ${HARNESS_RAM_MIB_MAX}`);
    this.ram = GuestRam.allocate(HPA_BASE as Hpa, (ramMiB / 2) * PAGE_2M, 0, new Prng(1));
    const table = new PinTableReader(this.#table.handle, this.#table.addReader());
    const runner = {
      fault: (iova: Iova, write: boolean, denied: boolean) => void this.faults.push({ iova, write, denied }),
      violation: (kind: string, detail: string) => void this.violations.push(`${kind}: ${detail}`),
      interrupt: (vector: number) => void this.interrupts.push(vector),
      log: (text: string) => void this.logged.push(text),
      nowUs: () => this.nowUs,
    };
    const environment = { name, table, memory: this.ram.host, options: { fault: '' } };
    this.#device = new DeviceInstance(environment, runner, factoryOf(model));
    const ranges = map === 'identity' ? [{ iova: 0, gpa: 0, size: this.ram.size }] : map;
    for (const range of ranges) this.map(range);
  }

  get model(): DeviceModel {
    return this.#device.model;
  }

  /** Count of pins that the model holds. */
  get heldPins(): number {
    return this.#device.dma.heldPins;
  }

  /**
   * Enables the device as a driver does: sizes and places the BARs, enables their spaces, bus mastering and all MSI
   * vectors.
   */
  enable(): void {
    const space = new BarSpace(0);
    for (const offset of BAR_OFFSETS) {
      this.writeConfig(offset, 4, BAR_SIZE_PROBE);
      this.writeConfig(offset, 4, BigInt(space.place(Number(this.readConfig(offset, 4)))));
    }
    this.writeConfig(0x04, 2, BigInt(COMMAND_IO_SPACE | COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER));
    const control = this.readConfig(MSI_CAPABILITY + 2, 2);
    const every = ((control >> 1n) & 7n) << 4n;
    this.writeConfig(MSI_CAPABILITY + 2, 2, control | every | BigInt(MSI_CONTROL_ENABLE));
  }

  readConfig(offset: number, size: 1 | 2 | 4): bigint {
    return this.#device.read(REGION_CONFIG, offset, size);
  }

  writeConfig(offset: number, size: 1 | 2 | 4, value: bigint): void {
    this.#device.write(REGION_CONFIG, offset, size, value);
  }

  /** Reads a BAR as the guest does. Returns all ones while memory space is disabled. */
  read(bar: BarIndex, offset: number, size: 1 | 2 | 4 | 8): bigint {
    return this.#device.read(bar, offset, size);
  }

  /** Writes a BAR as the guest does. The work that this starts is done by {@link run}. */
  write(bar: BarIndex, offset: number, size: 1 | 2 | 4 | 8, value: bigint | number): void {
    this.#device.write(bar, offset, size, BigInt(value));
  }

  /** Reads a block of a BAR by a series of reads. */
  readBlock(bar: BarIndex, offset: number, bytes: number): Uint8Array {
    const block = new Uint8Array(bytes);
    this.#device.readBlock(bar, offset, block);
    return block;
  }

  writeBlock(bar: BarIndex, offset: number, bytes: Uint8Array): void {
    this.#device.writeBlock(bar, offset, bytes);
  }

  /** Returns the PNG of the displayed picture; undefined if there is no picture. */
  screenshot(): Uint8Array | undefined {
    const { scanout } = this.#device;
    return scanout && encodePng(scanout);
  }

  /** Does one step of the model. */
  step(): string {
    return this.#device.step();
  }

  /**
   * Steps until the model has nothing to do (`idle`) or waits for its address space (`stalled`).
   * @throws Error if it has more to do after `limit` steps
   */
  run(limit = HARNESS_STEPS_LIMIT): string {
    for (let steps = 0; steps < limit; steps++) {
      const result = this.#device.step();
      if (result !== 'more') return result;
    }
    throw new Error(`the model still has work after ${limit} steps`);
  }

  /** Advances the clock and runs the model. */
  advance(us: number): void {
    this.nowUs += us;
    this.run();
  }

  /** Maps guest RAM page by page, so that each page can be unmapped alone. @throws RangeError, GuestAddressError */
  map({ iova, gpa, size, perm = PERM_RW }: HarnessMapping): void {
    this.#checkRange(iova, size);
    this.ram.extents(gpa as Gpa, size);
    if (!isAligned(gpa, PAGE_SIZE)) throw new RangeError(`GPA ${hex(gpa)}; accepted: multiples of 4096`);
    for (let at = 0; at < size; at += PAGE_SIZE)
      this.#table.map(offsetBy(iova as Iova, at), this.ram.hpaOf(gpa + at) as Hpa, PAGE_SIZE, perm);
  }

  /**
   * Unmaps a range. The model must drop its pins there; a pin that it keeps is a violation. Returns the count of pins
   * that it dropped.
   */
  unmap(iova: number, size: number): number {
    this.#checkRange(iova, size);
    const held = this.#table.invalidate(iova as Iova, size);
    const dropped = held > 0 ? this.#device.dmaUnmap(iova as Iova, size) : 0;
    const kept = this.#table.pins(iova as Iova, size);
    if (kept > 0) {
      this.violations.push(`never-unpins: keeps ${kept} pins on IOVA ${hex(iova)} +${hex(size)}`);
      this.#table.forceUnpin(iova as Iova, size);
    }
    this.#table.clear(iova as Iova, size);
    this.#table.bump();
    this.#table.reclaim();
    return dropped;
  }

  /** Starts or ends a switch of the address space. Meanwhile a DMA that finds no mapping returns DMA_RETRY. */
  switching(on: boolean): void {
    this.#table.setSwitching(on);
  }

  /**
   * Returns the migration stream of the device, read in PRE_COPY and then in STOP_COPY. The device runs again
   * afterwards.
   * @throws MigrationStateError for a model without `state`, StateError if its state cannot be saved
   */
  save(): Uint8Array {
    const pieces: Uint8Array[] = [];
    try {
      for (const state of [MigrationState.PRE_COPY, MigrationState.STOP_COPY]) {
        this.#device.setMigrationState(state);
        for (let end = false; !end; ) {
          const part = this.#device.readData(HARNESS_DATA_BYTES);
          pieces.push(part.data);
          end = part.end;
        }
      }
    } finally {
      this.#device.setMigrationState(MigrationState.RUNNING);
    }
    return Buffer.concat(pieces);
  }

  /**
   * Creates the model again, restores the stream of {@link save}, and runs it. Its address space must be that of the
   * saved device.
   * @throws StateError for an invalid stream; the device can then only be restored again
   */
  restore(bytes: Uint8Array): void {
    if (this.#device.migrationState === MigrationState.ERROR) this.#device.reset();
    this.#device.setMigrationState(MigrationState.RESUMING);
    for (let at = 0; at < bytes.length; at += HARNESS_DATA_BYTES)
      this.#device.writeData(bytes.subarray(at, at + HARNESS_DATA_BYTES));
    this.#device.setMigrationState(MigrationState.RUNNING);
  }

  /** Returns metrics, faults and accesses to unimplemented registers, as in a run's report. */
  report(): ReturnType<DeviceInstance['report']> {
    return this.#device.report();
  }

  /** Returns a metric of the model; 0 if the model has no metric of that name. */
  metric(name: string): number {
    return this.report().metrics.find((metric) => metric.name === name)?.value ?? 0;
  }

  /**
   * Fails the test of a model that has broken a contract. A test that expects violations takes them out of
   * {@link violations} first.
   * @throws HarnessViolationError
   */
  assertClean(): void {
    if (this.violations.length > 0) throw new HarnessViolationError(this.violations);
  }

  /** Closes the model. A pin that it keeps is a violation. @throws HarnessViolationError, like {@link assertClean} */
  close(): void {
    this.#device.close();
    if (this.heldPins > 0) this.violations.push(`leaked-pins: stopped and left ${this.heldPins} pins`);
    this.assertClean();
  }

  #checkRange(iova: number, size: number): void {
    const fits = iova >= 0 && size > 0 && iova + size <= this.#table.iovaLimit;
    if (!fits || !isAligned(iova, PAGE_SIZE) || !isAligned(size, PAGE_SIZE))
      throw new RangeError(
        `IOVA ${hex(iova)} +${hex(size)}; accepted: multiples of 4096 below ${hex(this.#table.iovaLimit)}`,
      );
  }
}
