/**
 * Workload of the shadow page tables: GPU page table entries that change under a busy GPU.
 */
import { Opcode } from '../../abi/vgpu/vgpu.ts';
import { entryFlags } from '../../guest/gpu/context.ts';
import { type Gpa, type Iova, PAGE_SIZE } from '../../memory/address.ts';
import { BUFFER_BYTES, BUFFER_PAGES } from '../buffers.ts';
import type { IterationContext } from '../guest/iteration.ts';
import { run } from './engine.ts';

const WRITABLE = entryFlags({});

/**
 * Maps the source and then the target at the same GPU addresses, and fills each: a stale shadow entry would write to the
 * other buffer.
 */
export async function shadowStorm(context: IterationContext): Promise<void> {
  const { buffer, gpu } = context;
  const { scratchVa: va, source, target, iovas } = buffer;
  await gpu.driver.map(va, iovas.slice(0, BUFFER_PAGES));
  const first = await fillAt(context, va);
  check(context, source, first, 'fill after a map by the CPU');
  await Promise.all(
    iovas.slice(BUFFER_PAGES).map((iova, i) => mapByEngine(context, va + i * PAGE_SIZE, iova)),
  );
  const second = await fillAt(context, va);
  check(context, target, second, 'fill after a map by the engine');
  check(context, source, first, 'buffer that is no longer mapped');
}

const mapByEngine = (context: IterationContext, target: number, source: Iova) =>
  run(context, { opcode: Opcode.updatePtes, target, source, length: PAGE_SIZE, value: WRITABLE });

async function fillAt(context: IterationContext, target: number): Promise<number> {
  const value = context.prng.next32();
  await run(context, { opcode: Opcode.fill, target, length: BUFFER_BYTES, value });
  return value;
}

function check(context: IterationContext, pages: readonly Gpa[], value: number, what: string): void {
  if (!context.verified) return;
  context.buffer.words.fill(value);
  context.checkPages(pages, context.buffer.bytes, what);
}
