/**
 * Command ring of one engine of a vgpu, in guest RAM: submission, completion, and detection of a device that hangs or
 * is lost.
 */
import { nowUs } from '#host';
import * as vgpu from '../../abi/vgpu/vgpu.ts';
import { type DeviceLink, DeviceState } from '../../channel/device-link.ts';
import type { Gate } from '../../channel/gate.ts';
import { type Gpa, hex } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { CommandTimeoutError, DeviceHaltedError, DeviceLostError, DeviceResetError } from './errors.ts';
import { addWaiter, PULSE_MS, removeWaiter } from './pulse.ts';
import type { SavedRing } from './saved-state.ts';
import type { GpuRegisters } from './vram.ts';

/** Count of ring slots: ring and completion records then fit one page each. */
export const RING_ENTRIES = 64;
/** Maximum count of commands that wait for room in the ring. */
export const WAITING_LIMIT = 65_536;
/** Time limit for a command. */
const COMMAND_TIMEOUT_MS = 60_000;
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
  /** Time at which the guest has read it, on the process's clock. */
  readonly readUs: number;
}

/** A command in the ring, or one that waits for room. */
interface Submission {
  readonly sequence: number;
  /** Words of the ring entry; empty for a command that was in the ring of the last host. */
  readonly words: readonly number[];
  readonly completed: (completion: GpuCompletion) => void;
  readonly failed: (error: Error) => void;
  slot: number;
  /** Time of the doorbell write. */
  since: number;
}

/** Calls of a ring to its driver. */
interface RingOwner extends GpuRegisters {
  /** Returns the sequence number of the next command; the rings share the numbers. */
  nextSequence(): number;
  /** Writes the tail register: once for all commands that a callback of the event loop submits. */
  ringDoorbell(engine: vgpu.GpuEngine, tail: number): void;
  /** Ends the command that hangs, by a reset of the engine. */
  resetEngine(engine: vgpu.GpuEngine): Promise<void>;
}

/** The parts of a ring's environment. */
interface RingParts {
  readonly link: DeviceLink;
  readonly ram: GuestRam;
  /** While it is closed, no command enters the ring and no completion is taken out. */
  readonly gate: Gate;
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
  readonly #gate: Gate;
  readonly #outstanding: Submission[] = [];
  /** In order of submission; empty while the ring has room, except during a pause. */
  readonly #waiting: Submission[] = [];
  #tail: number;
  /** Count of handled interrupts of VECTOR_ERROR: faults, halts and hangs. */
  #faultInterrupts: number;
  /** Time of the last completion or health check. */
  #healthyUs = 0;
  /** End of the last pause: its time does not count for the time limit of a command. */
  #resumedUs = 0;
  #pumping = false;
  readonly #waiter = { endWaits: () => this.#link.endWaits() };
  /** A reset of the function: no command may enter the ring before it has ended. */
  #pause: Promise<unknown> | undefined;
  #error: Error | undefined;

  constructor(owner: RingOwner, engine: vgpu.GpuEngine, { link, ram, gate }: RingParts, saved: SavedRing) {
    this.#owner = owner;
    this.#engine = engine;
    this.#link = link;
    this.#ram = ram;
    this.#gate = gate;
    this.#ring = saved.ring;
    this.#completions = saved.completions;
    this.#tail = saved.tail;
    this.#faultInterrupts = saved.faultInterrupts;
    this.restored = [
      ...saved.outstanding.map(({ sequence, slot }) => ({
        sequence,
        completion: this.#expect(sequence, [], (submission) => this.#enter(submission, slot, nowUs())),
      })),
      ...saved.waiting.map((words) => this.#restoreWaiting(words)),
    ];
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
      waiting: this.#waiting.map(({ words }) => words),
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
  submit(command: GpuCommand): Promise<GpuCompletion> {
    return new Promise((completed, failed) => this.start(command, completed, failed));
  }

  /** See GpuDriver.startCommand. */
  start(
    command: GpuCommand,
    completed: (completion: GpuCompletion) => void,
    failed: (error: Error) => void,
  ): void {
    if (!this.#held) this.#throwIfDead();
    if (this.#waiting.length >= WAITING_LIMIT)
      throw new RangeError(
        `${this.#waiting.length} commands wait for room in the ${this.#engine} ring of ${this.#owner.name}; ` +
          `accepted: ${WAITING_LIMIT}`,
      );
    const sequence = this.#owner.nextSequence();
    const words = commandWords(sequence, command);
    this.#waiting.push({ sequence, words, completed, failed, slot: 0, since: 0 });
    this.#fill();
    this.startPump();
  }

  /** Holds back new commands until `work` has ended; rejects them if it fails. */
  async pauseFor(work: Promise<unknown>): Promise<void> {
    this.#pause = work.catch(() => {});
    try {
      await work;
    } catch (error) {
      for (const { failed } of this.#waiting.splice(0)) failed(error as Error);
      throw error;
    } finally {
      this.#pause = undefined;
      this.#fill();
    }
  }

  /**
   * Empties the ring after a reset of the function. Completions before the reset count; other commands are rejected.
   */
  reset(): void {
    this.#collect();
    for (const { sequence, failed } of this.#outstanding.splice(0))
      failed(new DeviceResetError(this.#owner.name, sequence));
    this.#error = undefined;
    this.#tail = 0;
  }

  /** Starts the pump if commands are outstanding. */
  startPump(): void {
    if (!this.#pumping && this.#isBusy) void this.#pump();
  }

  get #isBusy(): boolean {
    return this.#outstanding.length > 0 || this.#waiting.length > 0;
  }

  /** Promise of the end of what holds the ring back: a pause of the VM, or a reset of the function. */
  get #held(): Promise<unknown> | undefined {
    return this.#gate.pending ?? this.#pause;
  }

  #set(name: vgpu.EngineRegister, value: number): void | Promise<void> {
    return this.#owner.writeRegister(vgpu.engineRegister(this.#engine, name), value);
  }

  #status(): Promise<number> {
    return this.#owner.readRegister(vgpu.engineRegister(this.#engine, 'Status'));
  }

  /** Returns the completion of a restored command, which `add` puts in its place. */
  #expect(
    sequence: number,
    words: readonly number[],
    add: (submission: Submission) => void,
  ): Promise<GpuCompletion> {
    return new Promise((completed, failed) => add({ sequence, words, completed, failed, slot: 0, since: 0 }));
  }

  #enter(submission: Submission, slot: number, since: number): void {
    submission.slot = slot;
    submission.since = since;
    this.#outstanding.push(submission);
  }

  #restoreWaiting(words: readonly number[]): RestoredCommand {
    const sequence = words[vgpu.CommandWord.sequence] as number;
    const completion = this.#expect(sequence, words, (submission) => this.#waiting.push(submission));
    return { sequence, completion };
  }

  /** Moves waiting commands into the ring while it has room, and rings the doorbell. */
  #fill(): void {
    if (this.#held || this.#waiting.length === 0) return;
    if (this.#link.state !== DeviceState.ready) this.#error ??= new DeviceLostError(this.#owner.name);
    if (this.#error) {
      this.#rejectAll(this.#error);
      return;
    }
    const count = Math.min(this.#waiting.length, RING_ENTRIES - 1 - this.#outstanding.length);
    if (count === 0) return;
    const since = nowUs();
    for (const next of this.#waiting.splice(0, count)) {
      this.#ram.writeWords(this.#ring + this.#tail * vgpu.COMMAND_BYTES, next.words);
      this.#enter(next, this.#tail, since);
      this.#tail = (this.#tail + 1) % RING_ENTRIES;
    }
    this.#owner.ringDoorbell(this.#engine, this.#tail);
  }

  /** Runs while commands are outstanding: waits for interrupts or the pulse, and reports completions. */
  async #pump(): Promise<void> {
    this.#pumping = true;
    addWaiter(this.#waiter);
    this.#healthyUs = nowUs();
    while (this.#isBusy) {
      if (this.#held) {
        await this.#held;
        this.#resumedUs = this.#healthyUs = nowUs();
      }
      const events = this.#link.events;
      if (this.#collect()) this.#healthyUs = nowUs();
      this.#fill();
      if (!this.#isBusy) break;
      if (this.#mayHaveFailed()) await this.#checkHealth();
      if (this.#error) break;
      await this.#link.waitEvents(events, Number.POSITIVE_INFINITY);
    }
    this.#pumping = false;
    removeWaiter(this.#waiter);
    if (this.#error) this.#rejectAll(this.#error);
  }

  /** Returns true on an error interrupt, if the link is down, or if nothing has completed for PULSE_MS. */
  #mayHaveFailed(): boolean {
    const faultInterrupts = this.#link.interrupts(vgpu.VECTOR_ERROR);
    const wasHealthy = nowUs() - this.#healthyUs < PULSE_MS * 1000;
    if (faultInterrupts === this.#faultInterrupts && this.#link.state === DeviceState.ready && wasHealthy)
      return false;
    this.#faultInterrupts = faultInterrupts;
    this.#healthyUs = nowUs();
    return true;
  }

  /** Takes completed commands out of the ring and reports them. Returns whether there are any. */
  #collect(): boolean {
    const outstanding = this.#outstanding;
    let count = 0;
    for (; count < outstanding.length && this.#hasCompleted(outstanding[count] as Submission); count++);
    if (count === 0) return false;
    const now = nowUs();
    for (const { slot, since, completed } of outstanding.splice(0, count)) {
      const record = this.#completions + slot * vgpu.COMPLETION_BYTES;
      completed({
        status: this.#ram.read32(record + vgpu.CompletionWord.status * 4),
        result: this.#ram.read32(record + vgpu.CompletionWord.result * 4),
        latencyUs: now - since,
        readUs: now,
      });
    }
    return true;
  }

  #hasCompleted({ slot, sequence }: Submission): boolean {
    const record = this.#completions + slot * vgpu.COMPLETION_BYTES;
    return this.#ram.load32(record + vgpu.CompletionWord.sequence * 4) === sequence;
  }

  /** Checks whether the device is lost or halted or its first command has timed out; resets an engine that hangs. */
  async #checkHealth(): Promise<void> {
    const first = this.#outstanding[0];
    if (this.#link.state !== DeviceState.ready) this.#error = new DeviceLostError(this.#owner.name);
    else if (first && nowUs() - Math.max(first.since, this.#resumedUs) > COMMAND_TIMEOUT_MS * 1000)
      this.#error = new CommandTimeoutError(this.#owner.name, first.sequence, COMMAND_TIMEOUT_MS);
    else {
      const status = await this.#status();
      if (status === 0xffff_ffff) this.#error = new DeviceLostError(this.#owner.name);
      else if (status & vgpu.STATUS_HALTED) this.#error = new DeviceHaltedError(this.#owner.name);
      else if (status & vgpu.STATUS_HUNG) await this.#owner.resetEngine(this.#engine);
    }
  }

  #rejectAll(error: Error): void {
    for (const { failed } of [...this.#outstanding.splice(0), ...this.#waiting.splice(0)]) failed(error);
  }

  #throwIfDead(): void {
    if (this.#link.state !== DeviceState.ready) this.#error ??= new DeviceLostError(this.#owner.name);
    if (this.#error) throw this.#error;
  }
}

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);

/** Returns the words of a ring entry, in the order of CommandWord. */
function commandWords(sequence: number, command: GpuCommand): readonly number[] {
  const { opcode, target = 0, source = 0, length = 0, value = 0, context = 0, scalar = 0 } = command;
  float[0] = scalar;
  return [
    opcode,
    sequence,
    0,
    0,
    (target % 2 ** 32) >>> 0,
    (source % 2 ** 32) >>> 0,
    length >>> 0,
    value >>> 0,
    Math.floor(target / 2 ** 32) >>> 0,
    Math.floor(source / 2 ** 32) >>> 0,
    context >>> 0,
    floatBits[0] as number,
  ];
}
