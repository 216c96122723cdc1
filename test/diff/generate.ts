/**
 * Generates random plans for a unit in legacy mode. The same seed yields the same plan. The invalidation that a correct
 * guest makes follows every change of a table, so no outcome depends on the contents of a unit's caches.
 */
import { Prng } from '#host';
import type { Action, DmaPart, Flush, Plan, TableWrite } from './plan.ts';
import {
  CONTEXT_TABLE,
  contextWords,
  corruptContext,
  corruptRoot,
  type Domain,
  dataPage,
  GuestTables,
  type Mapping,
  ROOT_TABLE,
} from './tables.ts';

/** Actions after the set-up. */
const MIN_ACTIONS = 8;
const MORE_ACTIONS = 22;
/** Maximum count of DMAs in a plan. Their bytes share one buffer per device. */
const DMA_LIMIT = 56;
const DMA_BYTES = 64;
const MAPPINGS = 6;
const PAGE = 4096;
const DEVICES = ['00:04.0', '00:05.0', '00:05.3'] as const;
/** Distance between the seeds of successive plans. */
const SEED_STEP = 0x9e3779b1;

/** Returns the seed of plan number `index` of a run. */
export const planSeed = (seed: number, index: number): number =>
  (Math.imul(seed, 0x85ebca6b) ^ Math.imul(index + 1, SEED_STEP)) & 0x7fffffff;

export function generatePlan(seed: number, name = `legacy-${seed}`): Plan {
  return new Generator(seed, name).plan();
}

interface Attached {
  readonly domain: Domain;
  /** GPA of its context entry, and the words of the valid entry. */
  readonly entry: number;
  readonly words: readonly bigint[];
  readonly sid: number;
  readonly passThrough: boolean;
}

/** Intended target of a DMA. */
interface Aim {
  readonly device: Attached;
  readonly mapping: Mapping | undefined;
}

class Generator {
  readonly #seed: number;
  readonly #name: string;
  readonly #prng: Prng;
  readonly #tables: GuestTables;
  readonly #actions: Action[] = [];
  readonly #devices: Attached[] = [];
  readonly #awBits: 39 | 48;
  readonly #repairs: (() => Action)[] = [];
  #translating = false;
  #dmas = 0;

  constructor(seed: number, name: string) {
    this.#seed = seed;
    this.#name = name;
    this.#prng = new Prng(seed);
    this.#tables = new GuestTables(this.#prng);
    this.#awBits = this.#prng.below(4) === 0 ? 39 : 48;
  }

  plan(): Plan {
    const prng = this.#prng;
    const bdfs = prng.shuffle([...DEVICES.keys()]).slice(0, 1 + prng.below(2));
    const devices = bdfs.map((index) => ({ bdf: DEVICES[index] as string }));
    this.#setUp(devices);
    const count = MIN_ACTIONS + prng.below(MORE_ACTIONS);
    for (let i = 0; i < count; i++) this.#next();
    if (prng.below(8) === 0) this.#actions.push(this.#badDescriptor());
    const iommu = { caching_mode: prng.below(4) === 0, scalable: false, aw_bits: this.#awBits };
    const queued = prng.below(3) > 0;
    return { name: this.#name, seed: this.#seed, iommu, devices, queued, actions: this.#actions };
  }

  #setUp(devices: readonly { readonly bdf: string }[]): void {
    const prng = this.#prng;
    const writes: TableWrite[] = [{ gpa: ROOT_TABLE, words: [BigInt(CONTEXT_TABLE) | 1n, 0n] }];
    const shared = prng.below(3) === 0;
    for (const [index, { bdf }] of devices.entries()) {
      const domain = (shared && this.#devices[0]?.domain) || this.#newDomain(index, writes);
      const [device = 0, fn = 0] = bdf
        .slice(3)
        .split('.')
        .map((part) => Number.parseInt(part, 16));
      const sid = (device << 3) | fn;
      const passThrough = prng.below(6) === 0;
      const type = passThrough ? 2 : 0;
      const fpd = prng.below(6) === 0;
      const words = contextWords(type, domain.levels - 2, domain.top, domain.id, fpd);
      const entry = CONTEXT_TABLE + sid * 16;
      writes.push({ gpa: entry, words });
      this.#devices.push({ domain, entry, words, sid, passThrough });
    }
    for (const write of writes) this.#actions.push({ kind: 'tables', writes: [write], flushes: [] });
    this.#actions.push({ kind: 'root', table: ROOT_TABLE });
    if (prng.below(8) === 0) this.#actions.push(this.#dma());
    this.#translate(true);
  }

  #newDomain(index: number, writes: TableWrite[]): Domain {
    const prng = this.#prng;
    const levels = this.#awBits === 39 || prng.below(4) === 0 ? 3 : 4;
    const domain = this.#tables.newDomain(1 + index * 7 + prng.below(5), levels);
    for (let i = 0; i < MAPPINGS; i++) {
      const [iova, level] = this.#freshIova(domain);
      writes.push(...this.#tables.map(domain, iova, level));
      // Maps the next page, too, so that a DMA can cross.
      if (level === 1 && prng.below(2) === 0) writes.push(...this.#tables.map(domain, iova + 4096n, 1));
    }
    return domain;
  }

  #freshIova(domain: Domain): readonly [bigint, 1 | 2 | 3] {
    const prng = this.#prng;
    const level = ([1, 1, 1, 2, 2, 3] as const)[prng.below(6)] ?? 1;
    const top = domain.levels === 4 ? [0n, 1n, 0x1ffn, 0xffn] : [0n];
    const gib = [1n, 2n, 5n, 0x1ffn][prng.below(4)] ?? 1n;
    const iova =
      ((top[prng.below(top.length)] ?? 0n) << 39n) |
      (gib << 30n) |
      (level < 3 ? BigInt(prng.below(4)) << 21n : 0n) |
      (level < 2 ? BigInt(prng.below(6)) << 12n : 0n);
    return [iova, level];
  }

  #next(): void {
    const prng = this.#prng;
    const draw = prng.below(100);
    if (draw < 45) this.#actions.push(this.#dma());
    else if (draw < 62) this.#corrupt();
    else if (draw < 74) this.#repair();
    else if (draw < 80) this.#mapMore();
    else if (draw < 84) this.#translate(!this.#translating);
    else if (draw < 92) this.#clearFaults();
    else if (draw < 96)
      this.#actions.push({ kind: 'wait', data: prng.below(2 ** 31), interrupt: prng.below(2) === 0 });
    else this.#actions.push(this.#readRegister());
  }

  #translate(on: boolean): void {
    this.#translating = on;
    this.#actions.push({ kind: 'translation', on });
  }

  #clearFaults(): void {
    const draw = this.#prng.below(3);
    if (draw < 2) this.#actions.push({ kind: 'register-write', off: 0x22c, size: 4, value: 0x80000000n });
    if (draw > 0) this.#actions.push({ kind: 'register-write', off: 0x34, size: 4, value: 0x7fn });
    this.#actions.push({ kind: 'register-read', off: 0x34, size: 4 });
  }

  #readRegister(): Action {
    const registers = [0x00, 0x08, 0x10, 0x1c, 0x34, 0x38, 0x80, 0x88, 0x90, 0x9c, 0xa0] as const;
    const off = registers[this.#prng.below(registers.length)] ?? 0;
    const wide = (off >= 0x80 && off <= 0x90) || off === 0x08 || off === 0x10;
    return { kind: 'register-read', off, size: wide ? 8 : 4 };
  }

  #badDescriptor(): Action {
    const choices: readonly (readonly [bigint, bigint])[] = [
      [0n, 0n],
      [0xfn, 0n],
      [0x2n, 0n],
      [0x32n, 19n],
      [0x1n | (1n << 20n) | (1n << 6n), 0n],
      [0x25n | (1n << 13n), 0x100b000n],
      [0x5n, 0n],
    ];
    const [low, high] = choices[this.#prng.below(choices.length)] ?? [0n, 0n];
    return { kind: 'descriptor', low, high };
  }

  #corrupt(): void {
    const prng = this.#prng;
    const device = this.#anyDevice();
    const mapping = this.#anyMapping(device.domain);
    const aim = { device, mapping };
    // This access fills caches. The invalidation must remove the cached entries.
    if (prng.below(2) === 0) this.#actions.push(this.#dma(aim));
    const draw = prng.below(10);
    if (draw === 0) {
      this.#change(ROOT_TABLE, corruptRoot(prng), [BigInt(CONTEXT_TABLE) | 1n, 0n], this.#contextFlushes());
    } else if (draw < 4) {
      const flushes = this.#contextFlushes(device);
      this.#change(device.entry, corruptContext(device.words, prng), device.words, flushes);
    } else {
      if (!mapping) return;
      const depth = prng.below(2) === 0 ? mapping.entries.length - 1 : prng.below(mapping.entries.length);
      const leaf = depth === mapping.entries.length - 1;
      const entry = mapping.entries[depth] as number;
      const flushes = this.#tableFlushes(device.domain, mapping, leaf);
      const { words } = this.#tables.corrupt(entry, leaf, this.#awBits);
      this.#change(entry, words, this.#tables.intended(entry).words, flushes);
    }
    for (let i = prng.below(4); i > 0; i--) this.#actions.push(this.#dma(aim));
    if (prng.below(2) === 0) this.#clearFaults();
    if (prng.below(2) === 0) this.#repair();
    if (prng.below(2) === 0) this.#actions.push(this.#dma(aim));
  }

  #change(gpa: number, bad: readonly bigint[], good: readonly bigint[], flushes: readonly Flush[]): void {
    this.#actions.push({ kind: 'tables', writes: [{ gpa, words: bad }], flushes });
    this.#repairs.push(() => ({ kind: 'tables', writes: [{ gpa, words: good }], flushes }));
  }

  #repair(): void {
    const repair = this.#repairs.pop();
    if (repair) this.#actions.push(repair());
    else this.#actions.push(this.#dma());
  }

  #mapMore(): void {
    const { domain } = this.#anyDevice();
    const [iova, level] = this.#freshIova(domain);
    const writes = this.#tables.map(domain, iova, level);
    const mapping = domain.mappings.at(-1);
    if (writes.length === 0 || !mapping) return;
    this.#actions.push({ kind: 'tables', writes, flushes: this.#tableFlushes(domain, mapping, false) });
  }

  /** Returns the flushes after a change of a root or context entry: the context cache, then the IOTLB. */
  #contextFlushes(device?: Attached): Flush[] {
    const prng = this.#prng;
    const context: Flush = { kind: 'context', granularity: 1, did: 0, sid: 0 };
    const iotlb: Flush = { kind: 'iotlb', granularity: 1, did: 0, page: 0n, am: 0 };
    if (!device || prng.below(2) === 0) return [context, iotlb];
    const did = device.domain.id;
    return [
      { ...context, granularity: prng.below(2) === 0 ? 2 : 3, did, sid: device.sid },
      prng.below(2) === 0 ? iotlb : { ...iotlb, granularity: 2, did },
    ];
  }

  /** Returns the flushes after a change of an entry of a domain's tables. */
  #tableFlushes(domain: Domain, mapping: Mapping, leaf: boolean): Flush[] {
    const draw = this.#prng.below(leaf ? 3 : 2);
    const flush = { kind: 'iotlb', did: domain.id, page: 0n, am: 0 } as const;
    if (draw === 0) return [{ ...flush, granularity: 1 }];
    if (draw === 1) return [{ ...flush, granularity: 2 }];
    const am = Math.log2(mapping.size / PAGE);
    return [{ ...flush, granularity: 3, page: mapping.iova, am }];
  }

  #dma(aim?: Aim): Action {
    const prng = this.#prng;
    if (this.#dmas++ >= DMA_LIMIT) return this.#readRegister();
    const device = aim?.device ?? this.#anyDevice();
    const dev = this.#devices.indexOf(device);
    const write = prng.below(2) === 0;
    const len = 8 * (1 + prng.below(DMA_BYTES / 8));
    const [base, offset] = this.#target(device, aim?.mapping);
    const crosses = prng.below(4) === 0;
    const within = crosses ? PAGE - 4 * (1 + prng.below(len / 4 - 1)) : prng.below((PAGE - len) / 4) * 4;
    const identity = !this.#translating || device.passThrough;
    const parts = this.#parts(device, base + BigInt(offset + within), len, identity);
    const bytes = Buffer.from(Array.from({ length: len }, () => 1 + prng.below(255)));
    return { kind: 'dma', dev, write, parts, data: bytes.toString('hex') };
  }

  /** Returns a target page, mostly a mapped one, and an offset. */
  #target(device: Attached, aimedAt: Mapping | undefined): readonly [bigint, number] {
    const prng = this.#prng;
    if (!this.#translating || device.passThrough) return [BigInt(dataPage(prng)), 0];
    const mapping = aimedAt ?? this.#anyMapping(device.domain);
    const draw = aimedAt ? 2 : prng.below(12);
    if (draw === 0)
      return [[0x12345000n, 1n << 39n, (1n << 48n) - 0x3000n, 1n << 50n][prng.below(4)] ?? 0n, 0];
    if (draw === 1 || !mapping) return [this.#freshIova(device.domain)[0], 0];
    return [mapping.iova, prng.below(Math.min(mapping.size / PAGE, 0x20000)) * PAGE];
  }

  #parts(device: Attached, iova: bigint, len: number, identity: boolean): DmaPart[] {
    const parts: DmaPart[] = [];
    for (let at = 0; at < len; ) {
      const address = iova + BigInt(at);
      const offset = Number(address & 0xfffn);
      const size = Math.min(len - at, PAGE - offset);
      parts.push({ iova: address, len: size, gpa: this.#gpaOf(device, address, identity) });
      at += size;
    }
    return parts;
  }

  /** Returns the GPA of an access if nothing blocks it; for an unmapped one, any page. */
  #gpaOf({ domain }: Attached, iova: bigint, identity: boolean): number {
    if (identity) return Number(iova);
    for (const { iova: start, size, gpa } of domain.mappings)
      if (iova >= start && iova < start + BigInt(size)) return gpa + Number(iova - start);
    return dataPage(this.#prng) + Number(iova & 0xfffn);
  }

  #anyDevice(): Attached {
    return this.#devices[this.#prng.below(this.#devices.length)] as Attached;
  }

  #anyMapping({ mappings }: Domain): Mapping | undefined {
    return mappings.length > 0 ? mappings[this.#prng.below(mappings.length)] : undefined;
  }
}
