/**
 * Workloads of the engines: fill, copy, checksum and compute, on the VU's own buffers.
 */
import { crc32 } from 'node:zlib';
import { CompletionStatus, Kernel, Opcode } from '../../abi/vgpu/vgpu.ts';
import type { GpuCommand, GpuCompletion } from '../../guest/gpu/ring.ts';
import { type Gpa, PAGE_SIZE } from '../../memory/address.ts';
import { BUFFER_BYTES } from '../buffers.ts';
import type { IterationContext } from '../guest/iteration.ts';

/** Floats of one page. */
const FLOATS = PAGE_SIZE / 4;
/** Scalars are multiples of 1/8 below this, so that single precision holds the products exactly. */
const SCALARS = 64;

/** Submits a command and expects it to succeed. */
export const run = (context: IterationContext, command: GpuCommand): Promise<GpuCompletion> =>
  context.submit(command, CompletionStatus.ok);

export async function fill(context: IterationContext): Promise<void> {
  const { buffer, prng } = context;
  const value = prng.next32();
  await run(context, { opcode: Opcode.fill, target: buffer.va, length: BUFFER_BYTES, value });
  if (context.verified) buffer.words.fill(value);
  context.checkPages(buffer.source, buffer.bytes, 'fill');
}

export async function copy(context: IterationContext): Promise<void> {
  const { buffer } = context;
  writeSource(context);
  await run(context, {
    opcode: Opcode.copy,
    source: buffer.va,
    target: buffer.va + BUFFER_BYTES,
    length: BUFFER_BYTES,
  });
  context.checkPages(buffer.target, buffer.bytes, 'copy');
}

export async function checksum(context: IterationContext): Promise<void> {
  const { buffer } = context;
  writeSource(context);
  const { result } = await run(context, { opcode: Opcode.checksum, source: buffer.va, length: BUFFER_BYTES });
  if (!context.verified) return;
  const expected = crc32(buffer.bytes);
  context.check(result === expected, () => `checksum ${result}, expected ${expected}`);
}

/** y = a·x + y on one page of floats. */
export async function compute(context: IterationContext): Promise<void> {
  const { buffer, prng, vm } = context;
  const [x, y] = [new Float32Array(buffer.bytes.buffer, 0, FLOATS), new Float32Array(FLOATS)];
  const [first, scalar] = [prng.below(2 ** 16), prng.below(SCALARS) / 8];
  for (let i = 0; i < FLOATS; i++) {
    x[i] = first + i;
    y[i] = i;
  }
  vm.ram.write(buffer.source[0] as Gpa, buffer.bytes.subarray(0, PAGE_SIZE));
  vm.ram.write(buffer.target[0] as Gpa, new Uint8Array(y.buffer));
  await run(context, {
    opcode: Opcode.compute,
    value: Kernel.saxpy,
    source: buffer.va,
    target: buffer.va + BUFFER_BYTES,
    length: PAGE_SIZE,
    scalar,
  });
  if (!context.verified) return;
  for (let i = 0; i < FLOATS; i++) y[i] = scalar * (x[i] as number) + (y[i] as number);
  context.checkPages([buffer.target[0] as Gpa], new Uint8Array(y.buffer), 'compute');
}

/** Writes new words to the source; the guest keeps them as the expected bytes. */
function writeSource({ buffer, prng, vm }: IterationContext): void {
  const { words, bytes, source } = buffer;
  const value = prng.next32();
  for (let i = 0; i < words.length; i++) words[i] = value + i;
  for (const [i, page] of source.entries())
    vm.ram.write(page, bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE));
}
