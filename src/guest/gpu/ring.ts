/**
 * The command ring of one engine of a vgpu, in guest RAM: commands go in, completions come out, and what keeps them from
 * coming is found.
 */
import { nowUs } from '#host';
import * as vgpu from '../../abi/vgpu/vgpu.ts';
import { type DeviceLink, DeviceState } from '../../channel/device-link.ts';
import { type Gpa, hex } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { CommandTimeoutError, DeviceHaltedError, DeviceLostError, DeviceResetError } from './errors.ts';
import type { SavedRing } from './saved-state.ts';
import type { GpuRegisters } from './vram.ts';

/** Ring slots: ring and completion records then fill one page each at most. */
export const RING_ENTRIES = 64;
/** A command that has no completion by then is lost. */
const COMMAND_TIMEOUT_MS = 60_000;
/** The pump looks around this often even without an interrupt. */
const PUMP_WAIT_MS = 1000;

/** A command for an engine; addresses are GPU virtual, of the context, lengths bytes. */
export interface GpuCommand {
  readonly opcode: vgpu.Opcode;
  /** Whose ring it goes into: by default the engine's that has the opcode, the copy engine's for nop, signal and wait. */
  readonly engine?: vgpu.GpuEngine;
  readonly target?: number;
  readonly source?: number;
  readonly length?: number;
  /** Fill value, flags of page table entries, or a fence's value. */
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
  /** CRC-32 of a checksum, what a kernel has come to, or the word that a wait has seen. */
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

/** What the ring asks of the driver that it belongs to. */
interface RingOwner extends GpuRegisters {
  /** One more than the command before, whichever ring that went into. */
  nextSequence(): number;
  /** Ends the command that hangs. */
  resetEngine(engine: vgpu.GpuEngine): Promise<void>;
}

/** A command that was under way when the VM left its last host. */
interface RestoredCommand {
  readonly sequence: number;
  readonly completion: Promise<GpuCompletion>;
}

export class GpuRing {
  /** The commands that were under way when the VM left its last host, in their order. */
  readonly restored: readonly RestoredCommand[];
  readonly #owner: RingOwner;
  readonly #engine: vgpu.GpuEngine;
  readonly #link: DeviceLink;
  readonly #ram: GuestRam;
  readonly #ring: Gpa;
  readonly #completions: Gpa;
  readonly #scalar = new DataView(new ArrayBuffer(4));
  readonly #outstanding: Outstanding[] = [];
  #spaceWaiters: (() => void)[] = [];
  #tail: number;
  /** Interrupts of VECTOR_ERROR that have been looked into: a fault, a halt, a hang. */
  #faultInterrupts: number;
  /** When the device was last known to be well. */
  #wellUs = 0;
  #pumping = false;
  /** While it lasts, nothing may enter the ring. */
  #pause: Promise<unknown> | undefined;
  #error: Error | undefined;

  constructor(owner: RingOwner, engine: vgpu.GpuEngine, link: DeviceLink, ram: GuestRam, saved: SavedRing) {
    this.#owner = owner;
    this.#engine = engine;
    this.#link = link;
    this.#ram = ram;
    this.#ring = saved.ring;
    this.#completions = saved.completions;
    this.#tail = saved.tail;
    this.#faultInterrupts = saved.faultInterrupts;
    this.restored = saved.outstanding.map(({ sequence, slot }) => ({
      sequence,
      completion: this.#expect(sequence, slot),
    }));
    // Who does not ask for them does not want to hear of them.
    for (const { completion } of this.restored) completion.catch(() => {});
  }

  save(): SavedRing {
    return {
      ring: this.#ring,
      completions: this.#completions,
      tail: this.#tail,
      faultInterrupts: this.#faultInterrupts,
      outstanding: this.#outstanding.map(({ sequence, slot }) => ({ sequence, slot })),
    };
  }

  /** True until the device has been lost or has halted. */
  get alive(): boolean {
    return this.#error === undefined && this.#link.state === DeviceState.ready;
  }

  /** Tells the device where ring and completions are. */
  async program(): Promise<void> {
    await this.#set('RingBase', this.#ring);
    await this.#set('RingEntries', RING_ENTRIES);
    await this.#set('CompletionBase', this.#completions);
  }

  /** Has the engine work on it. @throws DeviceLostError, Error if it does not */
  async enable(): Promise<void> {
    await this.#set('Control', vgpu.CONTROL_ENABLE);
    const status = await this.#status();
    const { name } = this.#owner;
    if (status === 0xffff_ffff) throw new DeviceLostError(name);
    if ((status & vgpu.STATUS_RUNNING) === 0)
      throw new Error(`${name} did not start its ${this.#engine} engine: Status ${hex(status)}`);
  }

  /** See GpuDriver.submit. */
  async submit(command: GpuCommand): Promise<GpuCompletion> {
    while (this.#pause || this.#outstanding.length >= RING_ENTRIES - 1) {
      this.startPump();
      await (this.#pause ?? new Promise<void>((resolve) => this.#spaceWaiters.push(resolve)));
    }
    this.#throwIfDead();
    const slot = this.#tail;
    const sequence = this.#owner.nextSequence();
    this.#write(slot, sequence, command);
    this.#tail = (slot + 1) % RING_ENTRIES;
    const done = this.#expect(sequence, slot);
    await this.#set('RingTail', this.#tail);
    this.startPump();
    return done;
  }

  /** Keeps commands waiting until `work` has ended. */
  async pauseFor(work: Promise<unknown>): Promise<void> {
    this.#pause = work;
    try {
      await work;
    } finally {
      this.#pause = undefined;
    }
  }

  /** The device has been reset: what has completed before that has, the rest is rejected; the ring is empty. */
  startAnew(): void {
    this.#collect();
    this.#rejectAll(({ sequence }) => new DeviceResetError(this.#owner.name, sequence));
    this.#error = undefined;
    this.#tail = 0;
  }

  /** Has completions looked for while there are commands without one. */
  startPump(): void {
    if (!this.#pumping && this.#outstanding.length > 0) void this.#pump();
  }

  #set(name: vgpu.EngineRegister, value: number): void | Promise<void> {
    return this.#owner.writeRegister(vgpu.engineRegister(this.#engine, name), value);
  }

  #status(): Promise<number> {
    return this.#owner.readRegister(vgpu.engineRegister(this.#engine, 'Status'));
  }

  /** The completion of a command that is in the ring. */
  #expect(sequence: number, slot: number): Promise<GpuCompletion> {
    return new Promise((resolve, reject) => {
      this.#outstanding.push({ sequence, slot, since: nowUs(), resolve, reject });
    });
  }

  #write(slot: number, sequence: number, command: GpuCommand): void {
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
    const faultInterrupts = this.#link.interrupts(vgpu.VECTOR_ERROR);
    const wasWell = nowUs() - this.#wellUs < PUMP_WAIT_MS * 1000;
    if (faultInterrupts === this.#faultInterrupts && this.#link.state === DeviceState.ready && wasWell)
      return false;
    this.#faultInterrupts = faultInterrupts;
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
      for (const wake of this.#spaceWaiters) wake();
      this.#spaceWaiters = [];
    }
    return any;
  }

  /** Called when something happened but no command completed: is the device still there? */
  async #checkHealth(): Promise<void> {
    const first = this.#outstanding[0];
    if (this.#link.state !== DeviceState.ready) this.#error = new DeviceLostError(this.#owner.name);
    else if (first && nowUs() - first.since > COMMAND_TIMEOUT_MS * 1000)
      this.#error = new CommandTimeoutError(this.#owner.name, first.sequence, COMMAND_TIMEOUT_MS);
    else {
      const status = await this.#status();
      if (status === 0xffff_ffff) this.#error = new DeviceLostError(this.#owner.name);
      else if (status & vgpu.STATUS_HALTED) this.#error = new DeviceHaltedError(this.#owner.name);
      else if (status & vgpu.STATUS_HUNG) await this.#owner.resetEngine(this.#engine);
    }
  }

  #rejectAll(errorOf: (command: Outstanding) => Error): void {
    for (const command of this.#outstanding.splice(0)) command.reject(errorOf(command));
    for (const wake of this.#spaceWaiters) wake();
    this.#spaceWaiters = [];
  }

  #throwIfDead(): void {
    if (this.#link.state !== DeviceState.ready) this.#error ??= new DeviceLostError(this.#owner.name);
    if (this.#error) throw this.#error;
  }
}
