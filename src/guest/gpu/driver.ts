/**
 * The guest's driver for a `vgpu`: configuration, a ring for each engine, GPU page tables, submission and completion.
 *
 * The driver takes IOVAs as they are; its caller maps them in the vIOMMU, as with a kernel's DMA API.
 */

import * as vgpu from '../../abi/vgpu/vgpu.ts';
import { DeviceLink } from '../../channel/device-link.ts';
import { Gate } from '../../channel/gate.ts';
import { type MmioPort, REGION_BAR0, REGION_CONFIG } from '../../channel/mmio-channel.ts';
import { type Gpa, hex, type Iova, PAGE_2M, PAGE_SIZE } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { InFlight } from '../in-flight.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { GuestDevice } from '../protocol.ts';
import { entryFlags, GpuContext, type GpuMapping, writeEntry } from './context.ts';
import { DeviceLostError } from './errors.ts';
import { disableFunction, enableFunction, resetFunction } from './probe.ts';
import { type GpuCommand, type GpuCompletion, GpuRing, RING_ENTRIES, WAITING_LIMIT } from './ring.ts';
import { readSavedGpu, type SavedGpu } from './saved-state.ts';
import { screenshot } from './screenshot.ts';
import { GpuDisplay, GpuVram } from './vram.ts';

/** Count of lower-level GPU page tables; each covers 2 MiB of GPU virtual addresses. */
const GPU_PAGE_TABLES = 4;
/** First GPU virtual address behind those that the driver's tables cover. */
const GPU_VA_END: number = GPU_PAGE_TABLES * PAGE_2M;
/** Registers of 8 bytes. */
const WIDE: ReadonlySet<vgpu.VgpuRegister> = new Set(
  vgpu.VGPU_REGISTERS.filter(({ size }) => size === 8).map(({ name }) => name),
);

/** Allocates the state of a driver that is not started yet. */
function newGpu(pages: PageAllocator): SavedGpu {
  const page = () => pages.allocate() as Gpa;
  const empty = { tail: 0, faultInterrupts: 0, outstanding: [], waiting: [] };
  const ring = () => ({ ring: page(), completions: page(), ...empty });
  const rings = { copy: ring(), compute: ring() };
  const tables = Array.from({ length: GPU_PAGE_TABLES }, page);
  const none = { contexts: [], global: [], hangs: 0, sequence: 0 };
  return { rings, directory: page(), tables, contextTable: page(), ...none };
}

/** The driver of one vGPU. */
export class GpuDriver {
  /** `vmN/gpuM`. */
  readonly name: string;
  /** Position among the devices of the VM, from 0. */
  readonly index: number;
  /** bus << 8 | device << 3 | function */
  readonly requesterId: number;
  /** Pages of rings and tables: they must be mapped at IOVA = GPA in every domain of the device. */
  readonly staticPages: readonly Gpa[];
  readonly vram: GpuVram;
  readonly display: GpuDisplay;
  readonly #ram: GuestRam;
  readonly #link: DeviceLink;
  readonly #device: GuestDevice;
  readonly #mmio: MmioPort;
  readonly #inFlight: InFlight;
  readonly #rings: Readonly<Record<vgpu.GpuEngine, GpuRing>>;
  #sequence: number;
  readonly #directory: Gpa;
  readonly #contextTable: Gpa;
  readonly #pages: PageAllocator;
  readonly #contexts: GpuContext[];
  /** Entries of the global table by index, because a reset of the function clears it. */
  readonly #global = new Map<number, bigint>();
  /** Count of commands that hung and were ended by a reset of the engine. */
  hangs: number;
  readonly #tables: readonly Gpa[];
  #resetting: Promise<void> | undefined;

  /**
   * @param saved checked state of {@link restore}; by default that of a driver which is not started
   * @param gate closed while the VM is paused; the driver then does nothing
   */
  constructor(
    device: GuestDevice,
    index: number,
    ram: GuestRam,
    pages: PageAllocator,
    saved: SavedGpu = newGpu(pages),
    gate: Gate = new Gate(),
  ) {
    this.name = device.name;
    this.index = index;
    this.requesterId = device.requesterId;
    this.#device = device;
    this.#ram = ram;
    this.#link = new DeviceLink(device.link);
    this.#mmio = this.#link.mmioPort(gate);
    this.#inFlight = new InFlight(gate);
    this.vram = new GpuVram(this, this.#mmio, this.#inFlight);
    this.display = new GpuDisplay(this, this.#link, this.#inFlight);
    const parts = { link: this.#link, ram, gate };
    const ringOf = (engine: vgpu.GpuEngine) => new GpuRing(this, engine, parts, saved.rings[engine]);
    this.#rings = { copy: ringOf('copy'), compute: ringOf('compute') };
    this.#sequence = saved.sequence;
    this.#directory = saved.directory;
    this.#tables = saved.tables;
    this.#contextTable = saved.contextTable;
    this.#pages = pages;
    const ringPages = Object.values(saved.rings).flatMap(({ ring, completions }) => [ring, completions]);
    this.staticPages = [...ringPages, this.#directory, this.#contextTable, ...this.#tables];
    this.#contexts = saved.contexts.map((context, i) => GpuContext.restore(i + 1, context, ram));
    for (const [entry, low, high] of saved.global)
      this.#global.set(entry, BigInt(low) | (BigInt(high) << 32n));
    this.hangs = saved.hangs;
  }

  /**
   * Restores the driver of a device that has moved with its VM. RAM is restored already; the device is not accessed.
   * @param saved result of {@link save} on the last host
   * @throws SavedGpuError
   */
  static restore(
    device: GuestDevice,
    index: number,
    ram: GuestRam,
    pages: PageAllocator,
    saved: unknown,
    gate?: Gate,
  ): GpuDriver {
    const limits = { pageTables: GPU_PAGE_TABLES, ringEntries: RING_ENTRIES, waiting: WAITING_LIMIT };
    return new GpuDriver(device, index, ram, pages, readSavedGpu(device.name, saved, ram, limits), gate);
  }

  /**
   * Returns what the driver knows beside guest RAM, as plain JSON for {@link restore}. Commands may be in flight.
   * @throws InFlightError while other calls are in flight
   */
  save(): unknown {
    // The device of the other host must know of every command that is in the ring.
    this.#mmio.postCombined();
    this.#inFlight.expectNone(this.name, this.#mmio.unfinished);
    const saved: SavedGpu = {
      rings: { copy: this.#rings.copy.save(), compute: this.#rings.compute.save() },
      sequence: this.#sequence,
      directory: this.#directory,
      tables: this.#tables,
      contextTable: this.#contextTable,
      hangs: this.hangs,
      contexts: this.#contexts.map((context) => context.save()),
      global: [...this.#global].map(([index, entry]) => [
        index,
        Number(entry & 0xffff_ffffn),
        Number(entry >> 32n),
      ]),
    };
    return saved;
  }

  /** Resumes the rings after a migration, so that commands in flight complete and those that wait enter their ring. */
  resume(): void {
    for (const ring of this.#allRings) ring.startPump();
  }

  /**
   * Returns the completions of the commands that were in flight when the VM left its last host, in order of
   * submission; see {@link submit}.
   */
  outstanding(): readonly Promise<GpuCompletion>[] {
    this.resume();
    const commands = this.#allRings.flatMap(({ restored }) => restored);
    return commands.sort((a, b) => a.sequence - b.sequence).map(({ completion }) => completion);
  }

  get #allRings(): readonly GpuRing[] {
    return Object.values(this.#rings);
  }

  /** The contexts except context 0, by ID from 1. */
  get contexts(): readonly GpuContext[] {
    return this.#contexts;
  }

  /** False once the device is lost or one of its engines has halted. */
  get alive(): boolean {
    return this.#allRings.every(({ alive }) => alive);
  }

  /**
   * Identifies the device, sets up configuration space, rings and GPU page tables, and enables the engines.
   * {@link staticPages} must be mapped at IOVA = GPA.
   * @throws DeviceLostError, Error if it is not a vgpu
   */
  start(): Promise<void> {
    return this.#inFlight.run('start', () => this.#start());
  }

  /** Lets go of the device, which is idle: it accesses no memory from then on. */
  stop(): Promise<void> {
    return this.#inFlight.run('stop', () => disableFunction(this.#mmio));
  }

  async #start(): Promise<void> {
    const id = Number(await this.#mmio.read(REGION_CONFIG, 0, 4));
    if (id === 0xffff_ffff) throw new DeviceLostError(this.name);
    const expected = vgpu.VGPU_IDENTITY.vendorId | (vgpu.VGPU_IDENTITY.deviceId << 16);
    if (id !== expected) throw new Error(`${this.name} has PCI ID ${hex(id)}, expected ${hex(expected)}`);
    await enableFunction(this.#mmio, this.index);
    await this.#writeTables();
    await this.#programEngines();
  }

  /**
   * Resets the function and restores rings, page tables, contexts and global table. Commands in flight are rejected
   * with DeviceResetError. VRAM is zeroed and the display is off.
   * @throws DeviceLostError
   */
  reset(): Promise<void> {
    this.#resetting ??= this.#inFlight
      .run('reset', () => this.#pausedReset())
      .finally(() => {
        this.#resetting = undefined;
      });
    return this.#resetting;
  }

  async #pausedReset(): Promise<void> {
    const work = this.#reset();
    await Promise.all(this.#allRings.map((ring) => ring.pauseFor(work)));
  }

  async #reset(): Promise<void> {
    await resetFunction(this.#mmio);
    for (const ring of this.#allRings) ring.reset();
    await this.#start();
    await this.#announceContexts();
    for (const [index, entry] of this.#global)
      await this.#mmio.write(vgpu.GLOBAL_TABLE_BAR, index * 8, 8, entry);
  }

  /**
   * Resolves to a PNG of the current scanout; also writes it to `file`, if given, relative to the run's folder.
   * @throws NoScanoutError, or the file's error
   */
  screenshot(file?: string): Promise<Uint8Array> {
    return screenshot(this.#device, this.#mmio, file);
  }

  /** Writes a BAR 0 register. */
  writeRegister(name: vgpu.VgpuRegister, value: number): void | Promise<void> {
    const wide = WIDE.has(name);
    return this.#mmio.write(REGION_BAR0, vgpu.VGPU_OFFSET[name], wide ? 8 : 4, BigInt(value));
  }

  /** Writes the tail of an engine's ring; see {@link MmioPort.writeCombined}. */
  ringDoorbell(engine: vgpu.GpuEngine, tail: number): void {
    this.#mmio.writeCombined(REGION_BAR0, vgpu.VGPU_OFFSET[vgpu.engineRegister(engine, 'RingTail')], 4, tail);
  }

  /** Reads the low 32 bits of a BAR 0 register; all ones if the device is lost. */
  async readRegister(name: vgpu.VgpuRegister): Promise<number> {
    return Number(await this.#mmio.read(REGION_BAR0, vgpu.VGPU_OFFSET[name], 4));
  }

  /**
   * Maps the 4 KiB pages from GPU address `va` on to these IOVAs, in context 0, and invalidates the device's shadow.
   * @throws RangeError beyond 8 MiB
   */
  map(va: number, iovas: readonly Iova[], writable = true): void | Promise<void> {
    return this.#map(va, iovas, entryFlags({ writable }));
  }

  /**
   * Maps `pages` 4 KiB pages from GPU address `va` on to VRAM from `offset` on, a multiple of 4096; else as
   * {@link map}.
   * @throws RangeError
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

  /** Unmaps `pages` 4 KiB pages from GPU address `va` on, in context 0, and invalidates the device's shadow. */
  unmap(va: number, pages: number): void | Promise<void> {
    for (let i = 0; i < pages; i++) this.#writePte(va / PAGE_SIZE + i, 0, 0);
    return this.writeRegister('TlbInvalidate', 1);
  }

  /**
   * Creates a context for GPU addresses from `base` on, a multiple of 1 GiB. Its table pages must be mapped for the
   * device at IOVA = GPA before a command uses it.
   * @throws RangeError for an invalid base, or beyond 64 contexts
   */
  async createContext(base: number): Promise<GpuContext> {
    const id = this.#contexts.length + 1;
    if (id >= vgpu.CONTEXTS_LIMIT)
      throw new RangeError(`${this.name} has ${id} contexts; accepted: ${vgpu.CONTEXTS_LIMIT}`);
    const slot = this.#contextTable + id * vgpu.CONTEXT_ROOT_BYTES;
    const context = GpuContext.create(id, base, slot, this.#ram, this.#pages);
    this.#contexts.push(context);
    await this.#inFlight.run('createContext', () => this.#announceContexts());
    return context;
  }

  async #announceContexts(): Promise<void> {
    await this.writeRegister('ContextTableBase', this.#contextTable);
    await this.writeRegister('ContextCount', this.#contexts.length + 1);
  }

  /**
   * Resets an engine: its current command ends with the status `hung`. The driver itself does so when a command
   * hangs.
   */
  async resetEngine(engine: vgpu.GpuEngine = 'copy'): Promise<void> {
    this.hangs++;
    const control = vgpu.engineRegister(engine, 'Control');
    await this.writeRegister(control, vgpu.CONTROL_ENABLE | vgpu.CONTROL_ENGINE_RESET);
  }

  /** Returns the sequence number of the next command, for a ring. */
  nextSequence(): number {
    return ++this.#sequence;
  }

  /** Invalidates the device's shadow of the GPU page tables. */
  invalidate(): void | Promise<void> {
    return this.writeRegister('TlbInvalidate', 1);
  }

  /** Writes an entry of the global table, which traps; clears the entry if `iova` is undefined. @throws RangeError */
  writeGlobal(index: number, iova: Iova | undefined, mapping: GpuMapping = {}): void | Promise<void> {
    const entry = iova === undefined ? 0n : BigInt(iova) | BigInt(entryFlags(mapping));
    if (entry === 0n) this.#global.delete(index);
    else this.#global.set(index, entry);
    return this.#mmio.write(vgpu.GLOBAL_TABLE_BAR, index * 8, 8, entry);
  }

  /**
   * Submits a command that maps `length` bytes at GPU address `va` to consecutive IOVAs; unmaps them if `iova` is
   * undefined.
   * @throws as {@link submit}
   */
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
   * Puts a command into the ring of its engine, as soon as it has room, and rings the doorbell. Resolves to its
   * completion, whatever its status.
   * @throws DeviceLostError, DeviceHaltedError, DeviceResetError, CommandTimeoutError
   * @throws RangeError beyond 65,536 commands that wait for room
   */
  submit(command: GpuCommand): Promise<GpuCompletion> {
    return this.#rings[command.engine ?? vgpu.engineOf(command.opcode)].submit(command);
  }

  /**
   * Does as {@link submit} without a promise: calls `completed` or `failed` while the completions of the ring are taken
   * out. Commands that are submitted in it share a doorbell.
   * @throws as {@link submit}, at once or by `failed`
   */
  startCommand(
    command: GpuCommand,
    completed: (completion: GpuCompletion) => void,
    failed: (error: Error) => void,
  ): void {
    this.#rings[command.engine ?? vgpu.engineOf(command.opcode)].start(command, completed, failed);
  }

  async #programEngines(): Promise<void> {
    await this.writeRegister('Control', vgpu.CONTROL_RESET);
    await this.writeRegister('PageTableBase', this.#directory);
    for (const ring of this.#allRings) {
      await ring.program();
      await ring.enable();
    }
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
}
