/**
 * Workload of large pages: 2 MiB that the vIOMMU and the GPU page table map with one entry each.
 */
import { crc32 } from 'node:zlib';
import { Opcode } from '../../abi/vgpu/vgpu.ts';
import type { GuestDomain } from '../../guest/iommu/guest-iommu.ts';
import { filled } from '../../guest/workload.ts';
import { type Gpa, PAGE_2M, PAGE_SIZE, PERM_RW, toIova } from '../../memory/address.ts';
import type { IterationContext } from '../guest/iteration.ts';
import type { BigBuffer } from '../guest/load-gpu.ts';
import { run } from './engine.ts';

/** First GPU address of the context: contexts begin at multiples of 1 GiB. */
const BASE = 2 ** 30;
const HALF = PAGE_2M / 2;

/** Maps 2 MiB, fills the first half, copies it to the second, compares, and unmaps. One at a time on each vGPU. */
export function bigBuffers(iteration: IterationContext): Promise<void> {
  const { load, loadGpu } = iteration;
  return load.translation.runShared(() => loadGpu.bigBuffer.run(() => work(iteration)));
}

async function work(iteration: IterationContext): Promise<void> {
  const { loadGpu } = iteration;
  loadGpu.big ??= await create(iteration);
  const { context, block } = loadGpu.big;
  const domain = iteration.gpu.dma.domain as GuestDomain | undefined;
  const iova = toIova(block);
  if (domain) await iteration.timed('map_latency', 'map-2m', () => domain.map(iova, block, PAGE_2M, PERM_RW));
  try {
    context.write(BASE, iova, PAGE_2M, { pageBytes: PAGE_2M });
    await iteration.gpu.driver.invalidate();
    await fillAndCopy(iteration, context.id, block);
  } finally {
    context.clear(BASE, PAGE_2M);
    if (domain) await iteration.timed('unmap_latency', 'unmap-2m', () => domain.unmap(iova, PAGE_2M));
  }
}

/** Allocates the block and a context, whose tables every domain of the vGPU maps. */
async function create({ vm, gpu, loadGpu }: IterationContext): Promise<BigBuffer> {
  const block = vm.lowPages.allocateBlock() as Gpa;
  const context = await gpu.driver.createContext(BASE);
  const current = gpu.dma.domain as GuestDomain | undefined;
  const domains = loadGpu.domains.length > 0 ? loadGpu.domains : current ? [current] : [];
  for (const domain of domains)
    await domain.mapAll(
      context.tablePages.map((gpa) => ({ iova: toIova(gpa), gpa, size: PAGE_SIZE, perm: PERM_RW })),
    );
  return { context, block };
}

async function fillAndCopy(iteration: IterationContext, context: number, block: Gpa): Promise<void> {
  const value = iteration.prng.next32();
  const target = BASE + HALF;
  await run(iteration, { opcode: Opcode.fill, context, target: BASE, length: HALF, value });
  await run(iteration, { opcode: Opcode.copy, context, source: BASE, target, length: HALF });
  const { result } = await run(iteration, { opcode: Opcode.checksum, context, source: target, length: HALF });
  if (!iteration.verified) return;
  const expected = filled(HALF / PAGE_SIZE, value);
  const sum = crc32(expected);
  iteration.check(result === sum, () => `checksum ${result} of 1 MiB, expected ${sum}`);
  const pages = Array.from({ length: HALF / PAGE_SIZE }, (_, i) => (block + HALF + i * PAGE_SIZE) as Gpa);
  iteration.checkPages(pages, expected, 'copy in a large page');
}
