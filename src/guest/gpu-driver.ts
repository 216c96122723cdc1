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
import * as vgpu from '../pci/vgpu-interface.ts';
import { entryFlags, GpuContext, type GpuMapping, writeEntry } from './gpu-context.ts';
import { CommandTimeoutError, DeviceHaltedError, DeviceLostError, DeviceResetError } from './gpu-errors.ts';
import { type SavedGpu, SavedGpuReader } from './gpu-saved.ts';
import { enableFunction, resetFunction } from './gpu-setup.ts';
import { GpuDisplay, GpuVram } from './gpu-vram.ts';
import type { PageAllocator } from './page-allocator.ts';
import type { GuestDevice } from './protocol.ts';
import { screenshot } from './screenshot.ts';

export * from './gpu-errors.ts';

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
/** Registers of 8 bytes. */
const WIDE: ReadonlySet<vgpu.VgpuRegister> = new Set(
  vgpu.VGPU_REGISTERS.filter(({ size }) => size === 8).map(({ name }) => name),
);

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

/** The guest memory that a driver starts with, zeroed. */
function newGpu(pages: PageAllocator): SavedGpu {
  const page = () => pages.allocate() as Gpa;
  const [ring, completions, directory] = [page(), page(), page()];
  const tables = Array.from({ length: GPU_PAGE_TABLES }, page);
  const numbers = { tail: 0, sequence: 0, hangs: 0, troubles: 0 };
  const lists = { contexts: [], global: [], outstanding: [] };
  return { ring, completions, directory, tables, contextTable: page(), ...numbers, ...lists };
}

export class GpuDriver {
  readonly name: string;
  readonly index: number;
  readonly requesterId: number;
  /** Pages the device reaches on its own: they must be mapped wherever the device is. */
  readonly staticPages: readonly Gpa[];
  readonly vram: GpuVram;
  readonly display: GpuDisplay;
  readonly #ram: GuestRam;
  readonly #link: DeviceLink;
  readonly #mmio: MmioPort;
  readonly #ring: Gpa;
  readonly #completions: Gpa;
  readonly #directory: Gpa;
  readonly #contextTable: Gpa;
  readonly #pages: PageAllocator;
  readonly #scalar = new DataView(new ArrayBuffer(4));
  readonly #contexts: GpuContext[];
  /** What the global table holds, for a reset clears it. */
  readonly #global = new Map<number, bigint>();
  /** Interrupts of VECTOR_TROUBLE that have been looked into: a fault, a halt, a hang. */
  #troubles: number;
  /** When the device was last known to be well. */
  #wellUs = 0;
  /** Commands that hung and were ended by a reset of the engine. */
  hangs: number;
  readonly #tables: readonly Gpa[];
  readonly #outstanding: Outstanding[] = [];
  readonly #carried: readonly Promise<GpuCompletion>[];
  #roomWaiters: (() => void)[] = [];
  #resetting: Promise<void> | undefined;
  #tail: number;
  #sequence: number;
  #pumping = false;
  #error: Error | undefined;

  /** `saved`: what {@link restore} has checked; without it, a driver that is to be started. */
  constructor(
    device: GuestDevice,
    index: number,
    ram: GuestRam,
    pages: PageAllocator,
    saved: SavedGpu = newGpu(pages),
  ) {
    this.name = device.name;
    this.index = index;
    this.requesterId = device.requesterId;
    this.#ram = ram;
    this.#link = new DeviceLink(device.link);
    this.#mmio = this.#link.mmioPort();
    this.vram = new GpuVram(this, this.#mmio);
    this.display = new GpuDisplay(this, this.#link);
    this.#ring = saved.ring;
    this.#completions = saved.completions;
    this.#directory = saved.directory;
    this.#tables = saved.tables;
    this.#contextTable = saved.contextTable;
    this.#pages = pages;
    this.staticPages = [this.#ring, this.#completions, this.#directory, this.#contextTable, ...this.#tables];
    this.#contexts = saved.contexts.map((context) => GpuContext.restore(context, ram));
    for (const [entry, low, high] of saved.global)
      this.#global.set(entry, BigInt(low) | (BigInt(high) << 32n));
    this.#tail = saved.tail;
    this.#sequence = saved.sequence;
    this.hangs = saved.hangs;
    this.#troubles = saved.troubles;
    this.#carried = saved.outstanding.map(({ sequence, slot }) => this.#expect(sequence, slot));
    // Who does not ask for them does not want to hear of them.
    for (const completion of this.#carried) completion.catch(() => {});
  }

  /**
   * The driver of a device that has come from another host with its VM, around the RAM that came too; `saved` is what
   * {@link save} answered there. The device is not touched.
   * @throws SavedGpuError
   */
  static restore(
    device: GuestDevice,
    index: number,
    ram: GuestRam,
    pages: PageAllocator,
    saved: unknown,
  ): GpuDriver {
    const reader = new SavedGpuReader(device.name, ram);
    return new GpuDriver(device, index, ram, pages, reader.read(saved, GPU_PAGE_TABLES, RING_ENTRIES));
  }

  /** What it knows beside guest RAM, as plain JSON, for {@link restore} on another host. */
  save(): unknown {
    const saved: SavedGpu = {
      ring: this.#ring,
      completions: this.#completions,
      directory: this.#directory,
      tables: this.#tables,
      contextTable: this.#contextTable,
      tail: this.#tail,
      sequence: this.#sequence,
      hangs: this.hangs,
      troubles: this.#troubles,
      contexts: this.#contexts.map((context) => context.save()),
      global: [...this.#global].map(([index, entry]) => [
        index,
        Number(entry & 0xffff_ffffn),
        Number(entry >> 32n),
      ]),
      outstanding: this.#outstanding.map(({ sequence, slot }) => ({ sequence, slot })),
    };
    return saved;
  }

  /** The commands that were under way when the VM left its last host, in their order; see {@link submit}. */
  outstanding(): readonly Promise<GpuCompletion>[] {
    this.#startPump();
    return this.#carried;
  }

  /** The contexts that there are beside context 0. */
  get contexts(): readonly GpuContext[] {
    return this.#contexts;
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
    await enableFunction(this.#mmio, this.index);
    await this.#writeTables();
    await this.#programEngine();
  }

  /**
   * Resets the function and makes it work again: ring, page tables, contexts, global table. Commands under way are rejected
   * with DeviceResetError. VRAM is empty, the display is off.
   * @throws DeviceLostError
   */
  reset(): Promise<void> {
    this.#resetting ??= this.#reset().finally(() => {
      this.#resetting = undefined;
    });
    return this.#resetting;
  }

  async #reset(): Promise<void> {
    await resetFunction(this.#mmio);
    this.#collect();
    this.#rejectAll(({ sequence }) => new DeviceResetError(this.name, sequence));
    if (this.#link.state !== DeviceState.ready) throw new DeviceLostError(this.name);
    this.#error = undefined;
    this.#tail = 0;
    await this.start();
    await this.#announceContexts();
    for (const [index, entry] of this.#global)
      await this.#mmio.write(vgpu.GLOBAL_TABLE_BAR, index * 8, 8, entry);
  }

  /**
   * The PNG of what the device displays now, also written to `file` if one is named.
   * @throws NoScanoutError, or the file's error
   */
  screenshot(file?: string): Promise<Uint8Array> {
    return screenshot(this.name, this.#mmio, file);
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
    return this.#map(va, iovas, entryFlags({ writable }));
  }

  /**
   * Points the GPU virtual pages from `va` on at VRAM, from `offset` on, a multiple of 4096. @throws RangeError
   */
  mapVram(va: number, offset: number, pages: number, writable = true): void | Promise<void> {
    if (offset % PAGE_SIZE !== 0 || offset < 0)
      throw new RangeError(`VRAM ${hex(offset)}; accepted: multiples of ${PAGE_SIZE}`);
    const offsets = Array.from({ length: pages }, (_, i) => offset + i * PAGE_SIZE);
    return this.#map(va, offsets, entryFlags({ writable, vram: true }));
  }

  #map(va: number, addresses: readonly number[], flags: number): void | Promise<void> {
    if (va % PAGE_SIZE !== 0 || va + addresses.length * PAGE_SIZE > GPU_VA_END)
      throw new RangeError(
        `GPU address ${hex(va)} +${addresses.length} pages; accepted: pages below ${hex(GPU_VA_END)}`,
      );
    for (const [i, address] of addresses.entries()) this.#writePte(va / PAGE_SIZE + i, address, flags);
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
    const id = this.#contexts.length + 1;
    if (id >= vgpu.CONTEXTS_LIMIT)
      throw new RangeError(`${this.name} has ${id} contexts; accepted: ${vgpu.CONTEXTS_LIMIT}`);
    const slot = this.#contextTable + id * vgpu.CONTEXT_ROOT_BYTES;
    const context = GpuContext.create(id, base, slot, this.#ram, this.#pages);
    this.#contexts.push(context);
    await this.#announceContexts();
    return context;
  }

  async #announceContexts(): Promise<void> {
    await this.writeRegister('ContextTableBase', this.#contextTable);
    await this.writeRegister('ContextCount', this.#contexts.length + 1);
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
    if (entry === 0n) this.#global.delete(index);
    else this.#global.set(index, entry);
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
   * @throws DeviceLostError, DeviceHaltedError, DeviceResetError, CommandTimeoutError
   */
  async submit(command: GpuCommand): Promise<GpuCompletion> {
    while (this.#resetting || this.#outstanding.length >= RING_ENTRIES - 1) {
      this.#startPump();
      await (this.#resetting ?? new Promise<void>((resolve) => this.#roomWaiters.push(resolve)));
    }
    this.#throwIfDead();
    const slot = this.#tail;
    const sequence = ++this.#sequence;
    this.#writeCommand(slot, sequence, command);
    this.#tail = (slot + 1) % RING_ENTRIES;
    const done = this.#expect(sequence, slot);
    await this.writeRegister('RingTail', this.#tail);
    this.#startPump();
    return done;
  }

  /** The completion of a command that is in the ring. */
  #expect(sequence: number, slot: number): Promise<GpuCompletion> {
    return new Promise((resolve, reject) => {
      this.#outstanding.push({ sequence, slot, since: nowUs(), resolve, reject });
    });
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

  #startPump(): void {
    if (!this.#pumping && this.#outstanding.length > 0) void this.#pump();
  }

  /** Runs while commands are outstanding: waits for interrupts, hands out completions. */
  async #pump(): Promise<void> {
    this.#pumping = true;
    this.#wellUs = nowUs();
    while (this.#outstanding.length > 0) {
      const events = this.#link.events;
      if (this.#collect()) this.#wellUs = nowUs();
      if (this.#outstanding.length === 0) break;
      if (this.#mayBeInTrouble()) await this.#checkHealth();
      if (this.#error) break;
      await this.#link.waitEvents(events, PUMP_WAIT_MS);
    }
    this.#pumping = false;
    const error = this.#error;
    if (error) this.#rejectAll(() => error);
  }

  /** An interrupt says so, the link is down, or nothing has completed for a while. */
  #mayBeInTrouble(): boolean {
    const troubles = this.#link.interrupts(vgpu.VECTOR_TROUBLE);
    const wasWell = nowUs() - this.#wellUs < PUMP_WAIT_MS * 1000;
    if (troubles === this.#troubles && this.#link.state === DeviceState.ready && wasWell) return false;
    this.#troubles = troubles;
    this.#wellUs = nowUs();
    return true;
  }

  #collect(): boolean {
    let any = false;
    for (let first = this.#outstanding[0]; first; first = this.#outstanding[0]) {
      const record = this.#completions + first.slot * vgpu.COMPLETION_BYTES;
      if (this.#ram.load32(record + vgpu.CompletionWord.sequence * 4) !== first.sequence) break;
      this.#outstanding.shift();
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
      this.#error = new CommandTimeoutError(this.name, first.sequence, COMMAND_TIMEOUT_MS);
    else {
      const status = await this.readRegister('Status');
      if (status === 0xffff_ffff) this.#error = new DeviceLostError(this.name);
      else if (status & vgpu.STATUS_HALTED) this.#error = new DeviceHaltedError(this.name);
      else if (status & vgpu.STATUS_HUNG) await this.resetEngine();
    }
  }

  #rejectAll(errorOf: (command: Outstanding) => Error): void {
    for (const command of this.#outstanding.splice(0)) command.reject(errorOf(command));
    for (const wake of this.#roomWaiters) wake();
    this.#roomWaiters = [];
  }

  #throwIfDead(): void {
    if (this.#link.state !== DeviceState.ready) this.#error ??= new DeviceLostError(this.name);
    if (this.#error) throw this.#error;
  }
}
