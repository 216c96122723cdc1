/**
 * Command ring of one engine of a vgpu, in guest RAM: submission, completion, and detection of a device that hangs or
 * is lost.
 */
import { nowUs } from '#host';
import * as vgpu from '../../abi/vgpu/vgpu.ts';
import { type DeviceLink, DeviceState } from '../../channel/device-link.ts';
import { type Gpa, hex } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { CommandTimeoutError, DeviceHaltedError, DeviceLostError, DeviceResetError } from './errors.ts';
import type { SavedRing } from './saved-state.ts';
import type { GpuRegisters } from './vram.ts';

/** Count of ring slots: ring and completion records then fit one page each. */
export const RING_ENTRIES = 64;
/** Time limit for a command. */
const COMMAND_TIMEOUT_MS = 60_000;
/** Interval at which the pump polls completions without an interrupt. */
const PUMP_WAIT_MS = 1000;

/** A command for an engine. Addresses are GPU virtual addresses of the context; lengths are bytes. */
export interface GpuCommand {
  readonly opcode: vgpu.Opcode;
  /** Engine that runs it. Default: the engine that has the opcode; the copy engine for nop, signal and wait. */
  readonly engine?: vgpu.GpuEngine;
  readonly target?: number;
  readonly source?: number;
  readonly length?: number;
  /** Fill value, flags of page table entries, or a fence's value. */
  readonly value?: number;
  /** ID of the context, or GLOBAL_CONTEXT. Default: 0, the context of GpuDriver.map. */
  readonly context?: number;
  /** Factor of a kernel. */
  readonly scalar?: number;
}

/** Result of a command. */
export interface GpuCompletion {
  /** One of CompletionStatus. */
  readonly status: number;
  /** CRC-32 of a checksum, result of a kernel, or the word that a wait has read. */
  readonly result: number;
  /** Time from the doorbell write until the guest reads the completion. */
  readonly latencyUs: number;
}

interface Outstanding {
  readonly sequence: number;
  readonly slot: number;
  readonly since: number;
  resolve(completion: GpuCompletion): void;
  reject(error: Error): void;
}

/** Calls of a ring to its driver. */
interface RingOwner extends GpuRegisters {
  /** Returns the sequence number of the next command; the rings share the numbers. */
  nextSequence(): number;
  /** Ends the command that hangs, by a reset of the engine. */
  resetEngine(engine: vgpu.GpuEngine): Promise<void>;
}

/** A command that was in flight when the VM left its last host. */
interface RestoredCommand {
  readonly sequence: number;
  readonly completion: Promise<GpuCompletion>;
}

/** The ring of one engine, with its commands in flight. */
export class GpuRing {
  /** The commands that were in flight when the VM left its last host, in order of submission. */
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
  /** Count of handled interrupts of VECTOR_ERROR: faults, halts and hangs. */
  #faultInterrupts: number;
  /** Time of the last completion or health check. */
  #healthyUs = 0;
  #pumping = false;
  /** A reset of the function: no command may enter the ring before it has ended. */
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
    // Unclaimed completions must not surface as unhandled rejections.
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

  /** False once the device is lost or the engine has halted. */
  get alive(): boolean {
    return this.#error === undefined && this.#link.state === DeviceState.ready;
  }

  /** Writes the addresses of ring and completions to the device. */
  async program(): Promise<void> {
    await this.#set('RingBase', this.#ring);
    await this.#set('RingEntries', RING_ENTRIES);
    await this.#set('CompletionBase', this.#completions);
  }

  /** Enables the engine. @throws DeviceLostError, Error if the engine does not start */
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

  /** Holds back new commands until `work` has ended. */
  async pauseFor(work: Promise<unknown>): Promise<void> {
    this.#pause = work;
    try {
      await work;
    } finally {
      this.#pause = undefined;
    }
  }

  /**
   * Empties the ring after a reset of the function. Completions before the reset count; other commands are rejected.
   */
  reset(): void {
    this.#collect();
    this.#rejectAll(({ sequence }) => new DeviceResetError(this.#owner.name, sequence));
    this.#error = undefined;
    this.#tail = 0;
  }

  /** Starts the pump if commands are outstanding. */
  startPump(): void {
    if (!this.#pumping && this.#outstanding.length > 0) void this.#pump();
  }

  #set(name: vgpu.EngineRegister, value: number): void | Promise<void> {
    return this.#owner.writeRegister(vgpu.engineRegister(this.#engine, name), value);
  }

  #status(): Promise<number> {
    return this.#owner.readRegister(vgpu.engineRegister(this.#engine, 'Status'));
  }

  /** Returns the completion of a command in the ring. */
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

  /** Runs while commands are outstanding: waits for interrupts and resolves completions. */
  async #pump(): Promise<void> {
    this.#pumping = true;
    this.#healthyUs = nowUs();
    while (this.#outstanding.length > 0) {
      const events = this.#link.events;
      if (this.#collect()) this.#healthyUs = nowUs();
      if (this.#outstanding.length === 0) break;
      if (this.#mayHaveFailed()) await this.#checkHealth();
      if (this.#error) break;
      await this.#link.waitEvents(events, PUMP_WAIT_MS);
    }
    this.#pumping = false;
    const error = this.#error;
    if (error) this.#rejectAll(() => error);
  }

  /** Returns true on an error interrupt, if the link is down, or if nothing has completed for PUMP_WAIT_MS. */
  #mayHaveFailed(): boolean {
    const faultInterrupts = this.#link.interrupts(vgpu.VECTOR_ERROR);
    const wasHealthy = nowUs() - this.#healthyUs < PUMP_WAIT_MS * 1000;
    if (faultInterrupts === this.#faultInterrupts && this.#link.state === DeviceState.ready && wasHealthy)
      return false;
    this.#faultInterrupts = faultInterrupts;
    this.#healthyUs = nowUs();
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

  /** Checks whether the device is lost or halted or its first command has timed out; resets an engine that hangs. */
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
