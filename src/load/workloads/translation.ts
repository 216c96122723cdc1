/**
 * Workloads of the translation: strict map and unmap, and switches of address spaces under the load of others.
 */
import { Opcode } from '../../abi/vgpu/vgpu.ts';
import type { GuestDomain, GuestIommu } from '../../guest/iommu/guest-iommu.ts';
import { allocatePages, filled } from '../../guest/workload.ts';
import { type Gpa, PAGE_SIZE } from '../../memory/address.ts';
import type { IterationContext } from '../guest/iteration.ts';
import { run } from './engine.ts';

/** Maps two new pages, fills the first, copies it to the second, and unmaps both strictly. */
export function dmaChurn(context: IterationContext): Promise<void> {
  return context.load.translation.runShared(() => churn(context));
}

async function churn(context: IterationContext): Promise<void> {
  const { vm, gpu, buffer, prng } = context;
  const pages = allocatePages(vm, 2);
  const [first, second] = pages as [Gpa, Gpa];
  const value = prng.next32();
  const va = buffer.scratchVa;
  try {
    const mapped = await gpu.dma.map(pages, context.metrics);
    try {
      await gpu.driver.map(va, mapped.iovas);
      await run(context, { opcode: Opcode.fill, target: va, length: PAGE_SIZE, value });
      const source = va;
      await run(context, { opcode: Opcode.copy, target: va + PAGE_SIZE, source, length: PAGE_SIZE });
      if (context.verified) {
        const expected = filled(1, value);
        context.checkPages([first], expected, 'fill of a new mapping');
        context.checkPages([second], expected, 'copy in a new mapping');
      }
    } finally {
      await gpu.dma.unmap(mapped, context.metrics);
    }
  } finally {
    for (const page of pages) vm.pages.free(page);
  }
}

/** Disables and enables translation of the whole VM. */
export function iommuFlap(context: IterationContext): Promise<void> {
  const iommu = context.load.iommu as GuestIommu;
  return context.load.translation.runExclusive(async () => {
    await context.timed('switch_latency', 'disable', () => iommu.disableTranslation());
    await context.timed('switch_latency', 'enable', () => iommu.enableTranslation());
  });
}

/** Moves the vGPU to its other domain, which has the same mappings, and back. */
export function domainSwitch(context: IterationContext): Promise<void> {
  const { gpu, loadGpu } = context;
  const iommu = context.load.iommu as GuestIommu;
  const [first, second] = loadGpu.domains as [GuestDomain, GuestDomain];
  return context.load.translation.runExclusive(async () => {
    for (const domain of [second, first])
      await context.timed('switch_latency', 'attach', () => iommu.attach(gpu.requesterId, domain));
  });
}

/** Sets the vGPU to pass-through and back to its domain. */
export function passthroughFlip(context: IterationContext): Promise<void> {
  const { gpu, loadGpu } = context;
  const iommu = context.load.iommu as GuestIommu;
  return context.load.translation.runExclusive(async () => {
    await context.timed('switch_latency', 'pass-through', () => iommu.setPassThrough(gpu.requesterId));
    const [domain] = loadGpu.domains as [GuestDomain];
    await context.timed('switch_latency', 'attach', () => iommu.attach(gpu.requesterId, domain));
  });
}
