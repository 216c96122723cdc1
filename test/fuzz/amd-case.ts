/**
 * AMD-Vi fuzz case: valid, nearly valid and garbage tables, commands and registers.
 */
import * as amdvi from '../../src/abi/amdvi.ts';
import { AmdViIommu } from '../../src/viommu/amdvi/iommu.ts';
import { type FuzzProgram, runProgram, type Step } from './case.ts';
import { DEVICES, PAGE, type World } from './rig.ts';

const { CONTROL } = amdvi;

/** Four pages: device IDs up to 0x1ff. */
const DEVICE_TABLE = 16 * PAGE;
const STATUS = 23 * PAGE;
const TABLES = Array.from({ length: 12 }, (_, i) => (24 + i) * PAGE);
const COMMANDS = 48 * PAGE;
const EVENTS = 52 * PAGE;
/** Pages that receive garbage: the tables above, the command buffer and the event log. */
const STRUCTURE_PAGES = 40;
/** Table indices that entries and addresses use. */
const INDICES = [0, 1, 2, 3, 4, 255, 256, 511];
const DOMAINS = [0, 1, 2, 3, 0xffff];
const STEPS = 24;
const ENTRIES = 10;
const SUBMITTED = 6;
/** Encoded sizes: the count of ones above bit 12. */
const ONES = [0, 1, 3, 7, 8, 9, 17, 18];
const RUNNING = CONTROL.IOMMU_EN | CONTROL.CMD_BUF_EN | CONTROL.EVENT_LOG_EN;
const REGISTERS = [
  amdvi.DEVICE_TABLE_REG,
  amdvi.COMMAND_BASE_REG,
  amdvi.EVENT_BASE_REG,
  amdvi.CONTROL_REG,
  amdvi.EXCLUSION_BASE_REG,
  amdvi.EXCLUSION_LIMIT_REG,
  amdvi.GENERAL_INTERRUPT_REG,
  amdvi.COMMAND_HEAD_REG,
  amdvi.COMMAND_TAIL_REG,
  amdvi.EVENT_HEAD_REG,
  amdvi.EVENT_TAIL_REG,
  amdvi.STATUS_REG,
  amdvi.CONFIG_OFFSET + 0x60,
];
const SIZES = [1, 2, 4, 8];

export const amdCase = (world: World): Promise<void> => runProgram(world, new AmdCase(world));

class AmdCase implements FuzzProgram {
  readonly #world: World;
  readonly iommu: AmdViIommu;
  #tail = 0;

  constructor(world: World) {
    const { draw } = world;
    this.#world = world;
    const options = {
      dmaRemap: draw.chance(95),
      dmaTranslation: draw.chance(90),
      xtsup: draw.chance(30),
      quirks: draw.chance(75) ? 'spec' : 'qemu',
    } as const;
    this.iommu = world.make((given) => new AmdViIommu({ ...options, ...given }));
    this.#build();
  }

  readonly stepLimit = STEPS;
  readonly startSteps: readonly Step[] = [() => this.#start(), () => this.#announce()];
  readonly steps: readonly Step[] = [
    () => this.#damage(),
    () => this.#damage(),
    () => this.#build(),
    () => this.#submit(),
    () => this.#submit(),
    () => this.#submit(),
    () => this.#announce(),
    () => this.#access(),
    () => this.#access(),
    () => this.#exclude(),
    () => this.#writeAny(),
    () => this.#writeAny(),
    () => this.#recover(),
  ];

  #start(): void {
    const { draw } = this.#world;
    const length = (amdvi.BUFFER_LENGTH_MIN + BigInt(draw.one([0, 0, 0, 1]))) << amdvi.BUFFER_LENGTH_SHIFT;
    this.#write(amdvi.DEVICE_TABLE_REG, 8, BigInt(DEVICE_TABLE) | BigInt(draw.one([3, 3, 3, 1, 0])));
    this.#write(amdvi.COMMAND_BASE_REG, 8, BigInt(COMMANDS) | length);
    this.#write(amdvi.EVENT_BASE_REG, 8, BigInt(EVENTS) | length);
    this.#tail = 0;
    const interrupts = draw.chance(40) ? CONTROL.EVENT_INT_EN | CONTROL.COM_WAIT_INT_EN : 0n;
    if (draw.chance(90)) this.#write(amdvi.CONTROL_REG, 8, RUNNING | interrupts);
    if (draw.chance(50)) this.#write(amdvi.CONFIG_OFFSET + 0x60, 4, 0x0001_0000n);
  }

  /** Builds valid tables of a random shape over the old ones. */
  #build(): void {
    const { draw } = this.#world;
    for (const id of DEVICES) this.#buildDevice(id);
    for (const table of TABLES) if (draw.chance(70)) this.#buildTable(table);
  }

  #buildDevice(id: number): void {
    const { draw } = this.#world;
    const entry = DEVICE_TABLE + id * amdvi.DTE_BYTES;
    const valid = draw.chance(95) ? amdvi.DTE_V | amdvi.DTE_TV : draw.below(4);
    const mode = draw.one([0, 1, 2, 3, 4, 4, 5, 6, 7]) << amdvi.MODE_SHIFT;
    const perm = draw.chance(80) ? 3 : draw.below(4);
    this.#pair(entry, draw.one(TABLES) | valid | mode, perm << amdvi.PERM_SHIFT);
    this.#pair(entry + 8, draw.one(DOMAINS), draw.one([0, 0, amdvi.DTE_EX, amdvi.DTE_SE, amdvi.DTE_SA]));
    this.#pair(entry + 16, draw.chance(90) ? 0 : draw.word(), 0);
    this.#pair(entry + 24, 0, 0);
  }

  #buildTable(table: number): void {
    const { draw } = this.#world;
    for (let i = draw.below(ENTRIES); i >= 0; i--) this.#entry(table + draw.one(INDICES) * amdvi.PTE_BYTES);
  }

  #entry(at: number): void {
    const { draw } = this.#world;
    const perm = (draw.chance(85) ? 3 : draw.below(4)) << amdvi.PERM_SHIFT;
    if (draw.chance(60)) {
      this.#pair(at, draw.one(TABLES) | (draw.below(6) << amdvi.NEXT_LEVEL_SHIFT) | amdvi.PTE_PR, perm);
      return;
    }
    const gpa = this.#world.page();
    if (draw.chance(60)) {
      this.#pair(at, (gpa % 2 ** 32) + amdvi.PTE_PR, Math.floor(gpa / 2 ** 32) + perm);
      return;
    }
    // The entry of a page with an encoded size, mostly repeated over its range.
    const ones = draw.one(ONES);
    const size = PAGE * 2 ** (ones + 1);
    const low = ((gpa - (gpa % size)) % 2 ** 32) + (size / 2 - PAGE) + (7 << amdvi.NEXT_LEVEL_SHIFT) + 1;
    const copies = draw.chance(80) ? Math.min(2 ** (ones + 1), 64) : 1;
    for (let i = 0; i < copies && (at + 8 * i) % PAGE >= at % PAGE; i++)
      this.#pair(at + 8 * i, low, Math.floor(gpa / 2 ** 32) + perm);
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
      else if (choice === 3)
        this.#pair(at - (at % 8), (at - (at % PAGE)) | (draw.below(8) << 9) | 1, 3 << amdvi.PERM_SHIFT);
      else guest.write32(at, (guest.read32(at) ^ (1 << draw.below(32))) >>> 0);
    }
  }

  /** Returns the address of a table word, mostly one in use. */
  #somewhere(): number {
    const { draw } = this.#world;
    const choice = draw.below(6);
    if (choice < 4) return draw.one(TABLES) + draw.one(INDICES) * 8 + draw.below(2) * 4;
    if (choice === 4) return DEVICE_TABLE + draw.one(DEVICES) * amdvi.DTE_BYTES + draw.below(8) * 4;
    return DEVICE_TABLE + draw.below((STRUCTURE_PAGES * PAGE) / 4) * 4;
  }

  /** Writes commands and the tail register. */
  #submit(): void {
    const { draw } = this.#world;
    for (let left = draw.below(SUBMITTED); left >= 0; left--) {
      const words = this.#command(left === 0);
      if (draw.chance(5)) words[draw.below(4)] = draw.word();
      if (draw.chance(5)) words[draw.below(4)]! ^= 1 << draw.below(32);
      this.#push(words);
    }
    if (draw.chance(5)) this.#tail = draw.below(2 * PAGE);
    this.#write(amdvi.COMMAND_TAIL_REG, 8, BigInt(this.#tail));
    this.#tail = (this.#tail - (this.#tail % amdvi.COMMAND_BYTES)) % PAGE;
  }

  /** Announces every entry as a correct guest does. */
  #announce(): void {
    for (const id of DEVICES) this.#push([id, amdvi.INVALIDATE_DEVTAB_ENTRY << 28, 0, 0]);
    this.#push([0, amdvi.INVALIDATE_IOMMU_ALL << 28, 0, 0]);
    this.#write(amdvi.COMMAND_TAIL_REG, 8, BigInt(this.#tail));
  }

  #push(words: readonly number[]): void {
    for (let i = 0; i < 4; i++)
      this.#world.guest.write32(COMMANDS + this.#tail + 4 * i, (words[i] as number) >>> 0);
    this.#tail = (this.#tail + amdvi.COMMAND_BYTES) % PAGE;
  }

  #command(last: boolean): number[] {
    const { draw } = this.#world;
    const domain = draw.one(DOMAINS);
    const code = (opcode: number) => opcode << amdvi.OPCODE_SHIFT;
    if (last && draw.chance(70)) return [STATUS | draw.one([1, 1, 3]), code(amdvi.COMPLETION_WAIT), 7, 0];
    const iova = this.#iova();
    const ones = draw.one([0, 0, 1, 9, 20, 36]);
    const coded = iova - (iova % PAGE) + (2 ** ones - 1) * PAGE;
    switch (draw.below(6)) {
      case 0:
        return [draw.one(DEVICES), code(amdvi.INVALIDATE_DEVTAB_ENTRY), 0, 0];
      case 1:
      case 2:
        return [0, code(3) | domain, (coded % 2 ** 32) + draw.one([0, 1, 2, 3]), Math.floor(coded / 2 ** 32)];
      case 3:
        return [0, code(amdvi.INVALIDATE_IOMMU_ALL), 0, 0];
      case 4:
        return [draw.one(DEVICES), code(draw.one([4, 5, 6, 7])), 0, 0];
      default:
        return [draw.word(), draw.word(), draw.word(), draw.word()];
    }
  }

  /** Returns an address whose indices the tables use, or any address. */
  #iova(): number {
    const { draw } = this.#world;
    if (draw.chance(15)) return Number(draw.wide());
    let iova = draw.below(PAGE);
    for (let level = 1; level <= 5; level++)
      if (level < 4 || draw.chance(50)) iova += draw.one(INDICES) * amdvi.spanOfLevel(level);
    return iova;
  }

  #access(): void {
    const { draw } = this.#world;
    for (let left = 4; left > 0; left--)
      this.#world.translate(this.iommu, draw.one(DEVICES), this.#iova(), draw.chance(50));
  }

  #exclude(): void {
    const { draw } = this.#world;
    this.#write(amdvi.EXCLUSION_LIMIT_REG, 8, BigInt(draw.below(64) * PAGE));
    this.#write(amdvi.EXCLUSION_BASE_REG, 8, BigInt(draw.below(64) * PAGE + draw.below(4)));
  }

  #writeAny(): void {
    const { draw } = this.#world;
    const offset = draw.chance(80) ? draw.one(REGISTERS) + draw.one([0, 0, 0, 4]) : draw.below(5 * PAGE);
    this.#write(offset, draw.one(SIZES), draw.wide());
  }

  /** Recovers as a driver does after an error: disables, clears the status, restarts. */
  #recover(): void {
    this.#write(amdvi.CONTROL_REG, 8, 0n);
    this.#write(amdvi.STATUS_REG, 8, 0x67n);
    if (this.#world.draw.chance(80)) this.#start();
  }

  walks(): number {
    // Each write of a register may switch all devices.
    return this.iommu.counters.invalidations + this.iommu.counters.switches;
  }

  observe(): void {
    const { digest, draw, guest } = this.#world;
    digest.addWide(this.iommu.readRegister(draw.one(REGISTERS), 8));
    digest.addWide(this.iommu.readRegister(amdvi.STATUS_REG, 8));
    digest.add(guest.read32(STATUS));
    digest.add(guest.read32(EVENTS + draw.below(256) * 4));
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
