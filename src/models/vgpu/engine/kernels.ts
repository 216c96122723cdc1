/**
 * The compute engine's kernels. Each works on one piece of its buffers, without addresses.
 */
import { Kernel } from '../../../abi/vgpu/vgpu.ts';

/** A piece within a page. `x` is read; `y` is read and written by kernels that write. */
interface KernelPiece {
  readonly x: Uint8Array;
  readonly y: Uint8Array;
  readonly scalar: number;
  /** The result of the previous pieces. */
  readonly result: number;
}

interface ComputeKernel {
  /** True if it writes to the target. It reads as many bytes there as from the source. */
  readonly writes: boolean;
  /** Sources, targets and lengths are multiples of this. */
  readonly alignment: number;
  readonly nsPerByte: number;
  /** The result before the first piece. */
  readonly start: number;
  /** Works on one piece. Returns the result so far, 32 bits. */
  run(piece: KernelPiece): number;
}

const FNV_OFFSET = 0x811c_9dc5;
const FNV_PRIME = 0x0100_0193;

/** y = a x + y in single precision. */
const saxpy: ComputeKernel = {
  writes: true,
  alignment: 4,
  nsPerByte: 1 / 4,
  start: 0,
  run: ({ x, y, scalar, result }) => {
    const [from, to] = [viewOf(x), viewOf(y)];
    for (let at = 0; at < x.length; at += 4)
      to.setFloat32(at, scalar * from.getFloat32(at, true) + to.getFloat32(at, true), true);
    return result;
  },
};

/** The sum of 32-bit words modulo 2^32. */
const sum: ComputeKernel = {
  writes: false,
  alignment: 4,
  nsPerByte: 1 / 8,
  start: 0,
  run: ({ x, result }) => {
    const words = viewOf(x);
    let total = result;
    for (let at = 0; at < x.length; at += 4) total = (total + words.getUint32(at, true)) | 0;
    return total >>> 0;
  },
};

/** FNV-1a of 32 bits (draft-eastlake-fnv). */
const fnv1a: ComputeKernel = {
  writes: false,
  alignment: 1,
  nsPerByte: 1,
  start: FNV_OFFSET,
  run: ({ x, result }) => {
    let hash = result;
    for (const byte of x) hash = Math.imul(hash ^ byte, FNV_PRIME);
    return hash >>> 0;
  },
};

const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** By number. `spin` is absent, because it computes nothing. */
export const KERNELS: Readonly<Record<number, ComputeKernel>> = {
  [Kernel.saxpy]: saxpy,
  [Kernel.sum]: sum,
  [Kernel.fnv1a]: fnv1a,
};
