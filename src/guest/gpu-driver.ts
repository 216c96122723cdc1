/**
 * The guest's driver of a `vgpu`: configuration, ring, GPU page tables, submission and completion.
 *
 * It knows IOVAs only as numbers it is given: who maps them is the caller's business, as with a kernel's DMA API.
 */
import { nowUs } from '#host';
import { type Gpa, hex, type Iova, PAGE_2M, PAGE_SIZE } from '../address/address.ts';
import { DeviceLink, DeviceState } from '../channel/device-link.ts';
import { type MmioPort, REGION_BAR0, REGION_CONFIG } from '../channel/mmio-channel.ts';
import type { GuestRam } from '../host/guest-ram.ts';
import {
  COMMAND_BUS_MASTER,
  COMMAND_MEMORY_SPACE,
  MSI_CAPABILITY,
  MSI_CONTROL_ENABLE,
} from '../pci/config-space.ts';
import * as vgpu from '../pci/vgpu-interface.ts';
import { entryFlags, GpuContext, type GpuMapping, writeEntry } from './gpu-context.ts';
import type { PageAllocator } from './page-allocator.ts';
import type { GuestDevice } from './protocol.ts';

/** Ring slots: ring and completion records then fill one page each at most. */
const RING_ENTRIES = 64;
/** Lower-level GPU page tables: each covers 2 MiB of GPU virtual addresses. */
const GPU_PAGE_TABLES = 4;
/** First GPU virtual address beyond what the driver's tables cover. */
export const GPU_VA_END: number = GPU_PAGE_TABLES * PAGE_2M;
/** A command that has no completion by then is lost. */
const COMMAND_TIMEOUT_MS = 60_000;
/** The pump looks around this often even without an interrupt. */
const PUMP_WAIT_MS = 1000;
/** Where BARs are put: in the MMIO hole. */
const BAR_BASE = 0xe000_0000;
const BAR_STRIDE = 0x1_0000;
/** BAR 4, from BAR 0. */
const GLOBAL_TABLE_OFFSET = 0x4000;

/** Registers of 8 bytes. */
const WIDE: ReadonlySet<vgpu.VgpuRegister> = new Set(
  vgpu.VGPU_REGISTERS.filter(({ size }) => size === 8).map(({ name }) => name),
);

/** The device's worker has failed or its link is down: it answers no more. */
export class DeviceLostError extends Error {
  readonly device: string;
  constructor(device: string) {
    super(`${device} is lost`);
    this.name = 'DeviceLostError';
    this.device = device;
  }
}

/** The engine has stopped: its ring or completions could not be reached. */
export class DeviceHaltedError extends Error {
  constructor(device: string) {
    super(`${device} halted: its ring or completion area cannot be reached`);
    this.name = 'DeviceHaltedError';
  }
}

/** A command had no completion in time. */
export class CommandTimeoutError extends Error {
  constructor(device: string, sequence: number) {
    super(`${device} did not complete command ${sequence} within ${COMMAND_TIMEOUT_MS} ms`);
    this.name = 'CommandTimeoutError';
  }
}

/** A command for the engine; addresses are GPU virtual, of the context, lengths bytes. */
export interface GpuCommand {
  readonly opcode: vgpu.Opcode;
  readonly target?: number;
  readonly source?: number;
  readonly length?: number;
  /** Fill value, or flags of page table entries. */
  readonly value?: number;
  /** A context's number, or GLOBAL_CONTEXT; 0, the one of `map`, by default. */
  readonly context?: number;
  /** A kernel's factor. */
  readonly scalar?: number;
}

/** How a command ended. */
export interface GpuCompletion {
  /** One of CompletionStatus. */
  readonly status: number;
  /** CRC-32 of a checksum. */
  readonly result: number;
  /** From the doorbell write to the guest seeing the completion. */
  readonly latencyUs: number;
}

interface Outstanding {
  readonly sequence: number;
  readonly slot: number;
  readonly since: number;
  resolve(completion: GpuCompletion): void;
  reject(error: Error): void;
}

export class GpuDriver {
  readonly name: string;
  readonly index: number;
  readonly requesterId: number;
  /** Pages the device reaches on its own: they must be mapped wherever the device is. */
  readonly staticPages: readonly Gpa[];
  readonly #ram: GuestRam;
  readonly #link: DeviceLink;
  readonly #mmio: MmioPort;
  readonly #ring: Gpa;
  readonly #completions: Gpa;
  readonly #directory: Gpa;
  readonly #contextTable: Gpa;
  readonly #pages: PageAllocator;
  readonly #scalar = new DataView(new ArrayBuffer(4));
  #contexts = 1;
  #collected = 0;
  /** Interrupts so far that no completion explains: a fault, a halt, a hang. */
  #unexplained = 0;
  /** Commands that hung and were ended by a reset of the engine. */
  hangs = 0;
  readonly #tables: readonly Gpa[];
  readonly #outstanding: Outstanding[] = [];
  #roomWaiters: (() => void)[] = [];
  #tail = 0;
  #sequence = 0;
  #pumping = false;
  #error: Error | undefined;

  constructor(device: GuestDevice, index: number, ram: GuestRam, pages: PageAllocator) {
    this.name = device.name;
    this.index = index;
    this.requesterId = device.requesterId;
    this.#ram = ram;
    this.#link = new DeviceLink(device.link);
    this.#mmio = this.#link.mmioPort();
    this.#ring = pages.allocate() as Gpa;
    this.#completions = pages.allocate() as Gpa;
    this.#directory = pages.allocate() as Gpa;
    this.#tables = Array.from({ length: GPU_PAGE_TABLES }, () => pages.allocate() as Gpa);
    this.#contextTable = pages.allocate() as Gpa;
    this.#pages = pages;
    this.staticPages = [this.#ring, this.#completions, this.#directory, this.#contextTable, ...this.#tables];
  }

  /** True until the device has been lost or has halted. */
  get alive(): boolean {
    return this.#error === undefined && this.#link.state === DeviceState.ready;
  }

  /**
   * Finds the device, sets up configuration space, ring and GPU page tables, and enables the engine. The static
   * pages must be mapped at IOVA = GPA.
   * @throws DeviceLostError, Error if it is not a vgpu
   */
  async start(): Promise<void> {
    const id = Number(await this.#mmio.read(REGION_CONFIG, 0, 4));
    if (id === 0xffff_ffff) throw new DeviceLostError(this.name);
    const expected = vgpu.VGPU_IDENTITY.vendorId | (vgpu.VGPU_IDENTITY.deviceId << 16);
    if (id !== expected) throw new Error(`${this.name} has PCI ID ${hex(id)}, expected ${hex(expected)}`);
    await this.#mmio.write(REGION_CONFIG, 0x10, 4, BigInt(BAR_BASE + this.index * BAR_STRIDE));
    const globalTable = BAR_BASE + this.index * BAR_STRIDE + GLOBAL_TABLE_OFFSET;
    await this.#mmio.write(REGION_CONFIG, 0x20, 4, BigInt(globalTable));
    await this.#mmio.write(REGION_CONFIG, 0x04, 2, BigInt(COMMAND_BUS_MASTER | COMMAND_MEMORY_SPACE));
    await this.#mmio.write(REGION_CONFIG, MSI_CAPABILITY + 4, 4, 0xfee0_0000n);
    await this.#mmio.write(REGION_CONFIG, MSI_CAPABILITY + 12, 2, BigInt(0x30 + this.index));
    await this.#mmio.write(REGION_CONFIG, MSI_CAPABILITY + 2, 2, BigInt(MSI_CONTROL_ENABLE));
    await this.#writeTables();
    await this.#programEngine();
  }

  /** Writes a BAR 0 register. */
  writeRegister(name: vgpu.VgpuRegister, value: number): void | Promise<void> {
    const wide = WIDE.has(name);
    return this.#mmio.write(REGION_BAR0, vgpu.VGPU_OFFSET[name], wide ? 8 : 4, BigInt(value));
  }

  /** Reads a BAR 0 register's low 32 bits; all ones from a lost device. */
  async readRegister(name: vgpu.VgpuRegister): Promise<number> {
    return Number(await this.#mmio.read(REGION_BAR0, vgpu.VGPU_OFFSET[name], 4));
  }

  /**
   * Points the GPU virtual pages from `va` on at these IOVAs and invalidates the device's shadow.
   * @throws RangeError beyond GPU_VA_END
   */
  map(va: number, iovas: readonly Iova[], writable = true): void | Promise<void> {
    if (va % PAGE_SIZE !== 0 || va + iovas.length * PAGE_SIZE > GPU_VA_END)
      throw new RangeError(
        `GPU address ${hex(va)} +${iovas.length} pages; accepted: pages below ${hex(GPU_VA_END)}`,
      );
    const flags = vgpu.GPU_PTE_PRESENT | (writable ? vgpu.GPU_PTE_WRITABLE : 0);
    for (const [i, iova] of iovas.entries()) this.#writePte(va / PAGE_SIZE + i, iova, flags);
    return this.writeRegister('TlbInvalidate', 1);
  }

  /** Clears the GPU virtual pages and invalidates the device's shadow. */
  unmap(va: number, pages: number): void | Promise<void> {
    for (let i = 0; i < pages; i++) this.#writePte(va / PAGE_SIZE + i, 0, 0);
    return this.writeRegister('TlbInvalidate', 1);
  }

  /**
   * A further address space, its tables at `base`, a multiple of 1 GiB. Its table pages must be mapped for the device at
   * IOVA = GPA before it is used.
   * @throws RangeError beyond CONTEXTS_LIMIT
   */
  async createContext(base: number): Promise<GpuContext> {
    if (this.#contexts >= vgpu.CONTEXTS_LIMIT)
      throw new RangeError(`${this.name} has ${this.#contexts} contexts; accepted: ${vgpu.CONTEXTS_LIMIT}`);
    const id = this.#contexts++;
    const slot = this.#contextTable + id * vgpu.CONTEXT_ROOT_BYTES;
    const context = new GpuContext(id, base, slot, this.#ram, this.#pages);
    await this.writeRegister('ContextTableBase', this.#contextTable);
    await this.writeRegister('ContextCount', this.#contexts);
    return context;
  }

  /** Ends the command that runs or hangs, with the status `hung`. The driver does so by itself when one hangs. */
  async resetEngine(): Promise<void> {
    this.hangs++;
    await this.writeRegister('Control', vgpu.CONTROL_ENABLE | vgpu.CONTROL_ENGINE_RESET);
  }

  /** Has the device forget what it read from page tables. */
  invalidate(): void | Promise<void> {
    return this.writeRegister('TlbInvalidate', 1);
  }

  /** Writes an entry of the global table, a trapped write; `iova` undefined clears it. */
  writeGlobal(index: number, iova: Iova | undefined, mapping: GpuMapping = {}): void | Promise<void> {
    const entry = iova === undefined ? 0n : BigInt(iova) | BigInt(entryFlags(mapping));
    return this.#mmio.write(vgpu.GLOBAL_TABLE_BAR, index * 8, 8, entry);
  }

  /** Has the device write the entries from `va` on, `length` bytes, for consecutive IOVAs; undefined clears them. */
  updatePtes(
    context: number,
    va: number,
    iova: Iova | undefined,
    length: number,
    mapping: GpuMapping = {},
  ): Promise<GpuCompletion> {
    const flags = entryFlags(mapping);
    const value = iova === undefined ? flags & ~vgpu.GPU_PTE_PRESENT : flags;
    return this.submit({
      opcode: vgpu.Opcode.updatePtes,
      context,
      target: va,
      source: iova ?? 0,
      length,
      value,
    });
  }

  /**
   * Puts a command in the ring and rings the doorbell; resolves with its completion, whatever its status.
   * @throws DeviceLostError, DeviceHaltedError, CommandTimeoutError
   */
  async submit(command: GpuCommand): Promise<GpuCompletion> {
    while (this.#outstanding.length >= RING_ENTRIES - 1)
      await new Promise<void>((resolve) => this.#roomWaiters.push(resolve));
    this.#throwIfDead();
    const slot = this.#tail;
    const sequence = ++this.#sequence;
    this.#writeCommand(slot, sequence, command);
    this.#tail = (slot + 1) % RING_ENTRIES;
    const done = new Promise<GpuCompletion>((resolve, reject) => {
      this.#outstanding.push({ sequence, slot, since: nowUs(), resolve, reject });
    });
    await this.writeRegister('RingTail', this.#tail);
    if (!this.#pumping) void this.#pump();
    return done;
  }

  async #programEngine(): Promise<void> {
    await this.writeRegister('Control', vgpu.CONTROL_RESET);
    await this.writeRegister('RingBase', this.#ring);
    await this.writeRegister('RingEntries', RING_ENTRIES);
    await this.writeRegister('CompletionBase', this.#completions);
    await this.writeRegister('PageTableBase', this.#directory);
    await this.writeRegister('Control', vgpu.CONTROL_ENABLE);
    const status = await this.readRegister('Status');
    if (status === 0xffff_ffff) throw new DeviceLostError(this.name);
    if ((status & vgpu.STATUS_RUNNING) === 0)
      throw new Error(`${this.name} did not start: Status ${hex(status)}`);
  }

  async #writeTables(): Promise<void> {
    this.#tables.forEach((table, i) => {
      this.#writeEntry(this.#directory + i * 8, table, vgpu.GPU_PTE_PRESENT);
    });
  }

  #writePte(page: number, iova: number, flags: number): void {
    const table = this.#tables[page >>> 9] as Gpa;
    this.#writeEntry(table + (page & 511) * 8, iova, flags);
  }

  #writeEntry(gpa: number, iova: number, flags: number): void {
    writeEntry(this.#ram, gpa, iova, flags);
  }

  #writeCommand(slot: number, sequence: number, command: GpuCommand): void {
    const at = this.#ring + slot * vgpu.COMMAND_BYTES;
    const word = (index: number, value: number) => this.#ram.write32(at + index * 4, value);
    word(vgpu.CommandWord.opcode, command.opcode);
    word(vgpu.CommandWord.sequence, sequence);
    const { target = 0, source = 0 } = command;
    word(vgpu.CommandWord.target, target % 2 ** 32);
    word(vgpu.CommandWord.targetHigh, Math.floor(target / 2 ** 32));
    word(vgpu.CommandWord.source, source % 2 ** 32);
    word(vgpu.CommandWord.sourceHigh, Math.floor(source / 2 ** 32));
    word(vgpu.CommandWord.context, command.context ?? 0);
    this.#scalar.setFloat32(0, command.scalar ?? 0);
    word(vgpu.CommandWord.scalar, this.#scalar.getUint32(0));
    word(vgpu.CommandWord.length, command.length ?? 0);
    word(vgpu.CommandWord.value, command.value ?? 0);
  }

  /** Runs while commands are outstanding: waits for interrupts, hands out completions. */
  async #pump(): Promise<void> {
    this.#pumping = true;
    let woken = false;
    while (this.#outstanding.length > 0) {
      const events = this.#link.events;
      const completed = this.#collect();
      if (this.#outstanding.length === 0) break;
      if (this.#isUnexplained() || (woken && !completed)) await this.#checkHealth();
      if (this.#error) break;
      await this.#link.waitEvents(events, PUMP_WAIT_MS);
      woken = true;
    }
    this.#pumping = false;
    if (this.#error) this.#rejectAll(this.#error);
  }

  /** True once per interrupt that stands for something else than a completion. */
  #isUnexplained(): boolean {
    const unexplained = (this.#link.interrupts(0) - this.#collected) | 0;
    if (unexplained <= this.#unexplained) return false;
    this.#unexplained = unexplained;
    return true;
  }

  #collect(): boolean {
    let any = false;
    for (let first = this.#outstanding[0]; first; first = this.#outstanding[0]) {
      const record = this.#completions + first.slot * vgpu.COMPLETION_BYTES;
      if (this.#ram.load32(record + vgpu.CompletionWord.sequence * 4) !== first.sequence) break;
      this.#outstanding.shift();
      this.#collected++;
      first.resolve({
        status: this.#ram.read32(record + vgpu.CompletionWord.status * 4),
        result: this.#ram.read32(record + vgpu.CompletionWord.result * 4),
        latencyUs: nowUs() - first.since,
      });
      any = true;
    }
    if (any) {
      for (const wake of this.#roomWaiters) wake();
      this.#roomWaiters = [];
    }
    return any;
  }

  /** Called when something happened but no command completed: is the device still there? */
  async #checkHealth(): Promise<void> {
    const first = this.#outstanding[0];
    if (this.#link.state !== DeviceState.ready) this.#error = new DeviceLostError(this.name);
    else if (first && nowUs() - first.since > COMMAND_TIMEOUT_MS * 1000)
      this.#error = new CommandTimeoutError(this.name, first.sequence);
    else {
      const status = await this.readRegister('Status');
      if (status === 0xffff_ffff) this.#error = new DeviceLostError(this.name);
      else if (status & vgpu.STATUS_HALTED) this.#error = new DeviceHaltedError(this.name);
      else if (status & vgpu.STATUS_HUNG) await this.resetEngine();
    }
  }

  #rejectAll(error: Error): void {
    for (const command of this.#outstanding.splice(0)) command.reject(error);
    for (const wake of this.#roomWaiters) wake();
    this.#roomWaiters = [];
  }

  #throwIfDead(): void {
    if (this.#link.state !== DeviceState.ready) this.#error ??= new DeviceLostError(this.name);
    if (this.#error) throw this.#error;
  }
}
