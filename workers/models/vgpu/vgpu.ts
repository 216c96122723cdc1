/**
 * The `vgpu` model: registers in BAR 0, one command ring, GPU page tables shadowed to pinned host pages, VRAM behind an
 * aperture in BAR 2, a display.
 */
import type { Iova } from '../../../src/address/address.ts';
import type { DeviceMemory } from '../../../src/device/memory.ts';
import type {
  BarRegion,
  DeviceContext,
  DeviceModel,
  DeviceOptions,
  ModelState,
  StateReader,
  StateValues,
  StepResult,
} from '../../../src/device/model.ts';
import { EngineSeat, type Grant, type SeatHandle } from '../../../src/gpu/seat.ts';
import { ConfigSpace } from '../../../src/pci/config-space.ts';
import { Msix } from '../../../src/pci/msix.ts';
import { msixRegisters } from '../../../src/pci/msix-format.ts';
import { RegisterFile, type RegisterSpec } from '../../../src/pci/registers.ts';
import type { Scanout } from '../../../src/pci/scanout.ts';
import {
  CONTROL_ENABLE,
  CONTROL_ENGINE_RESET,
  CONTROL_RESET,
  GLOBAL_TABLE_BYTES,
  INTERRUPT_COMPLETION,
  INTERRUPT_FAULT,
  INTERRUPT_HALTED,
  INTERRUPT_HUNG,
  RING_ENTRIES_MAX,
  RING_ENTRIES_MIN,
  STATUS_HALTED,
  STATUS_HUNG,
  STATUS_RUNNING,
  VECTOR_CAUSES,
  VGPU_IDENTITY,
  VGPU_MSIX,
  VGPU_REGISTERS,
  type VgpuRegister,
} from '../../../src/pci/vgpu-interface.ts';
import { Display } from './display.ts';
import { Engine, type EngineEvents, type RingSetup } from './engine.ts';
import type { PteSource } from './page-walk.ts';
import { ShadowPageTable } from './shadow.ts';
import { GpuSpaces } from './spaces.ts';
import { Aperture, makeVram } from './vram.ts';

/** Of the values that the model saves. */
const STATE_VERSION = 1;
const ADDRESS_MASK = (1n << 48n) - 1n;

/** How soon a vGPU whose share is used up asks again, while nobody else may run. */
const ASK_AGAIN_US = 1000;

/** What a vGPU is given beside the options of every model. */
export interface VgpuOptions extends DeviceOptions {
  /** Its seat at the engine of its physical GPU; without one it has an engine of its own. */
  readonly seat?: SeatHandle;
}

/** The parts that a faulty variant replaces. */
export interface VgpuParts {
  shadow(context: DeviceContext, source: PteSource, vram: DeviceMemory): ShadowPageTable;
  engine(context: DeviceContext, spaces: GpuSpaces, vram: DeviceMemory, events: EngineEvents): Engine;
}

export const SOUND_PARTS: VgpuParts = {
  shadow: (context, source, vram) => new ShadowPageTable(context.dma, source, vram.size),
  engine: (context, spaces, vram, events) => new Engine(context.dma, spaces, vram, events),
};

/** The registers of an instance with so much VRAM. */
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
  readonly #spaces: GpuSpaces;
  readonly #engine: Engine;
  readonly #display: Display;
  readonly #msix: Msix;
  readonly #seat: EngineSeat | undefined;
  #askingAgain = false;
  #ring: RingSetup | undefined;

  constructor(context: DeviceContext, parts: VgpuParts = SOUND_PARTS, seat?: SeatHandle) {
    this.#context = context;
    this.#seat = seat && new EngineSeat(seat);
    this.#vram = makeVram(seat);
    this.memories = [this.#vram];
    this.#table = registersOf(this.#vram.size);
    const bar0 = new RegisterFile<string>(VGPU_IDENTITY.bar0Bytes, [
      ...this.#table,
      ...msixRegisters(VGPU_MSIX),
    ]);
    this.#registers = bar0 as RegisterFile<VgpuRegister>;
    this.#msix = new Msix(this.config, bar0, VGPU_MSIX.vectors, (vector) => context.interrupt(vector));
    this.#spaces = new GpuSpaces(context.dma, (source) => parts.shadow(context, source, this.#vram));
    this.#display = new Display(this.#registers, this.#vram, context.timers, (cause) =>
      this.#interrupt(cause),
    );
    const aperture = new Aperture(this.#vram, () => Number(this.#registers.get('ApertureBase')));
    this.bars = { 0: bar0, 2: aperture, 4: this.#spaces.global };
    this.#engine = parts.engine(context, this.#spaces, this.#vram, {
      completed: (head) => this.#completed(head),
      faulted: (space, va, iova) => this.#faulted(space, va, iova),
      halted: () => this.#halt(),
      hung: () => this.#hang(),
    });
    this.#reactToWrites();
  }

  #reactToWrites(): void {
    this.config.onFunctionReset(() => this.#resetFunction());
    this.#registers.onWrite('Control', (value) => this.#control(Number(value)));
    this.#registers.onWrite('InterruptStatus', () => this.#withdrawInterrupts());
    this.#registers.onWrite('PageTableBase', (pointer) => this.#spaces.setRoot(pointer));
    this.#registers.onWrite('HangLimitUs', () => this.#takeHangLimit());
    this.#registers.onWrite('TlbInvalidate', () => this.#spaces.invalidate());
    for (const name of ['ContextTableBase', 'ContextCount'] as const)
      this.#registers.onWrite(name, () => this.#takeContexts());
  }

  get counters() {
    return this.#engine.counters;
  }

  step(): StepResult {
    const tail = this.#ring ? this.#registers.get32('RingTail') % this.#ring.entries : 0;
    if (!this.#ring || !this.config.busMaster || !this.#engine.hasWork(tail)) {
      this.#seat?.rest();
      return 'idle';
    }
    const grant = this.#seat?.acquire() ?? 'granted';
    if (grant !== 'granted') return this.#waitForEngine(grant);
    const result = this.#engine.step(this.#ring, tail);
    const { costNs, ended } = this.#engine.lastStep;
    // What halted has no ring any more; what stalls, for the sake of the address space, must not hold up the others.
    this.#seat?.charge(costNs, ended, this.#ring !== undefined && result === 'more');
    return result;
  }

  /** The engine is its neighbours', while it does not run. */
  suspend(): void {
    this.#seat?.rest();
  }

  dmaUnmap(iova: Iova, size: number): void {
    this.#spaces.dropIova(iova, size);
  }

  close(): void {
    this.#ring = undefined;
    this.#seat?.rest();
    this.#spaces.dropAll();
  }

  /** Whoever gives the engine on rings; a share that is used up comes back with time alone. */
  #waitForEngine(grant: Grant): StepResult {
    if (grant === 'soon' && !this.#askingAgain) {
      this.#askingAgain = true;
      this.#context.timers.after(ASK_AGAIN_US, () => {
        this.#askingAgain = false;
      });
    }
    return 'idle';
  }

  scanout(): Scanout | undefined {
    return this.#display.scanout();
  }

  /** Everything but what belongs to the bus, the vectors' table among it, and VRAM. */
  #reset(): void {
    this.#spaces.reset();
    this.#engine.reset();
    this.#ring = undefined;
    for (const { name, reset = 0n } of this.#table) this.#registers.set(name, reset);
    this.#takeHangLimit();
    this.#withdrawInterrupts();
    this.#display.reset();
  }

  /** Function-level reset: also the vectors; and nobody may see what the last owner left in VRAM. */
  #resetFunction(): void {
    this.#reset();
    this.bars[0].reset();
    this.#vram.clear();
  }

  #save(): StateValues {
    const { base = 0, entries = 0, completions = 0 } = this.#ring ?? {};
    return {
      ringBase: base,
      ringEntries: entries,
      ringCompletions: completions,
      globalTable: this.#spaces.global.bytes,
      ...this.#engine.save(),
      ...this.#display.save(),
    };
  }

  /** Shadow and pins come back with their next use: the host's pages are others here. */
  #restore(state: StateReader): void {
    const entries = state.integer('ringEntries', RING_ENTRIES_MAX);
    const ring = {
      base: state.integer('ringBase', Number(ADDRESS_MASK)),
      entries,
      completions: state.integer('ringCompletions', Number(ADDRESS_MASK)),
    };
    this.#engine.restore(state);
    if (entries !== 0 && !(isRingSize(entries) && this.#engine.head < entries))
      throw state.error('ringEntries', `is ${entries}, with its head at ${this.#engine.head}`);
    this.#ring = entries === 0 ? undefined : ring;
    this.#spaces.setRoot(this.#registers.get('PageTableBase'));
    this.#takeContexts();
    this.#takeHangLimit();
    this.#spaces.global.load(state.bytes('globalTable', GLOBAL_TABLE_BYTES));
    this.#display.restore(state);
  }

  #takeHangLimit(): void {
    this.#engine.hangLimitNs = this.#registers.get32('HangLimitUs') * 1000;
  }

  #takeContexts(): void {
    this.#spaces.setContexts(this.#address('ContextTableBase'), this.#registers.get32('ContextCount'));
  }

  #control(value: number): void {
    if (value & CONTROL_RESET) {
      this.#reset();
      return;
    }
    if (value & CONTROL_ENGINE_RESET) {
      this.#resetEngine(value);
      return;
    }
    if (this.#registers.get32('Status') & STATUS_HALTED) return;
    if ((value & CONTROL_ENABLE) === 0) {
      this.#ring = undefined;
      this.#setStatus(0);
      return;
    }
    const entries = this.#registers.get32('RingEntries');
    // A ring re-enabled without a reset goes on at its head, which a smaller ring may not have.
    if (!isRingSize(entries) || this.#engine.head >= entries) {
      this.#halt();
      return;
    }
    this.#ring = {
      base: this.#address('RingBase'),
      entries,
      completions: this.#address('CompletionBase'),
    };
    this.#setStatus(this.#engine.hung ? STATUS_RUNNING | STATUS_HUNG : STATUS_RUNNING);
  }

  #completed(head: number): void {
    this.#registers.set('RingHead', BigInt(head));
    this.#interrupt(INTERRUPT_COMPLETION);
  }

  #faulted(context: number, va: number, iova: number): void {
    this.#registers.set('FaultContext', BigInt(context));
    this.#registers.set('FaultAddress', BigInt(va % 2 ** 32));
    this.#registers.set('FaultAddressHigh', BigInt(Math.floor(va / 2 ** 32)));
    this.#registers.set('FaultIova', BigInt(iova));
    this.#interrupt(INTERRUPT_FAULT);
  }

  /**
   * Neither the ring nor the completions can tell the guest: the status register and the interrupt do. The head stays
   * where it was, for the guest to see; only a reset goes on from here.
   */
  #halt(): void {
    this.#ring = undefined;
    this.#setStatus(STATUS_HALTED);
    this.#interrupt(INTERRUPT_HALTED);
  }

  /** Its ring is there, but nothing moves: the guest resets the engine, or everything. */
  #hang(): void {
    this.#setStatus(STATUS_RUNNING | STATUS_HUNG);
    this.#interrupt(INTERRUPT_HUNG);
  }

  #resetEngine(control: number): void {
    this.#registers.set('Control', BigInt(control & ~CONTROL_ENGINE_RESET));
    this.#engine.endCommand();
    if (this.#ring) this.#setStatus(STATUS_RUNNING);
  }

  #setStatus(status: number): void {
    this.#registers.set('Status', BigInt(status));
  }

  /** `cause`: one, or several of the same vector. */
  #interrupt(cause: number): void {
    this.#registers.set('InterruptStatus', this.#registers.get('InterruptStatus') | BigInt(cause));
    const unmasked = cause & ~this.#registers.get32('InterruptMask');
    if (unmasked === 0) return;
    this.#context.interrupt(VECTOR_CAUSES.findIndex((causes) => (causes & unmasked) !== 0));
  }

  /** A vector whose causes software has all seen has nothing to be pending for. */
  #withdrawInterrupts(): void {
    const status = this.#registers.get32('InterruptStatus');
    for (const [vector, causes] of VECTOR_CAUSES.entries())
      if ((status & causes) === 0) this.#msix.withdraw(vector);
  }

  #address(name: VgpuRegister): Iova {
    return Number(this.#registers.get(name) & ADDRESS_MASK) as Iova;
  }
}

const isRingSize = (entries: number): boolean =>
  (entries & (entries - 1)) === 0 && entries >= RING_ENTRIES_MIN && entries <= RING_ENTRIES_MAX;
