/**
 * Loads the WebAssembly kernels of kernels-code.ts, and allocates tables they can work on.
 *
 * A module works on one imported memory, so a table lies in a shared WebAssembly.Memory of its own, whose buffer is
 * an ordinary SharedArrayBuffer for everybody else. Each reserves 8 GiB of address space and two memory maps, and
 * commits what is touched (measured: 8192 of them in one process, 5 KiB each). Where the address space does not
 * suffice, or is limited, the table is a plain SharedArrayBuffer and its readers use the JavaScript kernels; so does
 * a reader that is given the buffer alone, as in a build that schedules every step.
 */
import { kernelBytes } from './kernel-code.ts';

const WASM_PAGE = 65536;

declare const opaque: unique symbol;
/** A compiled module: sent to other threads as it is. */
export interface WasmModule {
  readonly [opaque]: 'module';
}
/** A shared memory: sent to other threads, which then have the same bytes. */
export interface WasmMemory {
  readonly buffer: SharedArrayBuffer;
}
/** The little of the WebAssembly API that is used here; the compiler's own declarations come with the browser's. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array<ArrayBuffer>) => WasmModule;
  readonly Memory: new (size: { initial: number; maximum: number; shared: true }) => WasmMemory;
  readonly Instance: new (
    module: WasmModule,
    imports: { readonly env: { readonly memory: WasmMemory } },
  ) => { readonly exports: unknown };
};

/** What another thread needs to read a table. */
export interface PinTableHandle {
  readonly sab: SharedArrayBuffer;
  /** The memory that `sab` is the buffer of, and the kernels' compiled module; absent in a plain table. */
  readonly wasm?: { readonly memory: WasmMemory; readonly module: WasmModule };
}

/**
 * The kernels bound to one table. Addresses are IOVAs below 2^48, as the number of their GiB and their low 32 bits;
 * `epoch` is the byte address of the reader's epoch word. See protocol.ts and pins.ts for what each does.
 */
export interface PinKernels {
  /** Host PFN, PIN_UNMAPPED or PIN_DENIED. */
  pin(gib: number, low: number, perm: number, epoch: number): number;
  /** 1, or 0 if nothing is mapped there. */
  unpin(gib: number, low: number, epoch: number): number;
  /** Pages pinned, from the first on, until one could not be; the run stays in its GiB. */
  pinRun(gib: number, low: number, count: number, perm: number, epoch: number): number;
  /** Pages unpinned, from the first on, until one was not mapped; the run stays in its GiB. */
  unpinRun(gib: number, low: number, count: number, epoch: number): number;
  /** Takes the generation last seen; returns the one that the section has. */
  enter(epoch: number, generation: number): number;
  exit(epoch: number): void;
}

let compiled: WasmModule | undefined;

/** The compiled module: once per thread that allocates tables; readers are sent it. */
function kernelModule(): WasmModule {
  compiled ??= new WebAssembly.Module(kernelBytes());
  return compiled;
}

/** Shared memory of at least `bytes` zeros. */
export function allocateTable(bytes: number): PinTableHandle {
  const pages = Math.ceil(bytes / WASM_PAGE);
  try {
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    return { sab: memory.buffer, wasm: { memory, module: kernelModule() } };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { sab: new SharedArrayBuffer(bytes) };
  }
}

/** Binds the kernels to a table; undefined for a plain one. */
export function bindKernels({ wasm }: PinTableHandle): PinKernels | undefined {
  if (!wasm) return undefined;
  return new WebAssembly.Instance(wasm.module, { env: { memory: wasm.memory } }).exports as PinKernels;
}
