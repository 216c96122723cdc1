/**
 * A fuzzed guest that is moved at a random moment: from then on its program runs against the old vIOMMU and against the
 * one that took up its state, and whatever a guest or a device can see of the two must be the same.
 */
import { isDeepStrictEqual } from 'node:util';
import { Prng, yieldTurn } from '#host';
import { MappingRecord } from '../../src/conformance/mapping-record.ts';
import type { Hpa } from '../../src/memory/address.ts';
import { GuestRam } from '../../src/memory/guest-ram.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import type { VIommu } from '../../src/viommu/viommu.ts';
import { Draw } from '../fuzz/draw.ts';
import { type Given, hold, MeteredRam, RAM_ABOVE, RAM_BELOW, World } from '../fuzz/rig.ts';

const ZEROS = new Uint8Array(Math.max(RAM_BELOW, RAM_ABOVE));
/** Turns of the event loop until everything that is pending must have ended. */
const TURN_LIMIT = 20_000;

const makeRam = (seed: number): MeteredRam =>
  new MeteredRam(GuestRam.allocate(HPA_BASE as Hpa, RAM_BELOW, RAM_ABOVE, new Prng(seed)).handle);

/** RAM of both hosts, with other host pages behind the same addresses; a case leaves it dirty. */
export class TwinRam {
  readonly source = makeRam(1);
  readonly target = makeRam(2);

  clear(): void {
    for (const ram of [this.source, this.target]) {
      ram.meter.work = 0;
      for (const { gpa, size } of ram.regions) ram.write(gpa, ZEROS.subarray(0, size));
    }
  }

  copy(): void {
    for (const { gpa, size } of this.source.regions) this.target.write(gpa, this.source.read(gpa, size));
  }
}

/** The guest's own writes: they go to both hosts once it is on both. */
class MirroredRam extends GuestRam {
  mirror: GuestRam | undefined;

  override write32(gpa: number, value: number): void {
    super.write32(gpa, value);
    this.mirror?.write32(gpa, value);
  }

  override write(gpa: number, bytes: Uint8Array): void {
    super.write(gpa, bytes);
    this.mirror?.write(gpa, bytes);
  }
}

interface Model extends VIommu {
  readonly counters: object;
}

/** Makes a guest announce all that it has changed, where there are caches. */
export type Flush = (iommu: VIommu, draw: Draw) => Promise<void>;

/** One host's vIOMMU, and what it has sent and mapped. */
class Side {
  readonly iommu: Model;
  readonly events: string[] = [];
  readonly #ram: GuestRam;
  readonly #held = new Map<number, MappingRecord>();
  #countersBefore: readonly number[] = [];

  constructor(ram: GuestRam, build: (given: Given) => Model) {
    this.#ram = ram;
    this.iommu = build({
      ram,
      onFault: (record) => this.events.push(`fault ${JSON.stringify(record)}`),
      raiseMsi: (address, data) => this.events.push(`message ${address} ${data}`),
      raiseInterrupt: () => this.events.push('interrupt'),
    });
  }

  plug(requesterId: number): Promise<void> | undefined {
    const held = new MappingRecord(this.#ram);
    this.#held.set(requesterId, held);
    return this.iommu.attach(new DeviceAddressSpace(requesterId, held, this.#ram.regions));
  }

  unplug(requesterId: number): void {
    this.#held.delete(requesterId);
    this.iommu.detach(requesterId);
  }

  /** Events and counters are compared from here on. */
  mark(): void {
    this.events.length = 0;
    this.#countersBefore = this.#counts();
  }

  /** What a guest and its devices can see. */
  seen() {
    const registers: bigint[] = [];
    for (let at = 0; at < this.iommu.registerBytes; at += 8) registers.push(this.iommu.readRegister(at, 8));
    const mappings = [...this.#held].map(([id, held]) => {
      const all: number[][] = [];
      held.forEachMapping(0, 2 ** 64, (...mapping) => {
        all.push(mapping);
      });
      return [id, all] as const;
    });
    const counts = this.#counts().map((count, i) => count - (this.#countersBefore[i] as number));
    return { registers, mappings, counts, events: this.events };
  }

  #counts(): number[] {
    return Object.values(this.iommu.counters);
  }
}

export class TwinWorld extends World {
  override readonly guest: MirroredRam;
  /** Steps after the move that were compared, and mappings that containers held in them. */
  readonly compared = { steps: 0, mappings: 0 };
  readonly #rams: TwinRam;
  readonly #cutAt: number;
  readonly #flush: Flush;
  #build: ((given: Given) => Model) | undefined;
  /** What the guest takes for its vIOMMU: the source's, and the target's too once there is one. */
  #guest: VIommu | undefined;
  #source: Side | undefined;
  #target: Side | undefined;
  readonly #plugged: number[] = [];
  #steps = 0;
  #pending = 0;
  #failure: unknown;

  /**
   * @param cutAt the step before which the guest moves; at the end if there are fewer
   */
  constructor(rams: TwinRam, seed: number, cutAt: number, flush: Flush) {
    super(rams.source, new Draw(seed), []);
    rams.clear();
    this.guest = new MirroredRam(rams.source.handle);
    this.#rams = rams;
    this.#cutAt = cutAt;
    this.#flush = flush;
  }

  override get plugged(): number[] {
    return [...this.#plugged];
  }

  /** The case holds what looks like its model, and calls both. */
  override make<M extends VIommu>(build: (given: Given) => M): M {
    this.#build = build as unknown as (given: Given) => Model;
    this.#source = new Side(this.#rams.source, this.#build);
    const source = this.#source.iommu;
    const both = new Proxy(source, {
      get: (_target, name) => {
        const value: unknown = Reflect.get(source, name, source);
        if (typeof value !== 'function') return value;
        return (...args: unknown[]) => this.#both(String(name), args);
      },
    });
    this.#guest = both;
    return both as unknown as M;
  }

  override plug(_iommu: VIommu, requesterId: number): void {
    if (this.#plugged.includes(requesterId)) return;
    this.#plugged.push(requesterId);
    for (const side of this.#sides) this.track(side.plug(requesterId));
  }

  override unplug(_iommu: VIommu, requesterId: number): void {
    const at = this.#plugged.indexOf(requesterId);
    if (at < 0) return;
    this.#plugged.splice(at, 1);
    for (const side of this.#sides) side.unplug(requesterId);
  }

  override track(work: Promise<unknown> | undefined): void {
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

  override async settle(): Promise<void> {
    for (let turns = 0; this.#pending > 0; turns++) {
      hold(turns < TURN_LIMIT, `${this.#pending} completions are pending after ${TURN_LIMIT} turns`);
      await yieldTurn();
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  override async step(act: () => void): Promise<void> {
    if (this.#steps++ === this.#cutAt) await this.#move();
    act();
    await this.settle();
    this.#compare('after a step');
  }

  /** The same bytes are in both RAMs. */
  override async close(): Promise<string> {
    if (!this.#target) await this.#move();
    for (const { gpa, size } of this.#rams.source.regions)
      hold(this.#rams.target.equals(gpa, this.#rams.source.read(gpa, size)), `RAM from ${gpa} on differs`);
    return this.digest.hex;
  }

  get #sides(): Side[] {
    return [this.#source, this.#target].filter((side) => side !== undefined);
  }

  /** Calls a method of both models; what it gives must be the same. */
  #both(name: string, args: readonly unknown[]): unknown {
    const results = this.#sides.map(({ iommu }) => {
      const method = Reflect.get(iommu, name, iommu) as (...given: unknown[]) => unknown;
      return method.apply(iommu, [...args]);
    });
    if (!results.some((result) => result instanceof Promise)) return this.#same(name, results);
    return Promise.all(results).then((settled) => this.#same(name, settled));
  }

  #same(name: string, results: readonly unknown[]): unknown {
    // A virtio-iommu's domain is looked at through its mappings.
    if (results.length === 2 && name !== 'domainOf')
      hold(isDeepStrictEqual(results[0], results[1]), `${name} gives ${results[0]} and ${results[1]}`);
    return results[0];
  }

  async #move(): Promise<void> {
    const source = this.#source as Side;
    await this.settle();
    // What is changed and not announced yet, the target sees early; from the announcement on there is no difference.
    const early = this.draw.chance(50);
    if (early) await this.#flush(this.#guest as VIommu, this.draw);
    const state = source.iommu.save?.() as Uint8Array;
    this.#rams.copy();
    const target = new Side(this.#rams.target, this.#build as (given: Given) => Model);
    target.iommu.restore?.(state);
    for (const id of this.#plugged) this.track(target.plug(id));
    await this.settle();
    hold(Buffer.from(target.iommu.save?.() as Uint8Array).equals(state), 'the state differs once restored');
    this.#target = target;
    this.guest.mirror = this.#rams.target;
    for (const side of this.#sides) side.mark();
    if (!early) await this.#flush(this.#guest as VIommu, this.draw);
    this.#compare('after the move');
  }

  #compare(when: string): void {
    if (!this.#source || !this.#target) return;
    const [source, target] = [this.#source.seen(), this.#target.seen()];
    for (const key of ['registers', 'mappings', 'counts', 'events'] as const)
      hold(
        isDeepStrictEqual(source[key], target[key]),
        `${key} differ ${when} ${this.#steps}: ${difference(source[key], target[key])}`,
      );
    for (const side of this.#sides) side.events.length = 0;
    this.compared.steps++;
    for (const [, held] of source.mappings) this.compared.mappings += held.length;
  }
}

/** The first element that differs, of two lists. */
function difference(a: readonly unknown[], b: readonly unknown[]): string {
  const show = (value: unknown) =>
    JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `0x${part.toString(16)}` : part))?.slice(
      0,
      300,
    );
  const at = Array.from({ length: Math.max(a.length, b.length) }).findIndex(
    (_, i) => !isDeepStrictEqual(a[i], b[i]),
  );
  return `[${at}] ${show(a[at])} and ${show(b[at])}`;
}
