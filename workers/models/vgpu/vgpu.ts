/**
 * The `vgpu` model: registers in BAR 0, one command ring, GPU page tables shadowed to pinned host pages.
 */
import type { Iova } from '../../../src/address/address.ts';
import type {
  BarRegion,
  DeviceContext,
  DeviceModel,
  DeviceOptions,
  StepResult,
} from '../../../src/device/model.ts';
import { EngineSeat, type Grant, type SeatHandle } from '../../../src/gpu/seat.ts';
import { ConfigSpace } from '../../../src/pci/config-space.ts';
import { RegisterFile } from '../../../src/pci/registers.ts';
import {
  CONTROL_ENABLE,
  CONTROL_ENGINE_RESET,
  CONTROL_RESET,
  HANG_LIMIT_US,
  INTERRUPT_COMPLETION,
  INTERRUPT_FAULT,
  INTERRUPT_HALTED,
  INTERRUPT_HUNG,
  RING_ENTRIES_MAX,
  RING_ENTRIES_MIN,
  STATUS_HALTED,
  STATUS_HUNG,
  STATUS_RUNNING,
  VGPU_IDENTITY,
  VGPU_REGISTERS,
  type VgpuRegister,
} from '../../../src/pci/vgpu-interface.ts';
import { Engine, type EngineEvents, type RingSetup } from './engine.ts';
import type { PteSource } from './page-walk.ts';
import { ShadowPageTable } from './shadow.ts';
import { GpuSpaces } from './spaces.ts';

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
  shadow(context: DeviceContext, source: PteSource): ShadowPageTable;
  engine(context: DeviceContext, spaces: GpuSpaces, events: EngineEvents): Engine;
}

export const SOUND_PARTS: VgpuParts = {
  shadow: (context, source) => new ShadowPageTable(context.dma, source),
  engine: (context, spaces, events) => new Engine(context.dma, spaces, events),
};

export class Vgpu implements DeviceModel {
  readonly config = new ConfigSpace(VGPU_IDENTITY);
  readonly bars: { readonly 0: RegisterFile<string>; readonly 4: BarRegion };
  readonly #registers: RegisterFile<VgpuRegister>;
  readonly #context: DeviceContext;
  readonly #spaces: GpuSpaces;
  readonly #engine: Engine;
  readonly #seat: EngineSeat | undefined;
  #askingAgain = false;
  #ring: RingSetup | undefined;

  constructor(context: DeviceContext, parts: VgpuParts = SOUND_PARTS, seat?: SeatHandle) {
    this.#context = context;
    this.#seat = seat && new EngineSeat(seat);
    this.#registers = new RegisterFile(VGPU_IDENTITY.bar0Bytes, VGPU_REGISTERS);
    this.#spaces = new GpuSpaces(context.dma, (source) => parts.shadow(context, source));
    this.bars = { 0: this.#registers as RegisterFile<string>, 4: this.#spaces.global };
    this.#engine = parts.engine(context, this.#spaces, {
      completed: (head) => this.#completed(head),
      faulted: (space, va, iova) => this.#faulted(space, va, iova),
      halted: () => this.#halt(),
      hung: () => this.#hang(),
    });
    this.#registers.onWrite('Control', (value) => this.#control(Number(value)));
    this.#registers.onWrite('PageTableBase', (pointer) => this.#spaces.setRoot(pointer));
    this.#registers.onWrite('HangLimitUs', (us) => {
      this.#engine.hangLimitNs = Number(us) * 1000;
    });
    this.#registers.onWrite('TlbInvalidate', () => this.#spaces.invalidate());
    for (const name of ['ContextTableBase', 'ContextCount'] as const)
      this.#registers.onWrite(name, () =>
        this.#spaces.setContexts(this.#address('ContextTableBase'), this.#registers.get32('ContextCount')),
      );
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

  #control(value: number): void {
    if (value & CONTROL_RESET) {
      this.#spaces.reset();
      this.#engine.reset();
      this.#engine.hangLimitNs = HANG_LIMIT_US * 1000;
      this.#ring = undefined;
      this.#registers.reset();
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
    const isPowerOfTwo = (entries & (entries - 1)) === 0;
    const isUsable = isPowerOfTwo && entries >= RING_ENTRIES_MIN && entries <= RING_ENTRIES_MAX;
    // A ring re-enabled without a reset goes on at its head, which a smaller ring may not have.
    if (!isUsable || this.#engine.head >= entries) {
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

  #interrupt(cause: number): void {
    this.#registers.set('InterruptStatus', this.#registers.get('InterruptStatus') | BigInt(cause));
    if ((this.#registers.get32('InterruptMask') & cause) === 0) this.#context.interrupt(0);
  }

  #address(name: VgpuRegister): Iova {
    return Number(this.#registers.get(name) & ADDRESS_MASK) as Iova;
  }
}
