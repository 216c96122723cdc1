/**
 * Plan of a random vector: actions that can be left out one by one, and their translation to steps. The translation
 * computes the positions in the invalidation queue and the bits that every global command repeats. Each change of a table
 * includes its invalidation. So a shortened plan is valid, too.
 */
import type { VtdStep, VtdVector } from '../../src/conformance/vtd/vectors.ts';

export type Flush =
  | { readonly kind: 'context'; readonly granularity: 1 | 2 | 3; readonly did: number; readonly sid: number }
  | {
      readonly kind: 'iotlb';
      readonly granularity: 1 | 2 | 3;
      readonly did: number;
      readonly page: bigint;
      readonly am: number;
    };

/** Part of a DMA within one 4 KiB page. `gpa` is its target if it is not blocked. */
export interface DmaPart {
  readonly iova: bigint;
  readonly len: number;
  readonly gpa: number;
}

export type Action =
  | { readonly kind: 'tables'; readonly writes: readonly TableWrite[]; readonly flushes: readonly Flush[] }
  | {
      readonly kind: 'dma';
      readonly dev: number;
      readonly write: boolean;
      readonly parts: readonly DmaPart[];
      /** Bytes of a write, or the contents of memory before a read. No byte is zero. */
      readonly data: string;
    }
  | { readonly kind: 'translation'; readonly on: boolean }
  | { readonly kind: 'root'; readonly table: number }
  | { readonly kind: 'wait'; readonly data: number; readonly interrupt: boolean }
  | { readonly kind: 'descriptor'; readonly low: bigint; readonly high: bigint }
  | { readonly kind: 'register-write'; readonly off: number; readonly size: 4 | 8; readonly value: bigint }
  | { readonly kind: 'register-read'; readonly off: number; readonly size: 4 | 8 };

export interface TableWrite {
  readonly gpa: number;
  readonly words: readonly bigint[];
}

export interface Plan {
  readonly name: string;
  readonly seed: number;
  readonly iommu: VtdVector['iommu'];
  readonly devices: readonly { readonly bdf: string }[];
  /** True if invalidations use the queue, false if they use registers. */
  readonly queued: boolean;
  readonly actions: readonly Action[];
}

/** Step without the answers of the recorded machine. `probes` of a DMA locate its outcome in memory. */
export type OpenStep = VtdStep & { readonly probes?: readonly DmaPart[] };

/** Page of the queue: 256 descriptors of 128 bits. */
export const QUEUE_PAGE = 0x100a000;
const QUEUE_BYTES = 0x1000;
/** Page that wait descriptors write to. */
const STATUS_PAGE = 0x100b000;

const GCMD = '0x18';
const TE = 0x80000000;
const SRTP = 0x40000000;
const QIE = 0x04000000;
const DESCRIPTOR_BYTES = 16;

const hexOf = (value: number | bigint): string => `0x${value.toString(16)}`;

/** Returns the little-endian bytes as hex. */
function wordsHex(words: readonly bigint[]): string {
  const bytes = Buffer.alloc(words.length * 8);
  for (const [index, word] of words.entries()) bytes.writeBigUInt64LE(word, index * 8);
  return bytes.toString('hex');
}

/** Returns the plan's steps. The recording on the real machine adds the expected values. */
export function assemble(plan: Plan): OpenStep[] {
  return new Assembly(plan.queued).run(plan.actions);
}

class Assembly {
  readonly #queued: boolean;
  readonly #steps: OpenStep[] = [];
  #tail = 0;
  #translating = false;

  constructor(queued: boolean) {
    this.#queued = queued;
  }

  run(actions: readonly Action[]): OpenStep[] {
    if (this.#queued) {
      this.#write(0x88, 8, 0n);
      this.#write(0x90, 8, BigInt(QUEUE_PAGE));
      this.#command(0);
    }
    for (const action of actions) this.#act(action);
    return this.#steps;
  }

  #act(action: Action): void {
    switch (action.kind) {
      case 'tables':
        for (const { gpa, words } of action.writes)
          this.#steps.push({ op: 'mem_write', gpa: hexOf(gpa), data: wordsHex(words) });
        for (const flush of action.flushes) this.#flush(flush);
        return;
      case 'dma':
        this.#dma(action);
        return;
      case 'translation':
        this.#translating = action.on;
        this.#command(0);
        this.#read(0x1c, 4);
        return;
      case 'root':
        this.#write(0x20, 8, BigInt(action.table));
        this.#command(SRTP);
        return;
      case 'wait': {
        // Never both flags at once; see versions.ts.
        if (action.interrupt) this.#descriptor(0x15n, 0n);
        else this.#descriptor(0x25n | (BigInt(action.data) << 32n), BigInt(STATUS_PAGE));
        if (!this.#queued) return;
        this.#steps.push({ op: 'mem_read', gpa: hexOf(STATUS_PAGE), len: 4, expect: '' });
        this.#read(0x80, 8);
        this.#read(0x9c, 4);
        return;
      }
      case 'descriptor':
        this.#descriptor(action.low, action.high);
        for (const off of [0x80, 0x88]) this.#read(off, 8);
        this.#read(0x34, 4);
        return;
      case 'register-write':
        this.#write(action.off, action.size, action.value);
        return;
      case 'register-read':
        this.#read(action.off, action.size);
    }
  }

  /** Puts the bytes of a read, or zeros for a write, into memory; then runs the DMA and reads the fault registers. */
  #dma({ dev, write, parts, data }: Extract<Action, { kind: 'dma' }>): void {
    let at = 0;
    for (const part of parts) {
      const bytes = write ? '00'.repeat(part.len) : data.slice(at * 2, (at + part.len) * 2);
      this.#steps.push({ op: 'mem_write', gpa: hexOf(part.gpa), data: bytes });
      at += part.len;
    }
    const common = { dev, iova: hexOf(parts[0]?.iova ?? 0n), len: at, expect: 'ok' as const, probes: parts };
    this.#steps.push(write ? { op: 'dma_write', ...common, data } : { op: 'dma_read', ...common });
    if (write)
      for (const { gpa, len } of parts)
        this.#steps.push({ op: 'mem_read', gpa: hexOf(gpa), len, expect: '' });
    this.#read(0x34, 4);
    this.#read(0x220, 8);
    this.#read(0x228, 8);
  }

  #flush(flush: Flush): void {
    const { granularity, did } = flush;
    if (flush.kind === 'context') {
      if (this.#queued)
        this.#descriptor(
          1n | (BigInt(granularity) << 4n) | (BigInt(did) << 16n) | (BigInt(flush.sid) << 32n),
          0n,
        );
      else {
        const command = (1n << 63n) | (BigInt(granularity) << 61n);
        this.#write(0x28, 8, command | (BigInt(flush.sid) << 16n) | BigInt(did));
        this.#read(0x28, 8);
      }
      return;
    }
    const address = flush.page | BigInt(flush.am);
    if (this.#queued) {
      this.#descriptor(2n | (BigInt(granularity) << 4n) | 0xc0n | (BigInt(did) << 16n), address);
      return;
    }
    if (granularity === 3) this.#write(0xf0, 8, address);
    this.#write(0xf8, 8, (1n << 63n) | (BigInt(granularity) << 60n) | (BigInt(did) << 32n));
    this.#read(0xf8, 8);
  }

  #descriptor(low: bigint, high: bigint): void {
    if (!this.#queued) return;
    this.#steps.push({ op: 'mem_write', gpa: hexOf(QUEUE_PAGE + this.#tail), data: wordsHex([low, high]) });
    this.#tail = (this.#tail + DESCRIPTOR_BYTES) % QUEUE_BYTES;
    this.#write(0x88, 8, BigInt(this.#tail));
  }

  #command(once: number): void {
    const held = (this.#translating ? TE : 0) + (this.#queued ? QIE : 0);
    this.#write(Number(GCMD), 4, BigInt(held + once));
  }

  #write(off: number, size: 4 | 8, value: bigint): void {
    this.#steps.push({ op: 'reg_write', off: hexOf(off), size, value: hexOf(value) });
  }

  #read(off: number, size: 4 | 8): void {
    this.#steps.push({ op: 'reg_read', off: hexOf(off), size, expect: '0x0' });
  }
}
