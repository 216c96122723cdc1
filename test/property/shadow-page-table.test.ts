import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { Prng } from '#host';
import * as gpu from '../../src/abi/vgpu/memory.ts';
import { DeviceDma } from '../../src/device/dma.ts';
import {
  type Gpa,
  type Hpa,
  type Iova,
  PAGE_2M,
  PAGE_SIZE,
  PERM_READ,
  PERM_RW,
  PERM_WRITE,
} from '../../src/memory/address.ts';
import { GuestRam } from '../../src/memory/guest-ram.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import { GpuAddressSpaces } from '../../src/models/vgpu/mmu/address-spaces.ts';
import type { ShadowEntry } from '../../src/models/vgpu/mmu/shadow-entries.ts';
import { ShadowPageTable } from '../../src/models/vgpu/mmu/shadow-page-table.ts';
import { framePfn, PinTableReader } from '../../src/pin-table/reader.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { Container } from '../../src/vfio/container.ts';

const RAM_BYTES = 8 * PAGE_2M;
const PIECE = 0x10000;
/** Tables lie below this address. RAM above it is mapped, unmapped and remapped in pieces. */
const DATA_GPA = PAGE_2M;
const DATA_PIECES = 3 * (PAGE_2M / PIECE);
const DATA_IOVA = 0x4000_0000;
const DATA_BYTES = 2 * PAGE_2M;

/** Context 0 has two levels. Context 1 has three, and its pages lie above 4 GiB. */
const CONTEXTS = [
  { context: 0, base: 0, levels: 2, root: 0x10000, directory: 0x10000, tables: 0x11000 },
  { context: 1, base: 2 ** 33, levels: 3, root: 0x20000, directory: 0x21000, tables: 0x22000 },
] as const;
const CONTEXT_TABLE = 0x30000;
/** The count of 2 MiB regions in each context. */
const REGIONS = 2;

class ExposedShadow extends ShadowPageTable {
  get all(): ShadowEntry[] {
    return [...this.entries.values()];
  }
}

/** The VRAM of the device; some entries point beyond it. */
const VRAM_BYTES = PAGE_2M + 3 * PAGE_SIZE;

/** The expected translation of a page, independent of the tables. */
interface ExpectedPage {
  readonly iova: number;
  readonly writable: boolean;
  /** True for an address in VRAM. */
  readonly vram: boolean;
}

/** The page behind a GPU page: its host PFN, or its offset in VRAM. */
type PageLocation = { readonly pfn: number } | { readonly offset: number };

function locationOf(entry: ShadowEntry): PageLocation {
  if (entry.memory === 'peer') throw new Error('this device has no peers');
  return entry.memory === 'ram' ? { pfn: entry.pfn } : { offset: entry.offset };
}

class Rig {
  readonly ram = GuestRam.allocate(HPA_BASE as Hpa, RAM_BYTES, 0, new Prng(3));
  readonly writer = new PinTableWriter(64);
  readonly container: Container;
  readonly dma: DeviceDma;
  readonly spaces: GpuAddressSpaces;
  readonly shadows: ExposedShadow[] = [];
  readonly violations: string[] = [];
  readonly reader: PinTableReader;
  /** Per context: the 4 KiB pages, and the regions, each a table, one page of 2 MiB, or nothing. */
  readonly pages = [new Map<number, ExpectedPage>(), new Map<number, ExpectedPage>()];
  readonly regions: (ExpectedPage | 'table' | 'nothing')[][] = CONTEXTS.map(() =>
    Array(REGIONS).fill('table'),
  );
  readonly global = new Map<number, ExpectedPage>();

  constructor() {
    this.container = new Container(this.writer, {
      extents: (vaddr, size) => this.ram.extents(vaddr as Gpa, size),
    });
    const slot = this.writer.addReader();
    this.reader = new PinTableReader(this.writer.sab, this.writer.addReader());
    this.dma = new DeviceDma(new PinTableReader(this.writer.sab, slot), this.ram.host, {
      fault: () => {},
      violation: (kind) => void this.violations.push(kind),
    });
    this.spaces = new GpuAddressSpaces(this.dma, (source) => {
      const shadow = new ExposedShadow(this.dma, source, VRAM_BYTES);
      this.shadows.push(shadow);
      return shadow;
    });
    this.container.addUser({
      name: 'gpu',
      slot,
      wake: () => {},
      dmaUnmap: (iova, size) => this.spaces.dropIova(iova, size),
      quarantine: async (kind) => void this.violations.push(kind),
    });
    this.container.map(0 as Iova, 0, PAGE_2M, PERM_RW);
    for (let piece = 0; piece < DATA_BYTES / PIECE; piece++) this.remap(piece, piece);
    for (const { root, directory, tables, levels, base, context } of CONTEXTS) {
      if (levels === 3) this.write(root + (base / 2 ** 30) * 8, directory, gpu.GPU_PTE_PRESENT);
      for (let r = 0; r < REGIONS; r++)
        this.write(directory + r * 8, tables + r * PAGE_SIZE, gpu.GPU_PTE_PRESENT);
      const flags = gpu.GPU_ROOT_PRESENT | (levels === 3 ? gpu.GPU_ROOT_LEVELS_3 : 0);
      this.write(CONTEXT_TABLE + context * 8, root, flags);
    }
    this.spaces.setRoot(BigInt(CONTEXTS[0].root));
    this.spaces.setContexts(CONTEXT_TABLE as Iova, 2);
  }

  write(gpa: number, iova: number, flags: number): void {
    this.ram.write32(gpa, ((iova % 2 ** 32) | flags) >>> 0);
    this.ram.write32(gpa + 4, Math.floor(iova / 2 ** 32));
  }

  remap(piece: number, to: number): void {
    this.container.map((DATA_IOVA + piece * PIECE) as Iova, DATA_GPA + to * PIECE, PIECE, PERM_RW);
  }

  expectedPage(context: number, va: number): ExpectedPage | undefined {
    if (context === gpu.GLOBAL_CONTEXT) return this.global.get(va / PAGE_SIZE);
    const region = this.regions[context]?.[Math.floor(va / PAGE_2M)];
    if (region === 'nothing' || region === undefined) return undefined;
    if (region !== 'table') return { ...region, iova: region.iova + (va % PAGE_2M) };
    return this.pages[context]?.get(va / PAGE_SIZE);
  }

  /** Records the new translation of `bytes` at `va`. */
  record(context: number, va: number, bytes: number, iova: number, flags: number): void {
    const writable = (flags & gpu.GPU_PTE_WRITABLE) !== 0;
    const present = (flags & gpu.GPU_PTE_PRESENT) !== 0;
    const vram = (flags & gpu.GPU_PTE_VRAM) !== 0;
    const regions = this.regions[context] as (ExpectedPage | 'table' | 'nothing')[];
    if (bytes === PAGE_2M) {
      regions[va / PAGE_2M] = present ? { iova, writable, vram } : 'nothing';
      return;
    }
    for (let at = 0; at < bytes; at += PAGE_SIZE) {
      const page = (va + at) / PAGE_SIZE;
      if (present) this.pages[context]?.set(page, { iova: iova + at, writable, vram });
      else this.pages[context]?.delete(page);
    }
  }

  /** Writes the tables as the guest does, and invalidates. */
  edit(context: number, va: number, bytes: number, iova: number, flags: number): void {
    const { directory, tables } = CONTEXTS[context] as (typeof CONTEXTS)[number];
    const region = Math.floor(va / PAGE_2M);
    const regions = this.regions[context] as (ExpectedPage | 'table' | 'nothing')[];
    if (bytes === PAGE_2M) this.write(directory + region * 8, iova, flags);
    else {
      this.write(directory + region * 8, tables + region * PAGE_SIZE, gpu.GPU_PTE_PRESENT);
      regions[region] = 'table';
      const first = tables + (va / PAGE_SIZE) * 8;
      for (let i = 0; i < bytes / PAGE_SIZE; i++)
        this.write(first + i * 8, iova + (flags & gpu.GPU_PTE_64K ? 0 : i * PAGE_SIZE), flags);
    }
    this.record(context, va, bytes, iova, flags);
    this.spaces.invalidate();
  }

  /** Writes the tables by a command. */
  update(context: number, va: number, bytes: number, iova: number, flags: number): void {
    const region = this.regions[context]?.[Math.floor(va / PAGE_2M)];
    const base = CONTEXTS[context]?.base ?? 0;
    const status = this.spaces.update(context, base + va, iova, flags, bytes);
    const possible = bytes === PAGE_2M || region === 'table';
    expect(status === 0, 'an update succeeds where a table exists').to.equal(possible);
    if (possible) this.record(context, va, bytes, iova, flags);
  }

  /** Translates a page as the device does, and compares it with the expected page. */
  checkTranslation(context: number, va: number, perm: number): void {
    const base = CONTEXTS.find((c) => c.context === context)?.base ?? 0;
    const got = this.spaces.translate(context, base + va, perm);
    const expected = this.expectedPage(context, va);
    const allowed = expected !== undefined && (perm !== PERM_WRITE || expected.writable);
    const found = typeof got === 'number' ? undefined : locationOf(got);
    const location = allowed ? this.locationFor(expected) : undefined;
    expect(found, `context ${context} address ${va.toString(16)}`).to.deep.equal(location);
  }

  /** Returns the expected page: a host page, or an offset in VRAM. */
  locationFor({ iova, vram }: ExpectedPage): PageLocation | undefined {
    if (vram) return iova + PAGE_SIZE <= VRAM_BYTES ? { offset: iova } : undefined;
    const leaf = this.reader.lookup(iova);
    return leaf === 0 ? undefined : { pfn: framePfn(leaf) };
  }

  /** Checks that no shadow entry is stale and that each RAM entry is pinned. */
  check(): void {
    let entries = 0;
    for (const shadow of this.shadows)
      for (const entry of shadow.all) {
        const found = shadow.source.find(entry.va * PAGE_SIZE, PERM_READ);
        if (entry.memory === 'vram') {
          expect(found, 'a fresh walk').to.deep.equal({ memory: 'vram', offset: entry.offset });
          continue;
        }
        const { iova } = entry;
        const location = locationOf(entry);
        expect(found, 'a fresh walk').to.deep.equal({ memory: 'ram', iova });
        entries++;
        const leaf = this.reader.lookup(iova);
        expect(leaf !== 0 && framePfn(leaf), `IOVA ${iova.toString(16)} is pinned elsewhere`).to.equal(
          'pfn' in location && location.pfn,
        );
      }
    expect(this.dma.heldPins).to.equal(entries);
    expect(this.container.pins()).to.be.at.most(entries);
    expect(this.violations).to.deep.equal([]);
  }
}

type Step = (rig: Rig) => void | Promise<void>;

const contexts = fc.constantFrom(0, 1);
/** Few pages, so that steps use the same ones: some at the start of each region, and its last page. */
const pageVa = fc
  .tuple(fc.nat(REGIONS - 1), fc.constantFrom(0, 1, 15, 16, 17, 511))
  .map(([region, page]) => region * PAGE_2M + page * PAGE_SIZE);
const sizes = fc.constantFrom(PAGE_SIZE, gpu.GPU_PAGE_64K, PAGE_2M);
const RW = gpu.GPU_PTE_PRESENT | gpu.GPU_PTE_WRITABLE;
const flagBits = fc.constantFrom(
  0,
  gpu.GPU_PTE_PRESENT,
  RW,
  RW | gpu.GPU_PTE_VRAM,
  gpu.GPU_PTE_PRESENT | gpu.GPU_PTE_VRAM,
);
/** Returns the first address of RAM or VRAM, by the flags. */
const baseOf = (flags: number) => (flags & gpu.GPU_PTE_VRAM ? 0 : DATA_IOVA);
const sizeFlag = (bytes: number) =>
  bytes === PAGE_2M ? gpu.GPU_PTE_2M : bytes === gpu.GPU_PAGE_64K ? gpu.GPU_PTE_64K : 0;

const written = (how: 'edit' | 'update') =>
  fc
    .tuple(contexts, pageVa, sizes, fc.nat(DATA_BYTES - 1), flagBits)
    .map(([context, va, bytes, to, flags]): Step => {
      const aligned = va - (va % bytes);
      const iova = baseOf(flags) + to - (to % bytes);
      return (rig) => rig[how](context, aligned, bytes, iova, flags | sizeFlag(bytes));
    });

const trapped = fc.tuple(fc.nat(7), fc.nat(DATA_BYTES - 1), flagBits).map(
  ([index, to, flags]): Step =>
    (rig) => {
      const iova = baseOf(flags) + to - (to % PAGE_SIZE);
      rig.spaces.global.write(index * 8, 8, BigInt(iova) | BigInt(flags));
      if (flags === 0) rig.global.delete(index);
      else
        rig.global.set(index, {
          iova,
          writable: (flags & gpu.GPU_PTE_WRITABLE) !== 0,
          vram: (flags & gpu.GPU_PTE_VRAM) !== 0,
        });
    },
);

const pieces = fc.nat(DATA_BYTES / PIECE - 1);
const unmapped = pieces.map(
  (piece): Step =>
    async (rig) =>
      void (await rig.container.unmapRange((DATA_IOVA + piece * PIECE) as Iova, PIECE)),
);
const remapped = fc.tuple(pieces, fc.nat(DATA_PIECES - 1)).map(
  ([piece, to]): Step =>
    async (rig) => {
      await rig.container.unmapRange((DATA_IOVA + piece * PIECE) as Iova, PIECE);
      rig.remap(piece, to);
    },
);

const touched = fc
  .array(
    fc.tuple(
      fc.constantFrom(0, 1, gpu.GLOBAL_CONTEXT),
      pageVa,
      fc.nat(7),
      fc.constantFrom(PERM_READ, PERM_WRITE),
    ),
    { minLength: 3, maxLength: 8 },
  )
  .map(
    (uses): Step =>
      (rig) => {
        for (const [context, va, index, perm] of uses)
          rig.checkTranslation(context, context === gpu.GLOBAL_CONTEXT ? index * PAGE_SIZE : va, perm);
      },
  );

describe('shadow page table of a vgpu', () => {
  it('equals a fresh walk, and has no unpinned page, after any edits, unmaps and remaps', async () => {
    const step = fc.oneof(
      { arbitrary: touched, weight: 4 },
      { arbitrary: written('edit'), weight: 2 },
      { arbitrary: written('update'), weight: 2 },
      trapped,
      unmapped,
      remapped,
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), async (steps) => {
        const rig = new Rig();
        for (const run of steps) {
          await run(rig);
          rig.check();
        }
        rig.spaces.dropAll();
        expect(rig.dma.heldPins).to.equal(0);
      }),
      { numRuns: 120 },
    );
  });
});
