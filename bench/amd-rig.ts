/**
 * Guest of AMD-Vi for `bench/viommu.ts`: one domain for each device; the first device is measured.
 */
import * as amdvi from '../src/abi/amdvi.ts';
import type { Descriptor } from '../src/guest/iommu/command-ring.ts';
import { PAGE_SIZE } from '../src/memory/address.ts';
import { EntryDecoder } from '../src/viommu/amdvi/entries.ts';
import { AmdViIommu } from '../src/viommu/amdvi/iommu.ts';
import { HostPageTables } from '../src/viommu/amdvi/page-tables.ts';
import { IOVA_LIMIT, type TranslationVisitor } from '../src/viommu/notifier.ts';
import { DATA, gpaOf, IDLE_NODES, newRam, now, plug, QUEUE, ROOT, STATUS, TABLES } from './viommu-rigs.ts';

const DOMAIN = 1;
const LEVELS = 4;
const RUNNING = amdvi.CONTROL.IOMMU_EN | amdvi.CONTROL.CMD_BUF_EN;
const COMMANDS = 256;
const PERM_HIGH = amdvi.IR | amdvi.IW;

export class AmdGuest {
  readonly ram = newRam();
  readonly iommu = new AmdViIommu({ ram: this.ram });
  readonly container: ReturnType<typeof plug>;
  readonly #lowest: number;
  #tail = 0;

  /** @param pages count of pages that the first device's tables can map, from IOVA 0 on */
  constructor(devices: number, pages: number) {
    const tables = Math.ceil(pages / amdvi.PTES);
    const directories = Math.ceil(tables / amdvi.PTES);
    const upper = TABLES + PAGE_SIZE;
    const directory = upper + PAGE_SIZE;
    this.#lowest = directory + directories * PAGE_SIZE;
    this.#entry(TABLES, upper, 3);
    for (let i = 0; i < directories; i++) this.#entry(upper + 8 * i, directory + i * PAGE_SIZE, 2);
    for (let i = 0; i < tables; i++) this.#entry(directory + 8 * i, this.#lowest + i * PAGE_SIZE, 1);
    for (let id = 0; id < devices; id++) {
      const at = ROOT + id * amdvi.DTE_BYTES;
      const flags = amdvi.DTE_V | amdvi.DTE_TV | (LEVELS << amdvi.MODE_SHIFT);
      this.ram.write32(at, (id === 0 ? TABLES : DATA) | flags);
      this.ram.write32(at + 4, PERM_HIGH);
      this.ram.write32(at + 8, DOMAIN + id);
    }
    const pagesOfTable = Math.ceil(devices / amdvi.DTES_PER_PAGE);
    this.#write(amdvi.DEVICE_TABLE_REG, BigInt(ROOT + pagesOfTable - 1));
    const length = amdvi.BUFFER_LENGTH_MIN << amdvi.BUFFER_LENGTH_SHIFT;
    this.#write(amdvi.COMMAND_BASE_REG, BigInt(QUEUE) | length);
    this.enable();
    this.container = plug(this.iommu, this.ram, 0, tables + directories + 64, pages + 1);
    for (let id = 1; id < devices; id++) plug(this.iommu, this.ram, id, IDLE_NODES);
  }

  map(page: number): void {
    this.setEntry(page);
    this.#invalidate(page);
  }

  unmap(page: number): void {
    this.ram.write32(this.#lowest + 8 * page, 0);
    this.#invalidate(page);
  }

  /** Writes the leaf of a page without an invalidation. */
  setEntry(page: number): void {
    this.#entry(this.#lowest + 8 * page, gpaOf(page), 0);
  }

  /** Turns translation off, which removes all mappings. */
  disable(): void {
    this.#write(amdvi.CONTROL_REG, 0n);
  }

  /** Turns translation on, which replays the tables. */
  enable(): void {
    this.#write(amdvi.CONTROL_REG, RUNNING);
  }

  /** Visits the tables' translations as a replay does. */
  walk(visit: TranslationVisitor): void {
    const place = { root: TABLES, levels: LEVELS, perm: 3 };
    new HostPageTables(this.ram, place, new EntryDecoder('spec')).walk(0, IOVA_LIMIT, visit);
  }

  #entry(at: number, gpa: number, next: number): void {
    this.ram.write32(at + 4, PERM_HIGH);
    this.ram.write32(at, gpa + (next << amdvi.NEXT_LEVEL_SHIFT) + amdvi.PTE_PR);
  }

  #invalidate(page: number): void {
    this.#push([0, amdvi.INVALIDATE_IOMMU_PAGES * 2 ** 28 + DOMAIN, page * PAGE_SIZE, 0]);
    this.ram.write32(STATUS, 0);
    this.#push([STATUS + amdvi.WAIT_S, amdvi.COMPLETION_WAIT * 2 ** 28, 1, 0]);
    this.#write(amdvi.COMMAND_TAIL_REG, BigInt(this.#tail * amdvi.COMMAND_BYTES));
    if (this.ram.load32(STATUS) !== 1) throw new Error('an invalidation was not completed');
  }

  #push([a, b, c, d]: Descriptor): void {
    const at = QUEUE + this.#tail * amdvi.COMMAND_BYTES;
    this.ram.write32(at, a);
    this.ram.write32(at + 4, b);
    this.ram.write32(at + 8, c);
    this.ram.write32(at + 12, d);
    this.#tail = (this.#tail + 1) % COMMANDS;
  }

  #write(offset: number, value: bigint): void {
    now(this.iommu.writeRegister(offset, 8, value));
  }
}
