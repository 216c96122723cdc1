/**
 * A command engine. It fetches ring entries, runs commands a bounded piece at a time, and writes completions.
 *
 * A command survives a switch of the address space: it stalls, and resumes where it stopped. An engine that waits for a fence
 * has no runnable work; its owner decides when to recheck the fence.
 */

import {
  COMMAND_BYTES,
  COMPLETION_BYTES,
  CompletionStatus,
  fencePassed,
  GPU_ENGINES,
  HANG_LIMIT_US,
  Opcode,
  RING_ENTRIES_MAX,
} from '../../../abi/vgpu/vgpu.ts';
import { type DeviceDma, DMA_FAULT, DMA_OK, DMA_RETRY } from '../../../device/dma.ts';
import type { StateReader, StateValues, StepResult } from '../../../device/model.ts';
import { COMMAND_NS } from '../../../gpu/cost.ts';
import type { Iova } from '../../../memory/address.ts';
import type { GpuAddressSpaces } from '../mmu/address-spaces.ts';
import { PageAccess } from '../mmu/page-access.ts';
import { type Command, isWait, parseCommand } from './command.ts';
import { restoreCommand, saveCommand } from './command-state.ts';
import type { EngineContext, EngineCounters, EngineEvents, RingSetup } from './engine-context.ts';
import { KERNELS } from './kernels.ts';
import { isValid, OPERATIONS, readFence, Workspace } from './operations.ts';

/** Pieces of one step, each within a page: about 20 µs of copying. */
const STEP_PAGES = 16;

type Outcome = 'progress' | 'stalled';

export class Engine {
  readonly counters: EngineCounters;
  readonly #opcodes: ReadonlySet<number>;
  readonly #dma: DeviceDma;
  readonly #spaces: GpuAddressSpaces;
  readonly #work: Workspace;
  readonly #events: EngineEvents;
  readonly #entry = new Uint8Array(COMMAND_BYTES);
  readonly #entryView = new DataView(this.#entry.buffer);
  #current: Command | undefined;
  #head = 0;
  #ended = false;
  #hung = false;
  /** The command is a wait whose fence has not been reached. */
  #waiting = false;
  /** The fence is to be rechecked. */
  #mayPoll = false;
  /** Engine time, ns, that one command may use. */
  hangLimitNs = HANG_LIMIT_US * 1000;

  constructor({ name, dma, spaces, vram, counters }: EngineContext, events: EngineEvents) {
    this.counters = counters;
    this.#opcodes = new Set(GPU_ENGINES[name].opcodes);
    this.#dma = dma;
    this.#spaces = spaces;
    const pages = new PageAccess(dma, vram, (va, iova) => {
      spaces.lastFault = { va, iova };
    });
    this.#work = new Workspace(spaces, pages, counters);
    this.#events = events;
  }

  /** Index of the next entry to fetch. */
  get head(): number {
    return this.#head;
  }

  /** Returns true if a command is half done or queued in the ring, and none hangs or waits for a fence. */
  hasWork(tail: number): boolean {
    return !this.#hung && !this.#waiting && (this.#current !== undefined || this.#head !== tail);
  }

  /** True while the command waits for a fence. */
  get waiting(): boolean {
    return this.#waiting;
  }

  /** Schedules a recheck of the fence, if the command waits for one. */
  recheckFences(): void {
    this.#mayPoll = this.#waiting;
  }

  /** Engine time of the last step, ns, and whether a command ended in it. */
  get lastStep(): { readonly costNs: number; readonly ended: boolean } {
    return { costNs: this.#work.costNs, ended: this.#ended };
  }

  /** True if a command was stopped because it exceeded its limit of engine time. */
  get hung(): boolean {
    return this.#hung;
  }

  /** Ends the running command, if there is one. The next step writes its completion. */
  endCommand(): void {
    this.#hung = false;
    this.#endWait();
    if (this.#current) this.#current.status ??= CompletionStatus.hung;
  }

  reset(): void {
    this.#hung = false;
    this.#endWait();
    this.#current = undefined;
    this.#head = 0;
  }

  /** Returns the position in the ring and the running command. The hang limit is in a register. */
  save(): StateValues {
    return { head: this.#head, hung: this.#hung, looks: this.#mayPoll, ...saveCommand(this.#current) };
  }

  /** @throws StateError */
  restore(state: StateReader): void {
    this.#head = state.integer('head', RING_ENTRIES_MAX - 1);
    this.#hung = state.boolean('hung');
    const command = restoreCommand(state);
    if (command && command.status === undefined && !this.#opcodes.has(command.opcode))
      throw state.error('command.opcode', `is ${command.opcode}; accepted: ${[...this.#opcodes].join(', ')}`);
    this.#current = command;
    this.#waiting = isWait(command);
    this.#mayPoll = this.#waiting && state.boolean('looks');
  }

  /** Does one bounded piece of work towards `tail`. */
  step(ring: RingSetup, tail: number): StepResult {
    this.#work.costNs = 0;
    this.#ended = false;
    if (!this.hasWork(tail)) return 'idle';
    this.#spaces.reserve(2 * STEP_PAGES);
    const outcome = this.#current ? this.#advance(this.#current, ring) : this.#fetch(ring);
    if (outcome === 'stalled') return 'stalled';
    return this.hasWork(tail) ? 'more' : 'idle';
  }

  /** Polls the fence, if a recheck is scheduled. This costs no engine time. */
  pollFence(): Outcome {
    const command = this.#current;
    if (!this.#mayPoll || !command) return 'progress';
    this.#spaces.reserve(1);
    const status = readFence(this.#work, command);
    if (status === DMA_RETRY) return 'stalled';
    this.#mayPoll = false;
    const word = this.#work.word.getUint32(0, true);
    if (status === DMA_FAULT) this.#fail(command);
    else if (fencePassed(word, command.value)) {
      command.crc = word;
      command.status = CompletionStatus.ok;
    }
    this.#waiting = command.status === undefined;
    return 'progress';
  }

  #endWait(): void {
    this.#waiting = false;
    this.#mayPoll = false;
  }

  /** Called before each piece of a command. A faulty variant overrides it. */
  protected beforePiece(_done: number): void {}

  #fetch(ring: RingSetup): Outcome {
    const status = this.#dma.read((ring.base + this.#head * COMMAND_BYTES) as Iova, this.#entry);
    if (status === DMA_RETRY) return 'stalled';
    if (status === DMA_FAULT) {
      this.#events.halted();
      return 'progress';
    }
    this.#work.costNs += COMMAND_NS;
    const command = parseCommand(this.#entryView);
    const runs = this.#opcodes.has(command.opcode);
    if (!runs || !isValid(command, this.#spaces.limit(command.context)))
      command.status = CompletionStatus.badCommand;
    else if (command.opcode === Opcode.nop || command.length === 0) command.status = CompletionStatus.ok;
    else if (command.opcode === Opcode.compute) command.crc = KERNELS[command.value]?.start ?? 0;
    this.#current = command;
    this.#waiting = isWait(command);
    this.#mayPoll = this.#waiting;
    return 'progress';
  }

  #advance(command: Command, ring: RingSetup): Outcome {
    const work = this.#work;
    const operation = OPERATIONS[command.opcode];
    work.piecesLeft = STEP_PAGES;
    for (; operation && command.status === undefined && work.piecesLeft > 0; work.piecesLeft--) {
      this.beforePiece(command.done);
      const status = operation.piece(work, command);
      if (status === DMA_RETRY) return 'stalled';
      if (status === DMA_FAULT) {
        this.#fail(command);
        break;
      }
      if (command.done === command.length) command.status = CompletionStatus.ok;
    }
    if (command.status !== undefined) return this.#complete(command, command.status, ring);
    this.#checkHang(command);
    return 'progress';
  }

  #fail(command: Command): void {
    command.status = CompletionStatus.fault;
    const { va, iova } = this.#spaces.lastFault;
    this.#events.faulted(command.context, va, iova);
  }

  /** Stops a command that has exceeded its limit of engine time, and reports the hang. */
  #checkHang(command: Command): void {
    command.spentNs += this.#work.costNs;
    if (command.spentNs <= this.hangLimitNs) return;
    this.#hung = true;
    this.#events.hung();
  }

  #complete(command: Command, status: number, ring: RingSetup): Outcome {
    const record = ring.completions + this.#head * COMPLETION_BYTES;
    // The end of a section orders the first half before the second: a guest that reads the sequence also finds the
    // rest.
    let written = this.#dma.write64(record as Iova, status, command.crc);
    if (written === DMA_OK) written = this.#dma.write64((record + 8) as Iova, 0, command.sequence);
    if (written === DMA_RETRY) return 'stalled';
    if (written === DMA_FAULT) {
      this.#events.halted();
      return 'progress';
    }
    this.#current = undefined;
    this.#head = (this.#head + 1) % ring.entries;
    this.counters.commands++;
    this.#ended = true;
    this.#events.completed(this.#head);
    return 'progress';
  }
}
