/**
 * The `vgpu` model: registers in BAR 0, two command engines, GPU page tables shadowed to pinned host pages, VRAM
 * behind an aperture in BAR 2, and a display.
 */

import type { Scanout } from '../../abi/scanout.ts';
import {
  GLOBAL_TABLE_BYTES,
  GPU_ENGINE_NAMES,
  type GpuEngine,
  VECTOR_CAUSES,
  VGPU_IDENTITY,
  VGPU_MSIX,
  VGPU_REGISTERS,
  type VgpuRegister,
} from '../../abi/vgpu/vgpu.ts';
import type { BarRegion } from '../../device/bar-region.ts';
import type { DeviceMemory } from '../../device/memory.ts';
import type {
  DeviceContext,
  DeviceModel,
  ModelState,
  StateReader,
  StateValues,
  StepResult,
} from '../../device/model.ts';
import { EngineSlot, type GpuSlotHandle } from '../../gpu/engine-slot.ts';
import type { Iova } from '../../memory/address.ts';
import { ConfigSpace } from '../../pci/config-space.ts';
import { Msix } from '../../pci/msix.ts';
import { msixRegisters } from '../../pci/msix-format.ts';
import { RegisterFile, type RegisterSpec } from '../../registers/register-file.ts';
import { Display } from './display.ts';
import { CommandStreamer } from './engine/command-streamer.ts';
import { Engine } from './engine/engine.ts';
import type { EngineContext, EngineCounters, EngineEvents } from './engine/engine-context.ts';
import { Engines } from './engine/engines.ts';
import { GpuAddressSpaces } from './mmu/address-spaces.ts';
import type { PteSource } from './mmu/page-walk.ts';
import { ShadowPageTable } from './mmu/shadow-page-table.ts';
import { Aperture, createVram } from './mmu/vram.ts';

/** Version of the values that the model saves. */
const STATE_VERSION = 2;
const ADDRESS_MASK = (1n << 48n) - 1n;

/** The parts that a faulty variant replaces. */
export interface VgpuParts {
  shadow(context: DeviceContext, source: PteSource, vram: DeviceMemory): ShadowPageTable;
  engine(context: EngineContext, events: EngineEvents): Engine;
}

export const DEFAULT_PARTS: VgpuParts = {
  shadow: (context, source, vram) => new ShadowPageTable(context.dma, source, vram.size),
  engine: (context, events) => new Engine(context, events),
};

/** Returns the registers of an instance with this size of VRAM. */
const registersOf = (vramBytes: number): readonly RegisterSpec<VgpuRegister>[] =>
  VGPU_REGISTERS.map((spec) => (spec.name === 'VramSize' ? { ...spec, reset: BigInt(vramBytes) } : spec));

export class Vgpu implements DeviceModel {
  readonly config = new ConfigSpace(VGPU_IDENTITY);
  readonly bars: { readonly 0: RegisterFile<string>; readonly 2: BarRegion; readonly 4: BarRegion };
  readonly memories: readonly DeviceMemory[];
  readonly state: ModelState = {
    version: STATE_VERSION,
    save: () => this.#save(),
    restore: (state) => this.#restore(state),
  };
  readonly #table: readonly RegisterSpec<VgpuRegister>[];
  readonly #registers: RegisterFile<VgpuRegister>;
  readonly #context: DeviceContext;
  readonly #vram: DeviceMemory;
  readonly #spaces: GpuAddressSpaces;
  readonly counters: EngineCounters = {
    commands: 0,
    bytesFilled: 0,
    bytesCopied: 0,
    bytesSummed: 0,
    bytesComputed: 0,
  };
  readonly #engines: Engines;
  readonly #display: Display;
  readonly #msix: Msix;

  constructor(context: DeviceContext, parts: VgpuParts = DEFAULT_PARTS, slot?: GpuSlotHandle) {
    this.#context = context;
    this.#vram = createVram(slot);
    this.memories = [this.#vram];
    this.#table = registersOf(this.#vram.size);
    const bar0 = new RegisterFile<string>(VGPU_IDENTITY.bar0Bytes, [
      ...this.#table,
      ...msixRegisters(VGPU_MSIX),
    ]);
    this.#registers = bar0 as RegisterFile<VgpuRegister>;
    this.#msix = new Msix(this.config, bar0, VGPU_MSIX.vectors, (vector) => context.interrupt(vector));
    this.#spaces = new GpuAddressSpaces(context.dma, (source) => parts.shadow(context, source, this.#vram));
    this.#display = new Display(this.#registers, this.#vram, context.timers, (cause) =>
      this.#interrupt(cause),
    );
    const aperture = new Aperture(this.#vram, () => Number(this.#registers.get('ApertureBase')));
    this.bars = { 0: bar0, 2: aperture, 4: this.#spaces.global };
    const streamers = GPU_ENGINE_NAMES.map((name) => this.#streamer(name, parts));
    this.#engines = new Engines(streamers, context.timers, slot && new EngineSlot(slot));
    this.#reactToWrites();
  }

  #streamer(name: GpuEngine, parts: VgpuParts): CommandStreamer {
    const owner = {
      interrupt: (cause: number) => this.#interrupt(cause),
      reset: () => this.#reset(),
      doorbellRung: () => this.#engines.recheckFences(),
    };
    const { dma } = this.#context;
    const context = { name, dma, spaces: this.#spaces, vram: this.#vram, counters: this.counters };
    return new CommandStreamer(name, this.#registers, owner, (events) => parts.engine(context, events));
  }

  #reactToWrites(): void {
    this.config.onFunctionReset(() => this.#resetFunction());
    this.#registers.onWrite('InterruptStatus', () => this.#withdrawInterrupts());
    this.#registers.onWrite('PageTableBase', (pointer) => this.#spaces.setRoot(pointer));
    this.#registers.onWrite('TlbInvalidate', () => this.#spaces.invalidate());
    for (const name of ['ContextTableBase', 'ContextCount'] as const)
      this.#registers.onWrite(name, () => this.#takeContexts());
  }

  get translations(): { readonly hits: number; readonly misses: number } {
    return this.#spaces.translations;
  }

  step(): StepResult {
    if (this.config.busMaster) return this.#engines.step();
    this.#engines.release();
    return 'idle';
  }

  /** Releases the engine of the physical GPU to the other vGPUs. */
  suspend(): void {
    this.#engines.release();
  }

  dmaUnmap(iova: Iova, size: number): void {
    this.#spaces.dropIova(iova, size);
  }

  close(): void {
    this.#engines.close();
    this.#spaces.dropAll();
  }

  scanout(): Scanout | undefined {
    return this.#display.scanout();
  }

  /** Resets everything except VRAM and what belongs to the bus, which includes the vectors' table. */
  #reset(): void {
    this.#spaces.reset();
    for (const { name, reset = 0n } of this.#table) this.#registers.set(name, reset);
    this.#engines.reset();
    this.#withdrawInterrupts();
    this.#display.reset();
  }

  /** Function-level reset. Also resets the vectors, and clears VRAM so that the next owner cannot read it. */
  #resetFunction(): void {
    this.#reset();
    this.bars[0].reset();
    this.#vram.clear();
  }

  #save(): StateValues {
    return {
      globalTable: this.#spaces.global.bytes,
      ...this.#engines.save(),
      ...this.#display.save(),
    };
  }

  /** The shadow and its pins are rebuilt on first use, because the host pages differ here. */
  #restore(state: StateReader): void {
    this.#engines.restore(state);
    this.#spaces.setRoot(this.#registers.get('PageTableBase'));
    this.#takeContexts();
    this.#spaces.global.load(state.bytes('globalTable', GLOBAL_TABLE_BYTES));
    this.#display.restore(state);
  }

  #takeContexts(): void {
    this.#spaces.setContexts(this.#address('ContextTableBase'), this.#registers.get32('ContextCount'));
  }

  /** `cause` is one cause, or several of the same vector. */
  #interrupt(cause: number): void {
    this.#registers.set32('InterruptStatus', (this.#registers.get32('InterruptStatus') | cause) >>> 0);
    const unmasked = cause & ~this.#registers.get32('InterruptMask');
    if (unmasked === 0) return;
    this.#context.interrupt(VECTOR_CAUSES.findIndex((causes) => (causes & unmasked) !== 0));
  }

  /** Withdraws the pending vectors whose causes software has all cleared. */
  #withdrawInterrupts(): void {
    const status = this.#registers.get32('InterruptStatus');
    for (const [vector, causes] of VECTOR_CAUSES.entries())
      if ((status & causes) === 0) this.#msix.withdraw(vector);
  }

  #address(name: VgpuRegister): Iova {
    return Number(this.#registers.get(name) & ADDRESS_MASK) as Iova;
  }
}
