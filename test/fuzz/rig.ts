/**
 * Environment of a fuzzed vIOMMU: metered guest RAM, devices with real containers and pin tables, and the invariants that
 * hold whatever the guest writes.
 */
import { Prng, yieldTurn } from '#host';
import { ContainerNotifier } from '../../src/coordinator/vm/container-notifier.ts';
import type { Hpa, Iova } from '../../src/memory/address.ts';
import { GuestRam } from '../../src/memory/guest-ram.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import type { Completion } from '../../src/platform/completion.ts';
import { Container } from '../../src/vfio/container.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import type { IovaRange, TranslationVisitor } from '../../src/viommu/notifier.ts';
import type { DmaFaultRecord, VIommu } from '../../src/viommu/viommu.ts';
import { WALK_ENTRY_LIMIT } from '../../src/viommu/vtd/page-tables.ts';
import { Digest, Draw } from './draw.ts';

export const PAGE = 4096;
const MIB = 2 ** 20;
export const RAM_BELOW = 2 * MIB;
export const RAM_ABOVE = 2 * MIB;
/** Limits of one container's mappings and of its pin table's nodes. They are small so that cases reach them. */
const ENTRY_LIMIT = 512;
const TABLE_NODES = 48;
/** Requester IDs of the devices of a case. */
export const DEVICES: readonly number[] = [0x0008, 0x0108, 0x0110, 0x01f8];
/** Maximum count of plugged devices per case, unplugged ones included. */
const PLUG_LIMIT = 8;
/** Turns of the event loop within which all pending work must end. */
const TURN_LIMIT = 20_000;
/** Maximum work of one walk over the tables of one device: its entries, and a visit of each held mapping. */
const WALK_WORK = 2 * WALK_ENTRY_LIMIT + 32 * ENTRY_LIMIT;
/** A step with more work counts as endless. */
const ENDLESS_WORK = 2 ** 30;

const ZEROS = new Uint8Array(Math.max(RAM_BELOW, RAM_ABOVE));

/** Thrown when an invariant is violated. */
class FuzzFailure extends Error {
  override name = 'FuzzFailure';
}

export function hold(condition: boolean, what: string): void {
  if (!condition) throw new FuzzFailure(what);
}

/** Counts the words of RAM that the model reads and its calls to the notifiers. */
class Meter {
  work = 0;

  tick(work = 1): void {
    this.work += work;
    if (this.work > ENDLESS_WORK) throw new FuzzFailure(`a step did not end within ${ENDLESS_WORK} reads`);
  }
}

export class MeteredRam extends GuestRam {
  readonly meter = new Meter();

  override read32(gpa: number): number {
    this.meter.tick();
    return super.read32(gpa);
  }

  override load32(gpa: number): number {
    this.meter.tick();
    return super.load32(gpa);
  }

  override read(gpa: number, length: number): Uint8Array {
    this.meter.tick(1 + length / 4);
    return super.read(gpa, length);
  }
}

/** Container notifier whose removals can take one more turn, as removals of pinned pages do. */
class SlowNotifier extends ContainerNotifier {
  slow = false;
  readonly #meter: Meter;

  constructor(container: Container, ram: MeteredRam) {
    super(container, ram);
    this.#meter = ram.meter;
  }

  override unmap(ranges: readonly IovaRange[]): Completion {
    this.#meter.tick(ranges.length);
    return super.unmap(ranges) ?? this.#turn();
  }

  override unmapAll(): Completion {
    return super.unmapAll() ?? this.#turn();
  }

  override forEachMapping(start: number, end: number, visit: TranslationVisitor): void {
    super.forEachMapping(start, end, (...mapping) => {
      this.#meter.tick();
      return visit(...mapping);
    });
  }

  #turn(): Completion {
    return this.slow ? yieldTurn() : undefined;
  }
}

/** Environment that a world passes to a model: RAM and the receivers of its messages. */
export interface Given {
  readonly ram: GuestRam;
  readonly onFault?: (record: DmaFaultRecord) => void;
  readonly raiseMsi?: (address: number, data: number) => void;
  readonly raiseInterrupt?: () => void;
}

interface FuzzDevice {
  readonly space: DeviceAddressSpace;
  readonly container: Container;
  readonly notifier: SlowNotifier;
  readonly table: PinTableWriter;
}

/** RAM and pin tables, reused by all cases. A case returns them in their initial state. */
export class Rig {
  readonly ram = new MeteredRam(GuestRam.allocate(HPA_BASE as Hpa, RAM_BELOW, RAM_ABOVE, new Prng(1)).handle);
  readonly #tables: PinTableWriter[] = [];

  open(seed: number): World {
    for (const { gpa, size } of this.ram.regions) this.ram.write(gpa, ZEROS.subarray(0, size));
    return new World(this.ram, new Draw(seed), this.#tables);
  }
}

/** One case's world. */
export class World {
  readonly ram: GuestRam;
  /** The same RAM without a meter, for the writes of the fuzzed guest. */
  readonly guest: GuestRam;
  readonly draw: Draw;
  readonly digest = new Digest();
  readonly #meter: Meter;
  readonly #tables: PinTableWriter[];
  readonly #plugged = new Map<number, FuzzDevice>();
  readonly #devices: FuzzDevice[] = [];
  #pending = 0;
  #failure: unknown;

  constructor(ram: MeteredRam, draw: Draw, tables: PinTableWriter[]) {
    this.ram = ram;
    this.guest = new GuestRam(ram.handle);
    this.draw = draw;
    this.#meter = ram.meter;
    this.#tables = tables;
  }

  /** IDs of the devices that are plugged in. */
  get plugged(): number[] {
    return [...this.#plugged.keys()];
  }

  /** Creates the model of this case. */
  make<Model extends VIommu>(build: (given: Given) => Model): Model {
    return build({ ram: this.ram });
  }

  /** Returns the GPA of a page, mostly of RAM below or above 4 GiB. */
  page(): number {
    const { draw } = this;
    if (draw.chance(80)) return draw.below(RAM_BELOW / PAGE) * PAGE;
    if (draw.chance(60)) return 2 ** 32 + draw.below(RAM_ABOVE / PAGE) * PAGE;
    return Number(draw.wide() & 0xf_ffff_ffff_f000n);
  }

  plug(iommu: VIommu, requesterId: number): void {
    if (this.#plugged.has(requesterId) || this.#devices.length >= PLUG_LIMIT) return;
    const table = this.#tables.pop() ?? new PinTableWriter(TABLE_NODES);
    const container = new Container(table, this.ram, { entryLimit: ENTRY_LIMIT });
    const notifier = new SlowNotifier(container, this.ram as MeteredRam);
    const space = new DeviceAddressSpace(requesterId, notifier, this.ram.regions);
    const device = { space, container, notifier, table };
    this.#plugged.set(requesterId, device);
    this.#devices.push(device);
    this.track(iommu.attach(space));
  }

  unplug(iommu: VIommu, requesterId: number): void {
    if (this.#plugged.delete(requesterId)) iommu.detach(requesterId);
  }

  /** Makes the removals of all devices take one more turn, or none. */
  setSlow(slow: boolean): void {
    for (const { notifier } of this.#devices) notifier.slow = slow;
  }

  /** Tracks work that a step has started. */
  track(work: Promise<unknown> | undefined): void {
    if (!work) return;
    this.#pending++;
    work.then(
      () => this.#pending--,
      (error: unknown) => {
        this.#pending--;
        this.#failure ??= error;
      },
    );
  }

  /** Writes the low bytes of `value` to a register and tracks the completion. */
  write(iommu: VIommu, offset: number, size: number, value: bigint): void {
    this.track(iommu.writeRegister(offset, size, BigInt.asUintN(8 * size, value)));
  }

  /** Runs one step. `walks` returns how many walks per device the model has made so far. */
  async step(act: () => void, walks: () => number, settle: boolean): Promise<void> {
    const before = walks();
    this.#meter.work = 0;
    act();
    if (settle) await this.settle();
    const allowed = (2 + walks() - before) * (1 + this.#devices.length) * WALK_WORK;
    hold(this.#meter.work <= allowed, `a step took ${this.#meter.work} reads; at most ${allowed}`);
    this.throwFailure();
  }

  /** Throws the first error of tracked work. */
  protected throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  async settle(): Promise<void> {
    for (let turns = 0; this.#pending > 0; turns++) {
      hold(turns < TURN_LIMIT, `${this.#pending} completions are pending after ${TURN_LIMIT} turns`);
      await yieldTurn();
    }
  }

  /** Translates one access of a device and adds the answer to the digest. */
  translate(iommu: VIommu, requesterId: number, iova: number, write: boolean): void {
    const answer = iommu.translate(requesterId, iova as Iova, write);
    this.digest.add(answer.ok ? answer.gpa : -1 - answer.reason);
    if (answer.ok) hold(answer.gpa >= 0 && answer.perm <= 3, `translated to ${answer.gpa}, ${answer.perm}`);
  }

  /** Checks that every container maps only RAM, in order, without overlap and within its limit. */
  check(): void {
    for (const { container, space, notifier } of this.#devices) {
      hold(container.liveMappings <= ENTRY_LIMIT, `${container.liveMappings} mappings are live`);
      let [end, seen] = [0, 0];
      notifier.forEachMapping(0, 2 ** 64, (iova, gpa, size) => {
        hold(iova >= end && size > 0, `mappings overlap at ${iova}`);
        hold(this.guest.contains(gpa, size), `${gpa} +${size} is mapped and is not RAM`);
        [end, seen] = [iova + size, seen + 1];
        for (const part of [iova, gpa, size]) this.digest.add(part);
      });
      hold(seen === container.liveMappings, `${container.liveMappings} mappings are live, ${seen} seen`);
      for (const count of Object.values(space.counters)) {
        hold(Number.isSafeInteger(count), `a counter is ${count}`);
        this.digest.add(count);
      }
    }
  }

  /** Audits a device against its tables. With garbage in the tables only termination is guaranteed. */
  audit(requesterId: number): void {
    for (const { iova, size } of this.#plugged.get(requesterId)?.space.audit() ?? []) {
      this.digest.add(iova);
      this.digest.add(size);
    }
  }

  /** Settles, checks that unmapAll leaves the pin tables empty, and returns the digest. */
  async close(): Promise<string> {
    await this.settle();
    this.throwFailure();
    this.check();
    for (const { container, notifier, table } of this.#devices) {
      notifier.slow = false;
      notifier.unmapAll();
      hold(container.liveMappings === 0, `${container.liveMappings} mappings outlive unmapAll`);
      hold(table.nodesInUse === 0, `${table.nodesInUse} nodes of a pin table are lost`);
      this.#tables.push(table);
    }
    return this.digest.hex;
  }
}
