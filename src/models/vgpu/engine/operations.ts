/**
 * The operations of the command engines: one object per opcode.
 */

import { COMMAND_LENGTH_LIMIT, FENCE_BYTES, gpuPageBytes, Kernel, Opcode } from '../../../abi/vgpu/vgpu.ts';
import { DMA_OK, type DmaStatus } from '../../../device/dma.ts';
import {
  CHECKSUM_NS_PER_BYTE,
  COPY_NS_PER_BYTE,
  FILL_NS_PER_BYTE,
  PTE_NS,
  SPIN_NS,
} from '../../../gpu/cost.ts';
import { PAGE_SIZE, PERM_READ, PERM_WRITE } from '../../../memory/address.ts';
import type { GpuAddressSpaces } from '../mmu/address-spaces.ts';
import type { CopyEnds, PageAccess } from '../mmu/page-access.ts';
import type { ShadowEntry } from '../mmu/shadow-entries.ts';
import type { ShadowPageTable } from '../mmu/shadow-page-table.ts';
import type { Command } from './command.ts';
import type { EngineCounters } from './engine-context.ts';
import { KERNELS } from './kernels.ts';

/** The part of an engine that operations work with. */
export class Workspace {
  readonly spaces: GpuAddressSpaces;
  readonly pages: PageAccess;
  readonly counters: EngineCounters;
  /** Engine time of the step so far, ns. */
  costNs = 0;
  /** Pieces that the step may still do. A piece that replaces several reduces it. */
  piecesLeft = 0;
  /** The word of the fence that was read or written last. */
  readonly word = new DataView(new ArrayBuffer(FENCE_BYTES));
  readonly wordBytes = new Uint8Array(this.word.buffer);
  /** Operands of a kernel. */
  readonly x = new Uint8Array(PAGE_SIZE);
  readonly y = new Uint8Array(PAGE_SIZE);

  constructor(spaces: GpuAddressSpaces, pages: PageAccess, counters: EngineCounters) {
    this.spaces = spaces;
    this.pages = pages;
    this.counters = counters;
  }
}

interface Operation {
  /** Returns the size in bytes that every piece is a multiple of. */
  unit(value: number): number;
  /** Returns true if the operands are valid in a context whose addresses end at `limit`. */
  valid(command: Command, limit: number): boolean;
  /** Does one piece of the command and advances its `done`. */
  piece(work: Workspace, command: Command): DmaStatus;
}

/** Returns the count of bytes from `va` to the end of its page. */
const room = (va: number): number => PAGE_SIZE - (va % PAGE_SIZE);

/** Stands for the piece of an operation that has none: a `nop` ends at once, and a `wait` polls its fence. */
const noPiece = (_work: Workspace, { opcode }: Command): DmaStatus => {
  throw new Error(`a command with opcode ${opcode} has no pieces`);
};

const nop: Operation = { unit: () => 1, valid: () => true, piece: noPiece };

const fill: Operation = {
  unit: () => 4,
  valid: ({ target, length }, limit) => target + length <= limit && target % 4 === 0 && length % 4 === 0,
  piece(work, command) {
    const target = command.target + command.done;
    const page = work.spaces.translate(command.context, target, PERM_WRITE);
    if (typeof page === 'number') return page;
    const length = Math.min(command.length - command.done, room(target));
    const status = work.pages.fill(page, target, length, command.value);
    if (status !== DMA_OK) return status;
    work.counters.bytesFilled += length;
    work.costNs += length * FILL_NS_PER_BYTE;
    command.done += length;
    return DMA_OK;
  },
};

const copy: Operation = {
  unit: () => 1,
  valid: ({ target, source, length }, limit) => target + length <= limit && source + length <= limit,
  piece(work, command) {
    const { context } = command;
    const target = command.target + command.done;
    const source = command.source + command.done;
    // The target first: if both are one page, raising its permission pins the page again, maybe elsewhere.
    const to = work.spaces.translate(context, target, PERM_WRITE);
    if (typeof to === 'number') return to;
    const from = work.spaces.translate(context, source, PERM_READ);
    if (typeof from === 'number') return from;
    const ends: CopyEnds = { target, to, source, from };
    const length = runLength(work, context, ends, command.length - command.done);
    const status = work.pages.copy(ends, length);
    if (status !== DMA_OK) return status;
    work.counters.bytesCopied += length;
    work.costNs += length * COPY_NS_PER_BYTE;
    command.done += length;
    return DMA_OK;
  },
};

/**
 * Returns the count of bytes to copy at once: the first piece, and the following pieces whose pages are already
 * shadowed and adjacent in host memory. A piece ends at the first page boundary of source or target.
 *
 * A run counts as many pieces as it replaces, so that a step ends where it would end without runs. Pieces that
 * overlap are copied one by one, because their order is visible.
 */
function runLength(work: Workspace, context: number, ends: CopyEnds, left: number): number {
  const { target, to, source, from } = ends;
  let length = Math.min(left, room(target), room(source));
  if (to.memory !== 'ram' || from.memory !== 'ram' || length === left) return length;
  const apart = Math.abs(to.pfn - from.pfn) * PAGE_SIZE - PAGE_SIZE;
  const shadow = work.spaces.shadowOf(context);
  while (shadow && work.piecesLeft > 1 && length < left) {
    const [nextTarget, nextSource] = [target + length, source + length];
    const piece = Math.min(left - length, room(nextTarget), room(nextSource));
    if (length + piece > apart) break;
    if (!follows(shadow, to.pfn, target, nextTarget, PERM_WRITE)) break;
    if (!follows(shadow, from.pfn, source, nextSource, PERM_READ)) break;
    length += piece;
    work.piecesLeft--;
  }
  return length;
}

/** Returns true if the page of `va` continues the run that began at `start` in host page `pfn`. */
function follows(shadow: ShadowPageTable, pfn: number, start: number, va: number, perm: number): boolean {
  const pages = Math.floor(va / PAGE_SIZE) - Math.floor(start / PAGE_SIZE);
  if (pages === 0) return true;
  const entry = shadow.peek(va, perm);
  return entry?.memory === 'ram' && entry.pfn === pfn + pages;
}

const checksum: Operation = {
  unit: () => 1,
  valid: ({ source, length }, limit) => source + length <= limit,
  piece(work, command) {
    const source = command.source + command.done;
    const page = work.spaces.translate(command.context, source, PERM_READ);
    if (typeof page === 'number') return page;
    const length = Math.min(command.length - command.done, room(source));
    const crc = work.pages.crc32(page, source, length, command.crc);
    if (crc < 0) return -crc as DmaStatus;
    command.crc = crc;
    work.counters.bytesSummed += length;
    work.costNs += length * CHECKSUM_NS_PER_BYTE;
    command.done += length;
    return DMA_OK;
  },
};

const updatePtes: Operation = {
  unit: gpuPageBytes,
  valid({ target, source, length, value }, limit) {
    const page = gpuPageBytes(value);
    return target + length <= limit && target % page === 0 && source % page === 0 && length % page === 0;
  },
  piece(work, command) {
    const { context, target, source, done, value } = command;
    const bytes = gpuPageBytes(value);
    const status = work.spaces.update(context, target + done, source + done, value, bytes);
    work.costNs += PTE_NS;
    if (status === DMA_OK) command.done += bytes;
    return status;
  },
};

/** Kernels work on copies that short DMA reads, and short DMA writes their result back. */
const compute: Operation = {
  unit: (value) => KERNELS[value]?.alignment ?? 1,
  valid({ target, source, length, value }, limit) {
    const { alignment, writes } = KERNELS[value] ?? { alignment: 1, writes: false };
    const isKernel = value === Kernel.spin || KERNELS[value] !== undefined;
    const aligned = [source, length, writes ? target : 0].every((each) => each % alignment === 0);
    return isKernel && aligned && source + length <= limit && (target + length <= limit || !writes);
  },
  piece(work, command) {
    const kernel = KERNELS[command.value];
    if (!kernel) {
      work.costNs += SPIN_NS;
      return DMA_OK;
    }
    const { context, scalar } = command;
    const target = command.target + command.done;
    const source = command.source + command.done;
    let to: ShadowEntry | undefined;
    if (kernel.writes) {
      const page = work.spaces.translate(context, target, PERM_WRITE);
      if (typeof page === 'number') return page;
      to = page;
    }
    const from = work.spaces.translate(context, source, PERM_READ);
    if (typeof from === 'number') return from;
    const targetRoom = to ? room(target) : PAGE_SIZE;
    const length = Math.min(command.length - command.done, room(source), targetRoom);
    const [x, y] = [work.x.subarray(0, length), work.y.subarray(0, length)];
    let status = work.pages.load(from, source, x);
    if (status === DMA_OK && to) status = work.pages.load(to, target, y);
    if (status !== DMA_OK) return status;
    const result = kernel.run({ x, y, scalar, result: command.crc });
    if (to) status = work.pages.store(to, target, y);
    if (status !== DMA_OK) return status;
    command.crc = result;
    work.costNs += length * kernel.nsPerByte;
    work.counters.bytesComputed += length;
    command.done += length;
    return DMA_OK;
  },
};

/** The word is written by short DMA, whose section orders it after everything done before, as it does a completion. */
const signal: Operation = {
  unit: () => FENCE_BYTES,
  valid: ({ target, length }, limit) => target + length <= limit && target % FENCE_BYTES === 0,
  piece(work, command) {
    const { context, target, value } = command;
    const page = work.spaces.translate(context, target + command.done, PERM_WRITE);
    if (typeof page === 'number') return page;
    work.word.setUint32(0, value, true);
    const status = work.pages.store(page, target + command.done, work.wordBytes);
    if (status === DMA_OK) command.done += FENCE_BYTES;
    return status;
  },
};

const wait: Operation = {
  unit: () => FENCE_BYTES,
  valid: ({ source, length }, limit) => source + length <= limit && source % FENCE_BYTES === 0,
  piece: noPiece,
};

/** Reads the word of a wait's fence into `work.word`. */
export function readFence(work: Workspace, { context, source }: Command): DmaStatus {
  const page = work.spaces.translate(context, source, PERM_READ);
  return typeof page === 'number' ? page : work.pages.load(page, source, work.wordBytes);
}

/** By opcode. */
export const OPERATIONS: Readonly<Record<number, Operation>> = {
  [Opcode.nop]: nop,
  [Opcode.fill]: fill,
  [Opcode.copy]: copy,
  [Opcode.checksum]: checksum,
  [Opcode.updatePtes]: updatePtes,
  [Opcode.compute]: compute,
  [Opcode.signal]: signal,
  [Opcode.wait]: wait,
};

/** `limit` is the first address beyond the command's context; 0 if there is no such context. */
export function isValid(command: Command, limit: number): boolean {
  if (command.opcode === Opcode.nop) return true;
  if (command.length > COMMAND_LENGTH_LIMIT || limit === 0) return false;
  return OPERATIONS[command.opcode]?.valid(command, limit) ?? false;
}
