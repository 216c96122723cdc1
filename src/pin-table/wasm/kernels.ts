/**
 * Loader of the WebAssembly kernels in kernel-code.ts, and allocator of the tables they work on.
 *
 * A module works on one imported memory, so each table has its own shared WebAssembly.Memory. Its buffer is an ordinary
 * SharedArrayBuffer for all other code. Each memory reserves 8 GiB of address space and two memory maps, and commits
 * only touched pages (measured: 8192 memories in one process, 5 KiB each).
 *
 * If the address space is too small or limited, the table is a plain SharedArrayBuffer, and its readers use the
 * JavaScript kernels. So does a reader that gets only the buffer, as in tests that schedule every step.
 */
import { kernelBytes } from './kernel-code.ts';

const WASM_PAGE = 65536;

declare const opaque: unique symbol;
/** A compiled module. Other threads receive it compiled. */
interface WasmModule {
  readonly [opaque]: 'module';
}
/** A shared memory. Other threads receive the same bytes, not a copy. */
interface WasmMemory {
  readonly buffer: SharedArrayBuffer;
  grow(pages: number): number;
}
/** The used part of the WebAssembly API. TypeScript declares it only in its `dom` library. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array<ArrayBuffer>) => WasmModule;
  readonly Memory: new (size: { initial: number; maximum: number; shared: true }) => WasmMemory;
  readonly Instance: new (
    module: WasmModule,
    imports: { readonly env: { readonly memory: WasmMemory } },
  ) => { readonly exports: unknown };
};

/** The data that another thread needs to read a table. */
export interface PinTableHandle {
  readonly sab: SharedArrayBuffer;
  /** The memory whose buffer is `sab`, and the compiled kernels; absent in a plain table. */
  readonly wasm?: { readonly memory: WasmMemory; readonly module: WasmModule };
}

/**
 * The kernels bound to one table; protocol.ts and pin-counts.ts describe them. An IOVA is below 2^48 and split: `gib`
 * is IOVA >> 30, `low` its low 32 bits. `epoch` is the byte address of the reader's epoch word.
 */
export interface PinKernels {
  /** Returns the host PFN, PIN_UNMAPPED or PIN_DENIED. */
  pin(gib: number, low: number, perm: number, epoch: number): number;
  /** Returns 1, or 0 if nothing is mapped there. */
  unpin(gib: number, low: number, epoch: number): number;
  /** Returns the count of pages pinned before the first that cannot be. The run stays in its GiB. */
  pinRun(gib: number, low: number, count: number, perm: number, epoch: number): number;
  /** Returns the count of pages unpinned before the first that is not mapped. The run stays in its GiB. */
  unpinRun(gib: number, low: number, count: number, epoch: number): number;
  /** Replaces `count` page numbers at the byte address `list` by the leaf words of their pages. */
  lookupList(list: number, count: number): void;
  /** Writes leaves of consecutive frames and their pin words, as `leavesFill`. `entry` is a byte address. */
  fillLeaves(entry: number, count: number, frame: number): void;
  /** Takes the generation last read; returns the section's generation. */
  enter(epoch: number, generation: number): number;
  exit(epoch: number): void;
}

let compiled: WasmModule | undefined;

/** Returns the compiled module. Each thread that allocates tables compiles it once; readers receive it. */
function kernelModule(): WasmModule {
  compiled ??= new WebAssembly.Module(kernelBytes());
  return compiled;
}

/**
 * Allocates a table of at least `bytes` zeros. V8 counts the first size of a memory, not its growth, as memory in use: a
 * table of 1 GiB that is allocated at once costs a garbage collection (1.2 ms instead of 0.15 ms).
 */
export function allocateTable(bytes: number): PinTableHandle {
  const pages = Math.ceil(bytes / WASM_PAGE);
  try {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: pages, shared: true });
    memory.grow(pages - 1);
    return { sab: memory.buffer, wasm: { memory, module: kernelModule() } };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { sab: new SharedArrayBuffer(bytes) };
  }
}

/** Binds the kernels to a table. Returns undefined for a plain one. */
export function bindKernels({ wasm }: PinTableHandle): PinKernels | undefined {
  if (!wasm) return undefined;
  return new WebAssembly.Instance(wasm.module, { env: { memory: wasm.memory } }).exports as PinKernels;
}
