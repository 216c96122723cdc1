/**
 * A command engine: fetches ring entries, runs commands a bounded piece at a time, and writes completions. A command
 * survives a switch of the address space: it stalls, and goes on where it was. A fence that has not been reached is no work:
 * it is looked at when whoever drives the engine says so.
 */

import {
  COMMAND_BYTES,
  COMPLETION_BYTES,
  CompletionStatus,
  FENCE_BYTES,
  fencePassed,
  GPU_ENGINES,
  gpuPageBytes,
  HANG_LIMIT_US,
  Opcode,
  RING_ENTRIES_MAX,
} from '../../../abi/vgpu/vgpu.ts';
import { type DeviceDma, DMA_FAULT, DMA_OK, DMA_RETRY } from '../../../device/dma.ts';
import type { StateReader, StateValues, StepResult } from '../../../device/model.ts';
import {
  CHECKSUM_NS_PER_BYTE,
  COMMAND_NS,
  COPY_NS_PER_BYTE,
  FILL_NS_PER_BYTE,
  PTE_NS,
  SPIN_NS,
} from '../../../gpu/cost.ts';
import { type Iova, PAGE_SIZE, PERM_READ, PERM_WRITE } from '../../../memory/address.ts';
import type { GpuAddressSpaces } from '../mmu/address-spaces.ts';
import { PageAccess } from '../mmu/page-access.ts';
import type { ShadowPageTable } from '../mmu/shadow-page-table.ts';
import { VRAM_PFN } from '../mmu/vram.ts';
import { type Command, isValid, isWait, parseCommand, restoreCommand, saveCommand } from './command.ts';
import type { EngineContext, EngineCounters, EngineEvents, RingSetup } from './engine-context.ts';
import { KERNELS } from './kernels.ts';

/** Pages one step touches at most: about 20 µs of copying. */
export const STEP_PAGES = 16;

type Outcome = 'progress' | 'stalled';

export class Engine {
  readonly counters: EngineCounters;
  readonly #opcodes: ReadonlySet<number>;
  readonly #dma: DeviceDma;
  readonly #spaces: GpuAddressSpaces;
  readonly #pages: PageAccess;
  readonly #events: EngineEvents;
  readonly #entry = new Uint8Array(COMMAND_BYTES);
  readonly #entryView = new DataView(this.#entry.buffer);
  #current: Command | undefined;
  #head = 0;
  /** Pieces that the step still has; what works on several at once takes them from here. */
  #left = 0;
  #costNs = 0;
  #ended = false;
  #hung = false;
  /** The command is a wait whose fence has not been reached; and it has reason to look again. */
  #waiting = false;
  #mayPoll = false;
  readonly #word = new DataView(new ArrayBuffer(FENCE_BYTES));
  readonly #wordBytes = new Uint8Array(this.#word.buffer);
  readonly #x = new Uint8Array(PAGE_SIZE);
  readonly #y = new Uint8Array(PAGE_SIZE);
  /** Engine time, ns, that one command may use. */
  hangLimitNs = HANG_LIMIT_US * 1000;

  constructor({ name, dma, spaces, vram, counters }: EngineContext, events: EngineEvents) {
    this.counters = counters;
    this.#opcodes = new Set(GPU_ENGINES[name].opcodes);
    this.#dma = dma;
    this.#spaces = spaces;
    this.#pages = new PageAccess(dma, spaces, vram);
    this.#events = events;
  }

  /** Index of the next entry to fetch. */
  get head(): number {
    return this.#head;
  }

  /** True if a command is half done, or waits in the ring, and none hangs or waits for a fence. */
  hasWork(tail: number): boolean {
    return !this.#hung && !this.#waiting && (this.#current !== undefined || this.#head !== tail);
  }

  /** True if its command waits for a fence. */
  get waiting(): boolean {
    return this.#waiting;
  }

  /** Something may have reached the fence that it waits for, if it does. */
  recheckFences(): void {
    this.#mayPoll = this.#waiting;
  }

  /** Engine time, ns, of the last step, and whether a command ended in it. */
  get lastStep(): { readonly costNs: number; readonly ended: boolean } {
    return { costNs: this.#costNs, ended: this.#ended };
  }

  /** True if a command was stopped because it did not end. */
  get hung(): boolean {
    return this.#hung;
  }

  /** Ends the command that runs, if there is one; the next step writes its completion. */
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

  /** Where it is in the ring, and in the command that runs. The hang limit is in a register. */
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

  /** One bounded piece of work towards `tail`. */
  step(ring: RingSetup, tail: number): StepResult {
    this.#costNs = 0;
    this.#ended = false;
    if (!this.hasWork(tail)) return 'idle';
    this.#spaces.reserve(2 * STEP_PAGES);
    const outcome = this.#current ? this.#advance(this.#current, ring) : this.#fetch(ring);
    if (outcome === 'stalled') return 'stalled';
    return this.hasWork(tail) ? 'more' : 'idle';
  }

  /** Looks at the fence that it waits for, if there is reason to. No work: it costs no engine time. */
  pollFence(): Outcome {
    const command = this.#current;
    if (!this.#mayPoll || !command) return 'progress';
    this.#spaces.reserve(1);
    const seen = this.#readFence(command);
    if (seen === -DMA_RETRY) return 'stalled';
    this.#mayPoll = false;
    if (seen === -DMA_FAULT) this.#fail(command);
    else if (fencePassed(this.#word.getUint32(0, true), command.value)) {
      command.crc = this.#word.getUint32(0, true);
      command.status = CompletionStatus.ok;
    }
    this.#waiting = command.status === undefined;
    return 'progress';
  }

  #endWait(): void {
    this.#waiting = false;
    this.#mayPoll = false;
  }

  /** Runs once per piece of a command, before it; a faulty model overrides what it does. */
  protected beforePiece(_done: number): void {}

  #fetch(ring: RingSetup): Outcome {
    const status = this.#dma.read((ring.base + this.#head * COMMAND_BYTES) as Iova, this.#entry);
    if (status === DMA_RETRY) return 'stalled';
    if (status === DMA_FAULT) {
      this.#events.halted();
      return 'progress';
    }
    this.#costNs += COMMAND_NS;
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
    for (this.#left = STEP_PAGES; command.status === undefined && this.#left > 0; this.#left--) {
      this.beforePiece(command.done);
      const moved = this.#piece(command);
      if (moved === -DMA_RETRY) return 'stalled';
      if (moved === -DMA_FAULT) {
        this.#fail(command);
        break;
      }
      command.done += moved;
      if (command.done === command.length) command.status = CompletionStatus.ok;
    }
    if (command.status !== undefined) return this.#complete(command, command.status, ring);
    this.#watch(command);
    return 'progress';
  }

  #fail(command: Command): void {
    command.status = CompletionStatus.fault;
    const { va, iova } = this.#spaces.lastFault;
    this.#events.faulted(command.context, va, iova);
  }

  /** A command without an end would keep the engine for ever: it is stopped, and the guest told. */
  #watch(command: Command): void {
    command.spentNs += this.#costNs;
    if (command.spentNs <= this.hangLimitNs) return;
    this.#hung = true;
    this.#events.hung();
  }

  /** Bytes moved, or minus a DMA status. */
  #piece(command: Command): number {
    const target = command.target + command.done;
    const source = command.source + command.done;
    const left = command.length - command.done;
    if (command.opcode === Opcode.fill) return this.#fill(command, target, left);
    if (command.opcode === Opcode.copy) return this.#copy(command, target, source, left);
    if (command.opcode === Opcode.compute) return this.#compute(command, target, source, left);
    if (command.opcode === Opcode.updatePtes) return this.#updatePte(command, target, source);
    if (command.opcode === Opcode.signal) return this.#signal(command, target);
    return this.#checksum(command, source, left);
  }

  #fill({ context, value }: Command, target: number, left: number): number {
    const pfn = this.#spaces.translate(context, target, PERM_WRITE);
    if (pfn < 0) return pfn;
    const length = Math.min(left, PAGE_SIZE - (target % PAGE_SIZE));
    this.#pages.fill(pfn, target, length, value);
    this.counters.bytesFilled += length;
    this.#costNs += length * FILL_NS_PER_BYTE;
    return length;
  }

  #copy({ context }: Command, target: number, source: number, left: number): number {
    // The target first: if both are one page, raising its permission pins it anew, maybe elsewhere.
    const to = this.#spaces.translate(context, target, PERM_WRITE);
    if (to < 0) return to;
    const from = this.#spaces.translate(context, source, PERM_READ);
    if (from < 0) return from;
    const length = this.#runLength({ context, target, source, to, from, left });
    const status = this.#pages.copy(context, to, target, from, source, length);
    if (status !== DMA_OK) return -status;
    this.counters.bytesCopied += length;
    this.#costNs += length * COPY_NS_PER_BYTE;
    return length;
  }

  /**
   * Bytes to copy at once: a piece, which ends with the first page of the two, and those behind it that are shadowed and
   * follow it in host memory. As many pieces as one by one would be, so that a step ends where it would; where source
   * and target touch, one by one, since the order shows.
   */
  #runLength({ context, target, source, to, from, left }: CopyStart): number {
    const room = (at: number) => PAGE_SIZE - (at % PAGE_SIZE);
    let length = Math.min(left, room(target), room(source));
    const apart = Math.abs(to - from) * PAGE_SIZE - PAGE_SIZE;
    if (to >= VRAM_PFN || from >= VRAM_PFN || length === left) return length;
    const shadow = this.#spaces.shadowOf(context);
    while (shadow && this.#left > 1 && length < left) {
      const [nextTarget, nextSource] = [target + length, source + length];
      const piece = Math.min(left - length, room(nextTarget), room(nextSource));
      if (length + piece > apart) break;
      if (!follows(shadow, to, target, nextTarget, PERM_WRITE)) break;
      if (!follows(shadow, from, source, nextSource, PERM_READ)) break;
      length += piece;
      this.#left--;
    }
    return length;
  }

  #checksum(command: Command, source: number, left: number): number {
    const pfn = this.#spaces.translate(command.context, source, PERM_READ);
    if (pfn < 0) return pfn;
    const length = Math.min(left, PAGE_SIZE - (source % PAGE_SIZE));
    command.crc = this.#pages.crc32(pfn, source, length, command.crc);
    this.counters.bytesSummed += length;
    this.#costNs += length * CHECKSUM_NS_PER_BYTE;
    return length;
  }

  /** By short DMA: a kernel works on copies, and writes back what it has computed. */
  #compute(command: Command, target: number, source: number, left: number): number {
    const kernel = KERNELS[command.value];
    if (!kernel) {
      this.#costNs += SPIN_NS;
      return 0;
    }
    const { context, scalar } = command;
    const to = kernel.writes ? this.#spaces.translate(context, target, PERM_WRITE) : 0;
    if (to < 0) return to;
    const from = this.#spaces.translate(context, source, PERM_READ);
    if (from < 0) return from;
    const targetRoom = kernel.writes ? PAGE_SIZE - (target % PAGE_SIZE) : PAGE_SIZE;
    const length = Math.min(left, PAGE_SIZE - (source % PAGE_SIZE), targetRoom);
    const [x, y] = [this.#x.subarray(0, length), this.#y.subarray(0, length)];
    const written = kernel.writes ? { context, va: target, pfn: to } : undefined;
    let status = this.#pages.load({ context, va: source, pfn: from }, x);
    if (status === DMA_OK && written) status = this.#pages.load(written, y);
    if (status !== DMA_OK) return -status;
    const result = kernel.run({ x, y, scalar, result: command.crc });
    if (written) status = this.#pages.store(written, y);
    if (status !== DMA_OK) return -status;
    command.crc = result;
    this.#costNs += length * kernel.nsPerByte;
    this.counters.bytesComputed += length;
    return length;
  }

  #updatePte({ context, value }: Command, target: number, source: number): number {
    const bytes = gpuPageBytes(value);
    const status = this.#spaces.update(context, target, source, value, bytes);
    this.#costNs += PTE_NS;
    return status < 0 ? status : bytes;
  }

  /** By short DMA: its section orders what was done before it before the word, as it does for a completion. */
  #signal({ context, value }: Command, target: number): number {
    const pfn = this.#spaces.translate(context, target, PERM_WRITE);
    if (pfn < 0) return pfn;
    this.#word.setUint32(0, value, true);
    const status = this.#pages.store({ context, va: target, pfn }, this.#wordBytes);
    return status === DMA_OK ? FENCE_BYTES : -status;
  }

  /** Reads the word of a fence; a DMA status, negative. */
  #readFence({ context, source }: Command): number {
    const pfn = this.#spaces.translate(context, source, PERM_READ);
    if (pfn < 0) return pfn;
    return -this.#pages.load({ context, va: source, pfn }, this.#wordBytes);
  }

  #complete(command: Command, status: number, ring: RingSetup): Outcome {
    const record = ring.completions + this.#head * COMPLETION_BYTES;
    // The section's end orders the first half before the second: who sees the sequence sees the rest.
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

/** A copy whose first bytes have been translated: GPU addresses, their pages, bytes left. */
interface CopyStart {
  readonly context: number;
  readonly target: number;
  readonly source: number;
  readonly to: number;
  readonly from: number;
  readonly left: number;
}

/** True if the page of `va` is where a run that began at `start` in page `pfn` goes on in host memory. */
function follows(shadow: ShadowPageTable, pfn: number, start: number, va: number, perm: number): boolean {
  const pages = Math.floor(va / PAGE_SIZE) - Math.floor(start / PAGE_SIZE);
  return pages === 0 || shadow.peek(va, perm) === pfn + pages;
}
