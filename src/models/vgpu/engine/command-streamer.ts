/**
 * Front end of one command engine: its block of registers and its ring. It starts the ring when the guest enables the
 * engine, passes commands to the engine, and reports their results to the guest.
 */

import {
  CONTROL_ENABLE,
  CONTROL_ENGINE_RESET,
  CONTROL_RESET,
  type EngineRegister,
  engineCauses,
  engineRegisterNames,
  type GpuEngine,
  INTERRUPT_COMPLETION,
  INTERRUPT_FAULT,
  INTERRUPT_HALTED,
  INTERRUPT_HUNG,
  RING_ENTRIES_MAX,
  RING_ENTRIES_MIN,
  STATUS_HALTED,
  STATUS_HUNG,
  STATUS_RUNNING,
  type VgpuRegister,
} from '../../../abi/vgpu/vgpu.ts';
import type { StateReader, StateValues } from '../../../device/model.ts';
import type { Iova } from '../../../memory/address.ts';
import type { RegisterFile } from '../../../registers/register-file.ts';
import type { Engine } from './engine.ts';
import type { EngineEvents, RingSetup } from './engine-context.ts';

const ADDRESS_MASK = (1n << 48n) - 1n;

/** The device of a command streamer. */
interface CommandStreamerOwner {
  /** `cause` is one cause, or several of the same vector. */
  interrupt(cause: number): void;
  /** Called when the guest resets the device. */
  reset(): void;
  /** Called when the guest rings this engine's doorbell, or enables the engine. */
  doorbellRung(): void;
}

export class CommandStreamer {
  readonly name: GpuEngine;
  readonly engine: Engine;
  readonly #registers: RegisterFile<VgpuRegister>;
  readonly #owner: CommandStreamerOwner;
  /** Names of its registers in BAR 0. */
  readonly #names: Readonly<Record<EngineRegister, VgpuRegister>>;
  #ring: RingSetup | undefined;
  /** RingTail as an index of the ring, since it is read before and after every step. */
  #tail = 0;

  constructor(
    name: GpuEngine,
    registers: RegisterFile<VgpuRegister>,
    owner: CommandStreamerOwner,
    makeEngine: (events: EngineEvents) => Engine,
  ) {
    this.name = name;
    this.#registers = registers;
    this.#owner = owner;
    this.#names = engineRegisterNames(name);
    this.engine = makeEngine({
      completed: (head) => this.#completed(head),
      faulted: (context, va, iova) => this.#faulted(context, va, iova),
      halted: () => this.#halt(),
      hung: () => this.#hang(),
    });
    registers.onWrite(this.#names.Control, (value) => this.#control(Number(value)));
    registers.onWrite(this.#names.HangLimitUs, () => this.#setHangLimit());
    registers.onWrite(this.#names.RingTail, () => this.#onTailWrite());
  }

  /** True if there is work that needs engine time. */
  get hasWork(): boolean {
    return this.#ring !== undefined && this.engine.hasWork(this.#tail);
  }

  /** True while its command waits for a fence. */
  get waiting(): boolean {
    return this.#ring !== undefined && this.engine.waiting;
  }

  /** Does one bounded piece of work; `engine.lastStep` describes it. Returns true if it stalls. */
  step(): boolean {
    return this.#ring !== undefined && this.engine.step(this.#ring, this.#tail) === 'stalled';
  }

  /** Polls the fence of its command, if a recheck is scheduled. Returns true if it stalls. */
  pollFence(): boolean {
    return this.#ring !== undefined && this.engine.pollFence() === 'stalled';
  }

  /** Called after the registers have been reset. */
  reset(): void {
    this.stop();
    this.engine.reset();
    this.#setHangLimit();
  }

  /** Stops fetching from the ring. */
  stop(): void {
    this.#ring = undefined;
  }

  #setHangLimit(): void {
    this.engine.hangLimitNs = this.#get('HangLimitUs') * 1000;
  }

  /** Returns the ring in use, from which the registers may differ, and the engine's state. */
  save(): StateValues {
    const { base = 0, entries = 0, completions = 0 } = this.#ring ?? {};
    return { ringBase: base, ringEntries: entries, ringCompletions: completions, ...this.engine.save() };
  }

  /** @throws StateError */
  restore(state: StateReader): void {
    const entries = state.integer('ringEntries', RING_ENTRIES_MAX);
    const ring = {
      base: state.integer('ringBase', Number(ADDRESS_MASK)),
      entries,
      completions: state.integer('ringCompletions', Number(ADDRESS_MASK)),
    };
    this.engine.restore(state);
    if (entries !== 0 && !(isRingSize(entries) && this.engine.head < entries))
      throw state.error('ringEntries', `is ${entries}, with its head at ${this.engine.head}`);
    this.#setRing(entries === 0 ? undefined : ring);
    this.#setHangLimit();
  }

  #setRing(ring: RingSetup | undefined): void {
    this.#ring = ring;
    if (ring) this.#tail = this.#get('RingTail') % ring.entries;
  }

  #onTailWrite(): void {
    this.#setRing(this.#ring);
    this.#owner.doorbellRung();
  }

  #control(value: number): void {
    if (value & CONTROL_RESET) {
      this.#owner.reset();
      return;
    }
    if (value & CONTROL_ENGINE_RESET) {
      this.#resetEngine(value);
      return;
    }
    if (this.#get('Status') & STATUS_HALTED) return;
    if ((value & CONTROL_ENABLE) === 0) {
      this.stop();
      this.#set('Status', 0);
      return;
    }
    this.#enable();
  }

  #enable(): void {
    const entries = this.#get('RingEntries');
    // A ring that is re-enabled without a reset resumes at its head, which a smaller ring may not have.
    if (!isRingSize(entries) || this.engine.head >= entries) {
      this.#halt();
      return;
    }
    this.#setRing({
      base: this.#address('RingBase'),
      entries,
      completions: this.#address('CompletionBase'),
    });
    this.#set('Status', this.engine.hung ? STATUS_RUNNING | STATUS_HUNG : STATUS_RUNNING);
    this.#owner.doorbellRung();
  }

  #completed(head: number): void {
    this.#registers.set32(this.#names.RingHead, head);
    this.#interrupt(INTERRUPT_COMPLETION);
  }

  #faulted(context: number, va: number, iova: number): void {
    this.#set('FaultContext', context);
    this.#set('FaultAddress', va % 2 ** 32);
    this.#set('FaultAddressHigh', Math.floor(va / 2 ** 32));
    this.#set('FaultIova', iova);
    this.#interrupt(INTERRUPT_FAULT);
  }

  /**
   * Reports by the status register and an interrupt that the ring or the completions cannot be reached. RingHead
   * keeps its value for the guest. Only a reset of the device ends this state.
   */
  #halt(): void {
    this.stop();
    this.#set('Status', STATUS_HALTED);
    this.#interrupt(INTERRUPT_HALTED);
  }

  /** Reports that the command hangs. The guest resets the engine or the device. */
  #hang(): void {
    this.#set('Status', STATUS_RUNNING | STATUS_HUNG);
    this.#interrupt(INTERRUPT_HUNG);
  }

  #resetEngine(control: number): void {
    this.#set('Control', control & ~CONTROL_ENGINE_RESET);
    this.engine.endCommand();
    if (this.#ring) this.#set('Status', STATUS_RUNNING);
  }

  #interrupt(cause: number): void {
    this.#owner.interrupt(engineCauses(this.name, cause));
  }

  #get(name: EngineRegister): number {
    return this.#registers.get32(this.#names[name]);
  }

  #set(name: EngineRegister, value: number): void {
    this.#registers.set(this.#names[name], BigInt(value));
  }

  #address(name: EngineRegister): Iova {
    return Number(this.#registers.get(this.#names[name]) & ADDRESS_MASK) as Iova;
  }
}

const isRingSize = (entries: number): boolean =>
  (entries & (entries - 1)) === 0 && entries >= RING_ENTRIES_MIN && entries <= RING_ENTRIES_MAX;
