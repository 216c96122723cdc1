/**
 * VT-d fuzz case: valid, nearly valid and garbage tables, descriptors and registers.
 */
import * as vtd from '../../src/abi/vtd.ts';
import { IntelIommu } from '../../src/viommu/vtd/iommu.ts';
import { type FuzzProgram, runProgram, type Step } from './case.ts';
import { DEVICES, PAGE, type World } from './rig.ts';

const ROOT = 16 * PAGE;
const CONTEXTS = [17 * PAGE, 18 * PAGE];
const PASID_DIRECTORY = 20 * PAGE;
const PASID_TABLES = [21 * PAGE, 22 * PAGE];
const STATUS = 23 * PAGE;
const TABLES = Array.from({ length: 12 }, (_, i) => (24 + i) * PAGE);
const QUEUE = 48 * PAGE;
/** Interrupt remapping table of 256 entries. */
const INTERRUPTS = 70 * PAGE;
/** Pages that receive garbage: the tables above and a queue of 16 pages. */
const STRUCTURE_PAGES = 48;
/** Table indices that entries and addresses use. */
const INDICES = [0, 1, 2, 3, 4, 255, 256, 511];
const DOMAINS = [0, 1, 2, 3, 0xffff];
const STEPS = 24;
const ENTRIES = 10;
const DESCRIPTORS = 6;
const COMMANDS = [vtd.GCMD_TE, vtd.GCMD_SRTP, vtd.GCMD_QIE, vtd.GCMD_IRE, vtd.GCMD_SIRTP, vtd.GCMD_CFI];
const REGISTERS = [
  vtd.GCMD_REG,
  vtd.RTADDR_REG,
  vtd.CCMD_REG,
  vtd.FSTS_REG,
  vtd.FECTL_REG,
  vtd.FEADDR_REG,
  vtd.IQH_REG,
  vtd.IQT_REG,
  vtd.IQA_REG,
  vtd.ICS_REG,
  vtd.IECTL_REG,
  vtd.IVA_REG,
  vtd.IOTLB_REG,
  vtd.FRCD_LO_REG,
  vtd.FRCD_HI_REG,
];
const SIZES = [1, 2, 4, 8];

export const vtdCase = (world: World, scalable: boolean): Promise<void> =>
  runProgram(world, new VtdCase(world, scalable));

class VtdCase implements FuzzProgram {
  readonly #world: World;
  readonly #scalable: boolean;
  readonly iommu: IntelIommu;
  readonly #width: 39 | 48;
  #tail = 0;

  constructor(world: World, scalable: boolean) {
    const { draw } = world;
    this.#world = world;
    this.#scalable = scalable;
    this.#width = draw.chance(75) ? 48 : 39;
    const options = {
      awBits: this.#width,
      cachingMode: draw.chance(75),
      scalable,
      firstStage: scalable && draw.chance(80),
      secondStage: scalable && draw.chance(80),
      firstStage1G: draw.chance(50),
      snoopControl: draw.chance(30),
      deviceIotlb: draw.chance(30),
      intremap: draw.chance(90),
      eim: draw.chance(50),
      quirks: draw.chance(75) ? 'spec' : 'qemu',
    } as const;
    this.iommu = world.make((given) => new IntelIommu({ ...options, ...given }));
    this.#build();
  }

  readonly stepLimit = STEPS;
  readonly startSteps: readonly Step[] = [() => this.#start()];
  readonly steps: readonly Step[] = [
    () => this.#damage(),
    () => this.#damage(),
    () => this.#build(),
    () => this.#submit(),
    () => this.#submit(),
    () => this.#submit(),
    () => this.#access(),
    () => this.#access(),
    () => this.#command(),
    () => this.#interrupt(),
    () => this.#interrupt(),
    () => this.#invalidateByRegister(),
    () => this.#writeAny(),
    () => this.#writeAny(),
    () => this.#recover(),
  ];

  #start(): void {
    const { draw } = this.#world;
    const mode = this.#scalable && draw.chance(90) ? vtd.RTADDR_TTM_SCALABLE : 0n;
    this.#write(vtd.RTADDR_REG, 8, BigInt(ROOT) | mode);
    const wide = mode !== 0n ? vtd.IQA_DW : 0n;
    this.#write(vtd.IQA_REG, 8, BigInt(QUEUE) | BigInt(draw.one([0, 0, 0, 1, 4])) | wide);
    this.#write(vtd.GCMD_REG, 4, BigInt(vtd.GCMD_SRTP));
    if (draw.chance(90)) this.#write(vtd.GCMD_REG, 4, BigInt(vtd.GCMD_QIE));
    if (draw.chance(90)) this.#write(vtd.GCMD_REG, 4, BigInt((vtd.GCMD_QIE | vtd.GCMD_TE) >>> 0));
  }

  /** Builds valid tables of a random shape over the old ones. */
  #build(): void {
    const { draw } = this.#world;
    for (const [bus, table] of CONTEXTS.entries()) {
      const entry = ROOT + bus * vtd.ROOT_ENTRY_BYTES;
      for (const half of [0, 8]) this.#pair(entry + half, half === 0 || this.#scalable ? table | 1 : 0, 0);
    }
    for (const id of DEVICES) this.#buildContext(id);
    this.#pair(PASID_DIRECTORY, draw.one(PASID_TABLES) | vtd.PASID_DIR_P, 0);
    for (const table of PASID_TABLES) this.#buildPasid(table);
    for (const table of TABLES) if (draw.chance(70)) this.#buildTable(table);
  }

  #buildContext(id: number): void {
    const { draw } = this.#world;
    const table = CONTEXTS[id >>> 8] as number;
    if (this.#scalable) {
      const entry = table + (id & 0x7f) * vtd.SM_CONTEXT_ENTRY_BYTES;
      for (let at = 0; at < vtd.SM_CONTEXT_ENTRY_BYTES; at += 8) this.#pair(entry + at, 0, 0);
      this.#pair(entry, PASID_DIRECTORY | vtd.CONTEXT_P, 0);
      return;
    }
    const entry = table + (id & 0xff) * vtd.CONTEXT_ENTRY_BYTES;
    const type = draw.one([vtd.TT_MULTI_LEVEL, vtd.TT_MULTI_LEVEL, vtd.TT_MULTI_LEVEL, vtd.TT_PASS_THROUGH]);
    this.#pair(entry, draw.one(TABLES) | (type << vtd.CONTEXT_TT_SHIFT) | vtd.CONTEXT_P, 0);
    this.#pair(entry + 8, this.#aw() | (draw.one(DOMAINS) << vtd.CONTEXT_DID_SHIFT), 0);
  }

  #buildPasid(table: number): void {
    const { draw } = this.#world;
    const type = draw.one([vtd.PGTT_FIRST_STAGE, vtd.PGTT_SECOND_STAGE, vtd.PGTT_PASS_THROUGH]);
    const top = draw.one(TABLES);
    const flags = (this.#aw() << vtd.PASID_AW_SHIFT) | (type << vtd.PASID_PGTT_SHIFT) | vtd.PASID_P;
    this.#pair(table, top | flags, 0);
    this.#pair(table + 8, draw.one(DOMAINS), 0);
    this.#pair(table + 16, top, 0);
  }

  #aw(): number {
    return this.#width === 48 ? 1 + this.#world.draw.below(2) : 1;
  }

  #buildTable(table: number): void {
    const { draw } = this.#world;
    for (let i = draw.below(ENTRIES); i >= 0; i--) this.#entry(table + draw.one(INDICES) * 8);
  }

  #entry(at: number): void {
    const { draw } = this.#world;
    const flags = draw.chance(85) ? 7 : draw.below(8);
    const choice = draw.below(10);
    if (choice < 6) {
      this.#pair(at, draw.one(TABLES) | flags, 0);
      return;
    }
    const gpa = this.#world.page();
    const size = choice === 6 ? 2 ** 21 : choice === 7 ? 2 ** 30 : PAGE;
    const leaf = gpa - (gpa % size);
    this.#pair(at, (leaf % 2 ** 32) + flags + (size === PAGE ? 0 : vtd.SL_PS), Math.floor(leaf / 2 ** 32));
  }

  /** Flips bits, writes random words, copies entries and adds self-references. */
  #damage(): void {
    const { draw, guest } = this.#world;
    for (let left = 1 + draw.below(6); left > 0; left--) {
      const at = this.#somewhere();
      const choice = draw.below(5);
      if (choice === 0) guest.write32(at, draw.word());
      else if (choice === 1) guest.write32(at, guest.read32(this.#somewhere()));
      else if (choice === 2) this.#entry(at - (at % 8));
      else if (choice === 3) this.#pair(at - (at % 8), ((at - (at % PAGE)) | 7) >>> 0, 0);
      else guest.write32(at, (guest.read32(at) ^ (1 << draw.below(32))) >>> 0);
    }
  }

  /** Returns the address of a table word, mostly one in use. */
  #somewhere(): number {
    const { draw } = this.#world;
    const choice = draw.below(6);
    if (choice < 3) return draw.one(TABLES) + draw.one(INDICES) * 8 + draw.below(2) * 4;
    const id = draw.one(DEVICES);
    const bytes = this.#scalable ? vtd.SM_CONTEXT_ENTRY_BYTES : vtd.CONTEXT_ENTRY_BYTES;
    if (choice === 3) return (CONTEXTS[id >>> 8] as number) + (id & 0x7f) * bytes + draw.below(8) * 4;
    if (choice === 4) return draw.one([ROOT, PASID_DIRECTORY, ...PASID_TABLES]) + draw.below(8) * 4;
    return ROOT + draw.below((STRUCTURE_PAGES * PAGE) / 4) * 4;
  }

  /** Writes descriptors and the tail register. */
  #submit(): void {
    const { draw, guest } = this.#world;
    const iqa = this.iommu.readRegister(vtd.IQA_REG, 8);
    const bytes = (iqa & vtd.IQA_DW) !== 0n ? vtd.QI_WIDE_DESCRIPTOR_BYTES : vtd.QI_DESCRIPTOR_BYTES;
    const size = vtd.QI_MIN_BYTES * 2 ** Number(iqa & vtd.IQA_QS_MASK);
    for (let left = draw.below(DESCRIPTORS); left >= 0; left--) {
      const words = this.#descriptor(left === 0);
      if (draw.chance(10)) words[draw.below(4)] = draw.word();
      if (draw.chance(10)) words[draw.below(4)]! ^= 1 << draw.below(32);
      if (QUEUE + this.#tail + bytes <= QUEUE + 16 * PAGE)
        for (let i = 0; i < bytes / 4; i++) guest.write32(QUEUE + this.#tail + 4 * i, (words[i] ?? 0) >>> 0);
      this.#tail = (this.#tail + bytes) % size;
    }
    if (draw.chance(5)) this.#tail = draw.below(2 * size);
    this.#write(vtd.IQT_REG, 8, BigInt(this.#tail));
    this.#tail -= this.#tail % bytes;
  }

  #descriptor(last: boolean): number[] {
    const { draw } = this.#world;
    const domain = draw.one(DOMAINS) << 16;
    const iova = this.#iova();
    const page = [
      (iova % 2 ** 32) - (iova % PAGE) + draw.one([0, 0, 0, 1, 9, 18]),
      Math.floor(iova / 2 ** 32),
    ];
    if (last && draw.chance(70))
      return [vtd.QI_WAIT | vtd.WAIT_SW | draw.one([0, vtd.WAIT_IF]), 7, STATUS, 0];
    if (draw.chance(10))
      return [
        vtd.QI_INTERRUPT_ENTRY_CACHE | (draw.below(2) << 4) | (draw.below(4) << 27),
        draw.below(8),
        0,
        0,
      ];
    switch (draw.below(this.#scalable ? 8 : 5)) {
      case 0:
        return [vtd.QI_CONTEXT_CACHE | (draw.below(4) << 4) | domain, draw.one(DEVICES), 0, 0];
      case 1:
        return [vtd.QI_IOTLB | (draw.one([vtd.IOTLB_GLOBAL, vtd.IOTLB_DOMAIN]) << 4) | domain, 0, 0, 0];
      case 2:
      case 3:
        return [vtd.QI_IOTLB | (vtd.IOTLB_PAGE << 4) | domain, 0, ...page];
      case 4:
        return [draw.word(), draw.word(), draw.word(), draw.word()];
      case 5:
        return [vtd.QI_PASID_CACHE | (draw.below(4) << 4) | domain, draw.below(2), 0, 0];
      case 6:
        return [vtd.QI_PIOTLB | (vtd.PIOTLB_PASID << 4) | domain, draw.below(2), 0, 0];
      default:
        return [vtd.QI_PIOTLB | (vtd.PIOTLB_PAGE << 4) | domain, 0, ...page];
    }
  }

  /** Returns an address whose indices the tables use, or any address. */
  #iova(): number {
    const { draw } = this.#world;
    if (draw.chance(15)) return Number(draw.wide());
    let iova = draw.below(PAGE);
    for (let level = 1; level <= 4; level++) iova += draw.one(INDICES) * vtd.spanOfLevel(level);
    return iova;
  }

  #access(): void {
    const { draw } = this.#world;
    for (let left = 4; left > 0; left--)
      this.#world.translate(this.iommu, draw.one(DEVICES), this.#iova(), draw.chance(50));
  }

  /** Writes some entries of the remapping table, and sends messages in either format. */
  #interrupt(): void {
    const { draw, guest, digest } = this.#world;
    if (draw.chance(30)) {
      this.#write(vtd.IRTA_REG, 8, BigInt(INTERRUPTS) | BigInt(draw.one([7, 7, 7, 0x807, 15])));
      const status = Number(this.iommu.readRegister(vtd.GSTS_REG, 4)) & ~vtd.GSTS_ONE_SHOT;
      this.#write(vtd.GCMD_REG, 4, BigInt((status | vtd.GCMD_IRE | vtd.GCMD_SIRTP) >>> 0));
    }
    for (let left = 4; left > 0; left--) {
      const index = draw.below(8);
      const at = INTERRUPTS + 16 * index;
      const [sid, svt] = [draw.one(DEVICES), draw.below(4) << 18];
      if (draw.chance(40)) {
        this.#pair(at, (draw.below(256) << 16) | draw.one([1, 1, 1, 3, 0]), draw.one([0, 0x500, 0x12345678]));
        this.#pair(at + 8, sid | svt | (draw.below(4) << 16), draw.chance(90) ? 0 : draw.word());
      }
      if (draw.chance(5)) guest.write32(at + 4 * draw.below(4), draw.word());
      const format = draw.one([0x10, 0x10, 0x10, 0x18, 0]);
      const address = 0xfee0_0000 + index * 32 + format + (draw.chance(10) ? 4 : 0);
      const answer = this.iommu.remapInterrupt(draw.one(DEVICES), address, draw.one([0, 1, 2, draw.word()]));
      digest.add(answer.kind === 'delivered' ? answer.vector : -answer.reason);
    }
  }

  #command(): void {
    const { draw } = this.#world;
    const status = Number(this.iommu.readRegister(vtd.GSTS_REG, 4)) & ~vtd.GSTS_ONE_SHOT;
    if (draw.chance(30)) this.#write(vtd.RTADDR_REG, 8, BigInt(ROOT) | BigInt(draw.one([0, 0x400, 0x800])));
    this.#write(vtd.GCMD_REG, 4, BigInt((status ^ draw.one(COMMANDS)) >>> 0));
  }

  #invalidateByRegister(): void {
    const { draw } = this.#world;
    const granularity = BigInt(draw.below(4));
    if (draw.chance(50))
      this.#write(vtd.CCMD_REG, 8, vtd.CCMD.ICC | (granularity << vtd.CCMD.CIRG_SHIFT) | BigInt(draw.word()));
    else {
      this.#write(vtd.IVA_REG, 8, BigInt(this.#iova()) & ~0xf00n);
      const domain = BigInt(draw.one(DOMAINS)) << vtd.IOTLB.DID_SHIFT;
      this.#write(vtd.IOTLB_REG, 8, vtd.IOTLB.IVT | (granularity << vtd.IOTLB.IIRG_SHIFT) | domain);
    }
  }

  #writeAny(): void {
    const { draw } = this.#world;
    const offset = draw.chance(80) ? draw.one(REGISTERS) + draw.one([0, 0, 0, 4]) : draw.below(2 * PAGE);
    this.#write(offset, draw.one(SIZES), draw.wide());
  }

  /** Recovers as a driver does after an error: clears faults, resets the tail, restarts. */
  #recover(): void {
    this.#write(vtd.FRCD_HI_REG, 8, vtd.FRCD.F);
    this.#write(vtd.FSTS_REG, 4, 0x7fn);
    if (this.#world.draw.chance(30)) {
      this.#write(vtd.GCMD_REG, 4, 0n);
      this.#write(vtd.IQT_REG, 8, 0n);
      this.#tail = 0;
      this.#start();
    }
  }

  walks(): number {
    return this.iommu.counters.invalidations;
  }

  observe(): void {
    const { digest, draw, guest } = this.#world;
    digest.addWide(this.iommu.readRegister(draw.one(REGISTERS), 8));
    digest.addWide(this.iommu.readRegister(vtd.GSTS_REG, 4));
    digest.add(guest.read32(STATUS));
    for (const count of Object.values(this.iommu.counters)) digest.add(count);
  }

  #write(offset: number, size: number, value: bigint): void {
    this.#world.write(this.iommu, offset, size, value);
  }

  #pair(at: number, low: number, high: number): void {
    this.#world.guest.write32(at, low >>> 0);
    this.#world.guest.write32(at + 4, high >>> 0);
  }
}
