/**
 * Allocator of pin tables in the model: without WebAssembly, so that readers use the JavaScript kernels.
 */
import { memory } from './memory.ts';

export const allocateTable = (bytes: number): { readonly sab: SharedArrayBuffer } => ({
  sab: memory.allocate(bytes),
});

export const bindKernels = (): undefined => undefined;
