/**
 * The command buffer: commands of 16 bytes in guest RAM between head and tail (specification section 2.4).
 *
 * The head moves past a command only when its work is complete (R6). The store of a COMPLETION_WAIT therefore follows the
 * completion of all commands before it.
 */

import * as amdvi from '../../abi/amdvi.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Completion } from '../../platform/completion.ts';
import type { Quirks } from '../quirks.ts';
import { decodeCommand, type Invalidation } from './commands.ts';
import { type AmdViRegisterFile, placeOf, setStatus } from './registers.ts';

const { CONTROL, STATUS } = amdvi;

export interface CommandBufferEvents {
  /** Performs an invalidation. */
  readonly apply: (request: Invalidation) => Completion;
  /** Called before each command: pends if the buffer is to yield to others first. */
  readonly pause: () => Completion;
  /** Called when a COMPLETION_WAIT with i is complete. */
  readonly waitInterrupt: () => void;
  /** Called for an illegal command at `gpa`. */
  readonly illegal: (gpa: number, opcode: number) => void;
  /** Called when the command at `gpa` is not memory. */
  readonly unreadable: (gpa: number) => void;
}

/** Result of a command at which the specification stops the fetching. */
const STOPPED = 'stopped';

/** Commands that QEMU does not execute if a reserved bit is set. */
const QEMU_REFUSES: ReadonlySet<number> = new Set([
  amdvi.INVALIDATE_DEVTAB_ENTRY,
  amdvi.INVALIDATE_IOTLB_PAGES,
  amdvi.INVALIDATE_INTERRUPT_TABLE,
]);

/** Commands whose reserved bits the specification leaves open. */
const LENIENT: ReadonlySet<number> = new Set([amdvi.PREFETCH_IOMMU_PAGES, amdvi.COMPLETE_PPR_REQUEST]);

export class CommandBuffer {
  readonly #ram: GuestRam;
  readonly #registers: AmdViRegisterFile;
  readonly #asQemu: boolean;
  readonly #events: CommandBufferEvents;
  /** The base register's value in use. */
  latched = 0n;
  #base = 0;
  #bytes = 16;
  #head = 0;
  #tail = 0;
  /** Stopped by an error until software disables the buffer. */
  #stopped = false;

  constructor(ram: GuestRam, registers: AmdViRegisterFile, quirks: Quirks, events: CommandBufferEvents) {
    this.#ram = ram;
    this.#registers = registers;
    this.#asQemu = quirks === 'qemu';
    this.#events = events;
    registers.onWrite('CommandHead', (value) => {
      this.#head = this.#offset(value);
    });
    registers.onWrite('CommandTail', (value) => {
      this.#tail = this.#offset(value);
    });
  }

  /** True while the buffer has stopped at an error. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** True if there is a command to fetch. */
  get ready(): boolean {
    return (this.#registers.get('Status') & STATUS.CMD_BUF_RUN) !== 0n && this.#head !== this.#tail;
  }

  /** Takes the buffer's place from its base register and restarts it at 0. */
  setPlace(register: bigint): void {
    this.#takePlace(register);
    this.#head = 0;
    this.#tail = 0;
    // QEMU's registers keep the old offsets.
    if (this.#asQemu) return;
    this.#registers.set('CommandHead', 0n);
    this.#registers.set('CommandTail', 0n);
  }

  /** Updates CmdBufRun after a write of the control register. */
  controlWritten(running: boolean): void {
    if ((this.#registers.get('Control') & CONTROL.CMD_BUF_EN) === 0n) this.#stopped = false;
    setStatus(this.#registers, STATUS.CMD_BUF_RUN, running && !this.#stopped);
  }

  /** Restores the buffer of another unit between two commands. */
  restore(latched: bigint, head: number, tail: number, stopped: boolean): void {
    this.#takePlace(latched);
    this.#head = head;
    this.#tail = tail;
    this.#stopped = stopped;
  }

  /** Offsets in use. */
  get offsets(): { readonly head: number; readonly tail: number; readonly bytes: number } {
    return { head: this.#head, tail: this.#tail, bytes: this.#bytes };
  }

  /** Executes commands up to the tail, at most as many as the buffer holds. Runs must not overlap. */
  run(): Completion {
    for (let left = this.#bytes / amdvi.COMMAND_BYTES; left > 0 && this.ready; left--) {
      const pause = this.#events.pause();
      if (pause) return this.#runPending(pause, left);
      const work = this.#next();
      if (work === STOPPED) return undefined;
      if (work) {
        const advanced = work.then(() => this.#advance());
        return this.#runPending(advanced, left - 1);
      }
      this.#advance();
    }
    return undefined;
  }

  async #runPending(first: Promise<void>, left: number): Promise<void> {
    await first;
    for (; left > 0 && this.ready; left--) {
      const pause = this.#events.pause();
      if (pause) await pause;
      const work = this.#next();
      if (work === STOPPED) return;
      if (work) await work;
      this.#advance();
    }
  }

  #next(): Completion | typeof STOPPED {
    const at = this.#base + this.#head;
    if (!this.#ram.contains(at, amdvi.COMMAND_BYTES)) {
      this.#events.unreadable(at);
      return this.#stop();
    }
    const word = (i: number) => this.#ram.read32(at + 4 * i);
    const { command, legal, opcode } = decodeCommand([word(0), word(1), word(2), word(3)]);
    const isLegal = legal || (!this.#asQemu && LENIENT.has(opcode));
    if (!isLegal) {
      this.#events.illegal(at, opcode);
      if (!this.#asQemu) return this.#stop();
      if (QEMU_REFUSES.has(opcode)) return undefined;
    }
    if (!command || command.kind === 'none') return undefined;
    if (command.kind !== 'wait') return this.#events.apply(command);
    const { store, interrupt } = command;
    if (store && this.#ram.contains(store.gpa, 8)) {
      this.#ram.write32(store.gpa + 4, store.high);
      this.#ram.publish32(store.gpa, store.low);
    }
    if (interrupt) this.#events.waitInterrupt();
    return undefined;
  }

  /** Stops fetching at the command. QEMU continues with the next one. */
  #stop(): Completion | typeof STOPPED {
    if (this.#asQemu) return undefined;
    this.#stopped = true;
    setStatus(this.#registers, STATUS.CMD_BUF_RUN, false);
    return STOPPED;
  }

  #advance(): void {
    this.#head = (this.#head + amdvi.COMMAND_BYTES) % this.#bytes;
    this.#registers.set('CommandHead', BigInt(this.#head));
  }

  #takePlace(register: bigint): void {
    this.latched = register;
    const { base, bytes } = placeOf(register);
    this.#base = base;
    this.#bytes = bytes;
  }

  #offset(value: bigint): number {
    return (Number(value & 0xffff_ffffn) & amdvi.POINTER_MASK) % this.#bytes;
  }
}
