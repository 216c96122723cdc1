/**
 * One device model, its context, its registers as the bus sees them, and checks of every answer.
 * A worker's runtime and a test's harness both run a model by an instance of this class.
 */

import { Prng } from '#host';
import type { Scanout } from '../abi/scanout.ts';
import { MAX_VECTORS } from '../channel/device-link.ts';
import { REGION_CONFIG, REGION_SCANOUT } from '../channel/mmio-channel.ts';
import type { BarPlace } from '../channel/peer-block.ts';
import { hex, type Iova } from '../memory/address.ts';
import { allOnes } from '../memory/bus-access.ts';
import type { HostMemory } from '../memory/host-memory.ts';
import type { PinTableReader } from '../pin-table/reader.ts';
import type { FrameBodies } from '../proto/schema.ts';
import { UNIMPLEMENTED_OFFSETS_LIMIT, type UnimplementedCount } from '../registers/register-file.ts';
import { BAR_INDICES, type BarIndex, type BarRegion } from './bar-region.ts';
import { checkModel } from './check-model.ts';
import { DeviceDma, type DmaPeers } from './dma.ts';
import { MetricSet } from './metrics.ts';
import { DeviceMigration } from './migration/migration.ts';
import { type MigrationState, migrationStateName } from './migration/states.ts';
import { type DeviceStreamPart, memoriesOf } from './migration/stream-writer.ts';
import type { DeviceContext, DeviceModel, DeviceOptions, ModelFactory, StepResult } from './model.ts';
import { ScanoutRegion } from './scanout-region.ts';
import { SpinDetector } from './spin-detector.ts';
import { readSplit, writeSplit } from './split-access.ts';
import { TimerQueue } from './timers.ts';

/** Most lines that a device may log; the others are counted. */
export const LOG_LINES_LIMIT = 32;
/** Most characters of a logged line; the rest is cut off. */
export const LOG_LINE_LIMIT = 200;
/** Most rows of accesses to unimplemented registers in one device's report; the others are counted. */
export const UNIMPLEMENTED_ROWS_LIMIT: number = UNIMPLEMENTED_OFFSETS_LIMIT;

/** Receiver of an instance's faults, violations, interrupts and log lines. */
interface ModelRunner {
  fault(iova: Iova, write: boolean, denied: boolean): void;
  /** Reports a broken contract: its kind as a short fixed word, and the detail. */
  violation(kind: string, detail: string): void;
  /** Delivers an interrupt that the guest has enabled. */
  interrupt(vector: number): void;
  /** Logs a line of the model, or a finding of the watchdog over the guest. */
  log(text: string, watchdog: boolean): void;
  /** Returns the injected clock, in microseconds. */
  nowUs(): number;
}

/** The machine that a device runs in, as far as the device sees it. */
interface DeviceEnvironment {
  readonly name: string;
  readonly table: PinTableReader;
  readonly memory: HostMemory;
  readonly options: DeviceOptions;
  /** Name of the model, for messages; by default the device's name. */
  readonly modelName?: string;
  /** The device starts in RESUMING and gets its state from a migration stream. */
  readonly resuming?: boolean;
  /** The BARs of the VM's other devices. */
  readonly peers?: DmaPeers | undefined;
}

const isStep = (result: unknown): result is StepResult =>
  result === 'idle' || result === 'more' || result === 'stalled';

/** A guest may put anything into its ring. */
const isAccess = (offset: number, size: number): boolean =>
  offset >= 0 && (size === 1 || size === 2 || size === 4 || size === 8);

export class DeviceInstance {
  readonly dma: DeviceDma;
  readonly metrics = new MetricSet();
  readonly timers: TimerQueue;
  readonly #runner: ModelRunner;
  readonly #spin: SpinDetector;
  readonly #build: () => DeviceModel;
  readonly #migration: DeviceMigration;
  #model: DeviceModel | undefined;
  #scanout: ScanoutRegion;
  /** Accesses to absent BARs or beyond a region's end, by BAR and offset. */
  readonly #unclaimed = new Map<number, Map<number, UnimplementedCount>>();
  #unclaimedRows = 0;
  #unclaimedOthers = 0;
  #logged = 0;
  /** Set when DMA without bus mastering has been logged. */
  #refusedDma = false;

  /** Creates the model. @throws whatever its factory throws */
  constructor(environment: DeviceEnvironment, runner: ModelRunner, factory: ModelFactory) {
    const { name, table, memory, options, modelName = name, resuming = false, peers } = environment;
    this.#runner = runner;
    this.timers = new TimerQueue(() => runner.nowUs());
    this.#spin = new SpinDetector(() => runner.nowUs());
    this.dma = new DeviceDma(table, memory, runner, () => this.#mastersBus(), peers);
    const context: DeviceContext = {
      name,
      dma: this.dma,
      timers: this.timers,
      metrics: this.metrics,
      interrupt: (vector) => this.#interrupt(vector),
      log: (text) => this.#log(text),
      random: seededBytes(name),
    };
    this.#build = () => {
      const model: unknown = factory(context, options);
      checkModel(model);
      return model;
    };
    this.#model = this.#build();
    this.#scanout = this.#scanoutRegion();
    const device = this;
    this.#migration = new DeviceMigration({
      get model() {
        return device.model;
      },
      modelName,
      rebuild: () => this.#rebuild(),
      suspend: () => this.model.suspend?.(),
    });
    if (resuming) this.#migration.startResuming();
  }

  get model(): DeviceModel {
    return this.#model!;
  }

  /** Its state in VFIO's migration interface. The model and its timers run in RUNNING and PRE_COPY only. */
  get migrationState(): MigrationState {
    return this.#migration.state;
  }

  /** True while the model runs and the guest's accesses are answered. */
  get running(): boolean {
    return this.#migration.running;
  }

  /**
   * Enters a state, if necessary through other states. At the source the model keeps its pins, because it may resume
   * there.
   * @throws MigrationStateError if there is no such transition; the state is unchanged
   * @throws StateError for an incomplete stream; the device is in ERROR
   */
  setMigrationState(state: number): void {
    this.#migration.enter(state);
    this.#spin.changed();
  }

  /**
   * Returns the next bytes of its migration stream, at most `maxBytes`, in PRE_COPY and STOP_COPY.
   * @throws MigrationStateError, StateError
   */
  readData(maxBytes: number): DeviceStreamPart {
    return this.#migration.read(maxBytes);
  }

  /**
   * Takes the next bytes of a migration stream, in RESUMING.
   * @throws MigrationStateError, StateError; the device is then in ERROR
   */
  writeData(bytes: Uint8Array): void {
    this.#migration.write(bytes);
  }

  /** Creates the model again. This is the only way out of the state ERROR. */
  reset(): void {
    this.#migration.reset();
  }

  /** Microseconds until a timer is due; infinite while the device does not run. */
  get waitUs(): number {
    return this.running ? this.timers.waitUs : Number.POSITIVE_INFINITY;
  }

  /** Bytes that its memories have allocated. */
  get memoryBytes(): number {
    let bytes = 0;
    for (const memory of memoriesOf(this.model).values()) bytes += memory.allocatedBytes;
    return bytes;
  }

  /** The picture that the device displays; undefined for none, or for an invalid one. */
  get scanout(): Scanout | undefined {
    return this.#scanout.take();
  }

  /** Performs a guest's read of configuration space or a BAR. Returns all ones if nothing claims the access. */
  read(region: number, offset: number, size: number): bigint {
    if (!isAccess(offset, size)) return allOnes(8);
    const target = this.#region(region);
    if (!target) return allOnes(size);
    if (offset + size > target.size) {
      this.#unclaimedAt(region, offset, 'reads');
      return allOnes(size);
    }
    const value: unknown = target.read(offset, size);
    if (typeof value !== 'bigint' || value < 0n || value > allOnes(size)) {
      const text = `answers a ${size}-byte read of BAR${region}+${hex(offset)} with ${String(value)}`;
      this.#runner.violation('bad-answer', `${text}; accepted: a bigint of that size`);
      return allOnes(size);
    }
    if (region !== REGION_CONFIG) this.#detectSpin(target, region, offset, value);
    return value;
  }

  /** Performs a guest's write to configuration space or a BAR. Drops it if nothing claims the access. */
  write(region: number, offset: number, size: number, value: bigint): void {
    this.#spin.changed();
    const target = isAccess(offset, size) ? this.#region(region) : undefined;
    if (!target) return;
    if (offset + size > target.size) this.#unclaimedAt(region, offset, 'writes');
    else target.write(offset, size, value);
  }

  /** Performs a guest's block read: a series of reads, or the scanout. */
  readBlock(region: number, offset: number, bytes: Uint8Array): void {
    bytes.fill(0xff);
    if (region === REGION_SCANOUT) this.#scanout.read(offset, bytes);
    else if (this.#holds(region, offset, bytes.length)) {
      const target = this.#region(region)!;
      if (target.readBlock) target.readBlock(offset, bytes);
      else readSplit(offset, bytes, (at, size) => this.read(region, at, size));
    }
  }

  /** Performs a guest's block write: a series of writes. */
  writeBlock(region: number, offset: number, bytes: Uint8Array): void {
    if (!this.#holds(region, offset, bytes.length)) return;
    this.#spin.changed();
    const target = this.#region(region)!;
    if (target.writeBlock) target.writeBlock(offset, bytes);
    else writeSplit(offset, bytes, (at, size, value) => this.write(region, at, size, value));
  }

  /** Performs an access of another device's DMA to a BAR. It is no access of the guest, which may be waiting. */
  peerAccess({ bar, offset }: BarPlace, isWrite: boolean, bytes: Uint8Array): void {
    this.#spin.changed();
    if (isWrite) this.writeBlock(bar, offset, bytes);
    else this.readBlock(bar, offset, bytes);
    this.#spin.changed();
  }

  /** Addresses at which the memory BARs answer, by BAR; undefined for a BAR that does not. */
  get decodedBars(): readonly { readonly address: number | undefined; readonly size: number }[] {
    const { config, bars } = this.model;
    return BAR_INDICES.map((bar) => ({
      address: config.memoryBarAddress(bar),
      size: bars[bar]?.size ?? 0,
    }));
  }

  /** Runs due timers, then one step of the model. Does nothing while the device does not run. */
  step(): StepResult {
    if (!this.running) return 'idle';
    if (this.timers.runDue() > 0) this.#spin.changed();
    const result: unknown = this.model.step();
    if (result === 'idle') return result;
    this.#spin.changed();
    if (isStep(result)) return result;
    this.#runner.violation('bad-answer', `step() returns ${String(result)}; accepted: idle, more, stalled`);
    return 'idle';
  }

  /** Calls the model to drop its pins in the range. Returns the count of pins dropped. */
  dmaUnmap(iova: Iova, size: number): number {
    const before = this.dma.counters.unpins;
    this.model.dmaUnmap(iova, size);
    return this.dma.counters.unpins - before;
  }

  /** Closes the model. */
  close(): void {
    this.model.close();
    if (this.#logged > LOG_LINES_LIMIT)
      this.#runner.log(`and ${this.#logged - LOG_LINES_LIMIT} more lines`, false);
  }

  /** Returns the counts and metrics of this instance. */
  report(): Pick<
    FrameBodies['deviceReport'],
    'pins' | 'unpins' | 'faults' | 'unimplemented' | 'unimplementedOthers' | 'metrics'
  > {
    const rows = this.#unimplementedRows();
    const shown = rows.slice(0, UNIMPLEMENTED_ROWS_LIMIT);
    const left = rows.slice(UNIMPLEMENTED_ROWS_LIMIT).reduce((sum, { count }) => sum + count, 0);
    const regions = Object.values(this.model.bars);
    const others = regions.reduce((sum, { unimplementedOthers = 0 }) => sum + unimplementedOthers, 0);
    return {
      ...this.dma.counters,
      metrics: this.metrics.collect(this.model.counters ?? {}, (text) =>
        this.#runner.violation('bad-answer', text),
      ),
      unimplemented: shown,
      unimplementedOthers: left + others + this.#unclaimedOthers,
    };
  }

  #rebuild(): void {
    this.metrics.keep(this.model.counters ?? {});
    this.model.close();
    this.timers.clear();
    this.#model = undefined;
    this.#model = this.#build();
    this.#scanout = this.#scanoutRegion();
  }

  #scanoutRegion(): ScanoutRegion {
    return new ScanoutRegion(this.model, (text) => this.#runner.violation('bad-answer', text));
  }

  /**
   * Returns the region of a BAR. It answers only while its space, memory or I/O, is enabled; otherwise nothing claims
   * the access.
   */
  #region(region: number): BarRegion | undefined {
    const { config, bars } = this.model;
    if (region === REGION_CONFIG) return config.registers;
    if (!config.decodes(region) || !BAR_INDICES.includes(region as BarIndex)) return undefined;
    return bars[region as BarIndex] ?? NO_REGION;
  }

  /** Returns true if a block lies within a region that answers. */
  #holds(region: number, offset: number, length: number): boolean {
    const target = this.#region(region);
    return target !== undefined && offset >= 0 && offset + length <= target.size;
  }

  #detectSpin(target: BarRegion, region: number, offset: number, value: bigint): void {
    // A timer may still change the register.
    if (this.timers.pending > 0) this.#spin.changed();
    const found = this.#spin.read(region, offset, value, target.nameAt?.(offset));
    if (found !== undefined) this.#runner.log(found, true);
  }

  #interrupt(vector: number): void {
    this.#spin.changed();
    const vectors = this.#model?.config.vectors ?? MAX_VECTORS;
    if (!(Number.isInteger(vector) && vector >= 0 && vector < vectors)) {
      const accepted = vectors === 1 ? 'only 0' : `0 to ${vectors - 1}`;
      const text = `raises interrupt ${String(vector)}; accepted: ${accepted}`;
      this.#runner.violation('bad-interrupt', text);
      return;
    }
    if (this.#model && !this.running) {
      const state = migrationStateName(this.migrationState);
      this.#runner.violation(
        'bad-interrupt',
        `raises interrupt ${vector} in ${state}; accepted: while it runs`,
      );
      return;
    }
    const delivered = this.#model?.config.delivered(vector);
    if (delivered !== undefined) this.#runner.interrupt(delivered);
  }

  /** Returns true if the guest lets the device send requests. A model under construction has just been reset. */
  #mastersBus(): boolean {
    if (this.#model?.config.busMaster) return true;
    if (!this.#refusedDma) this.#runner.log('DMA is refused: the guest keeps Bus Master Enable at 0', true);
    this.#refusedDma = true;
    return false;
  }

  #log(text: string): void {
    this.#logged++;
    if (this.#logged > LOG_LINES_LIMIT) return;
    this.#runner.log(String(text).slice(0, LOG_LINE_LIMIT), false);
  }

  #unclaimedAt(bar: number, offset: number, kind: keyof UnimplementedCount): void {
    const offsets = this.#unclaimed.get(bar) ?? new Map<number, UnimplementedCount>();
    this.#unclaimed.set(bar, offsets);
    let count = offsets.get(offset);
    if (!count) {
      if (this.#unclaimedRows >= UNIMPLEMENTED_ROWS_LIMIT) {
        this.#unclaimedOthers++;
        return;
      }
      this.#unclaimedRows++;
      count = { reads: 0, writes: 0 };
      offsets.set(offset, count);
    }
    count[kind]++;
  }

  #unimplementedRows(): FrameBodies['deviceReport']['unimplemented'] {
    const rows: FrameBodies['deviceReport']['unimplemented'][number][] = [];
    const add = (bar: number, counts: ReadonlyMap<number, Readonly<UnimplementedCount>>) => {
      for (const [offset, { reads, writes }] of counts) {
        if (reads > 0) rows.push({ bar, offset, write: false, count: reads });
        if (writes > 0) rows.push({ bar, offset, write: true, count: writes });
      }
    };
    for (const bar of BAR_INDICES) add(bar, this.model.bars[bar]?.unimplemented ?? new Map());
    for (const [bar, counts] of this.#unclaimed) add(bar, counts);
    return rows;
  }
}

/** Returns a source of pseudo-random bytes, the same for every device of that name. */
function seededBytes(name: string): (target: Uint8Array) => void {
  let prng: Prng | undefined;
  return (target) => {
    prng ??= new Prng([...name].reduce((seed, letter) => Math.imul(seed, 31) + letter.charCodeAt(0), 1));
    for (let i = 0; i < target.length; i++) target[i] = prng.below(256);
  };
}

/** Stands for an absent BAR: every access lies beyond its end. */
const NO_REGION: BarRegion = { size: 0, read: () => 0n, write: () => {} };
