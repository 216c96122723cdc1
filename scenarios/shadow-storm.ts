/**
 * Shadow storm: does the shadow of the GPU page tables stay true while mappings come and go under a busy GPU?
 *
 * Every vGPU works without pause in context 0. Meanwhile buffers are mapped, reached through context 1 (tables written by
 * the guest, or by a command) or through the global table (trapped writes), used, and unmapped: each unmap takes shadow
 * entries away, the next use builds them anew. Every byte is compared, and some buffers are used once too often on purpose.
 */
import {
  allocatePages,
  CompletionStatus,
  type DmaBuffer,
  filled,
  GLOBAL_CONTEXT,
  GPU_PAGE_64K,
  type GpuContext,
  type GuestGpu,
  type GuestVm,
  type Iova,
  Opcode,
  offsetBy,
  PAGE_SIZE,
  SteadyLoad,
  scenario,
  submit,
} from 'mdevsim';

const LOAD_VA = 0;
const LOAD_PAGES = 8;
/** Beyond 4 GiB: addresses of more than 32 bits. */
const CONTEXT_BASE = 8 * 2 ** 30;
/** Pages of a GPU page of 64 KiB, and of a buffer in which one is sure to be aligned. */
const BIG_PAGES = GPU_PAGE_64K / PAGE_SIZE;
const BUFFER_PAGES = 2 * BIG_PAGES - 1;
const PROBE_EVERY = 8;

/** A way to make a buffer's aligned 64 KiB reachable, and unreachable again. */
interface Way {
  readonly context: number;
  readonly va: number;
  point(iova: Iova): Promise<unknown>;
  clear(): Promise<unknown>;
}

/** The guest writes the tables and has the device forget. */
const byTables = (gpu: GuestGpu, context: GpuContext, va: number): Way => ({
  context: context.id,
  va,
  point: async (iova) => {
    context.write(va, iova, GPU_PAGE_64K, { pageBytes: GPU_PAGE_64K });
    await gpu.driver.invalidate();
  },
  clear: async () => {
    context.clear(va, GPU_PAGE_64K);
    await gpu.driver.invalidate();
  },
});

/** A command writes them, without an invalidation of all the rest. */
const byCommand = (gpu: GuestGpu, context: GpuContext, va: number): Way => ({
  context: context.id,
  va,
  point: (iova) => gpu.driver.updatePtes(context.id, va, iova, GPU_PAGE_64K),
  clear: () => gpu.driver.updatePtes(context.id, va, undefined, GPU_PAGE_64K),
});

/** Trapped writes to the global table. */
const byTrap = ({ driver }: GuestGpu): Way => ({
  context: GLOBAL_CONTEXT,
  va: 0,
  point: async (iova) => {
    for (let i = 0; i < BIG_PAGES; i++) await driver.writeGlobal(i, offsetBy(iova, i * PAGE_SIZE));
  },
  clear: async () => {
    for (let i = 0; i < BIG_PAGES; i++) await driver.writeGlobal(i, undefined);
  },
});

/** Index of the first page of a buffer whose IOVA is a multiple of 64 KiB. */
const alignedPage = ({ iovas }: DmaBuffer): number => iovas.findIndex((iova) => iova % GPU_PAGE_64K === 0);

async function use(vm: GuestVm, gpu: GuestGpu, { context, va }: Way, buffer: DmaBuffer): Promise<void> {
  const first = alignedPage(buffer);
  const value = vm.prng.next32();
  const half = GPU_PAGE_64K / 2;
  const [fill, copy] = await Promise.all([
    submit(vm, gpu, { opcode: Opcode.fill, context, target: va, length: half, value }),
    submit(vm, gpu, { opcode: Opcode.copy, context, source: va, target: va + half, length: half }),
  ]);
  const ok = fill.status === CompletionStatus.ok && copy.status === CompletionStatus.ok;
  vm.verify.check(ok, `${gpu.name} context ${context}: fill ${fill.status}, copy ${copy.status}`);
  const pages = buffer.pages.slice(first, first + BIG_PAGES);
  vm.verify.pages(pages, filled(BIG_PAGES, value), `${gpu.name} context ${context}`);
}

/** After the unmap the device must fault, and say in which context. */
async function useTooLate(vm: GuestVm, gpu: GuestGpu, { context, va }: Way, gone: Iova): Promise<void> {
  await vm.expectFault(gpu, gone);
  const { status } = await submit(vm, gpu, { opcode: Opcode.fill, context, target: va, length: 4, value: 0 });
  vm.verify.check(status === CompletionStatus.fault, `${gpu.name} reached an unmapped buffer: ${status}`);
  const reported = await gpu.driver.readRegister('FaultContext');
  vm.verify.check(reported === context, `${gpu.name} says context ${reported}, the fault was in ${context}`);
}

async function storm(vm: GuestVm, gpu: GuestGpu, ways: readonly Way[], rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const way = ways[round % ways.length] as Way;
    const pages = allocatePages(vm, BUFFER_PAGES);
    const buffer = await gpu.dma.map(pages);
    const start = buffer.iovas[alignedPage(buffer)] as Iova;
    await way.point(start);
    await use(vm, gpu, way, buffer);
    await gpu.dma.unmap(buffer);
    if (round % PROBE_EVERY === 0) await useTooLate(vm, gpu, way, start);
    await way.clear();
    for (const page of pages) vm.pages.free(page);
  }
}

export default scenario({
  name: 'shadow-storm',
  question: 'Does the shadow of the GPU page tables stay true while mappings come and go under a busy GPU?',
  vms: 2,
  vgpus: 4,
  ramMiB: 64,
  params: { rounds: 60 },

  async guest(vm: GuestVm): Promise<void> {
    if (vm.viommu === 'none')
      throw new Error('without a vIOMMU nothing is ever unmapped; accepted: any other');
    const rounds = Number(vm.params.rounds);
    const loads = new Map<GuestGpu, SteadyLoad>();
    const contexts = new Map<GuestGpu, GpuContext>();
    for (const gpu of vm.gpus) {
      const load = new SteadyLoad(vm, gpu, LOAD_VA, LOAD_PAGES);
      const context = await gpu.driver.createContext(CONTEXT_BASE);
      await vm.translate(gpu, [...load.pages, ...context.tablePages]);
      loads.set(gpu, load);
      contexts.set(gpu, context);
    }
    const iommu = await vm.iommu();
    await iommu.enableTranslation();

    await vm.phase('storm');
    await vm.eachGpu(async (gpu) => {
      const load = loads.get(gpu) as SteadyLoad;
      const context = contexts.get(gpu) as GpuContext;
      const ways = [
        byTables(gpu, context, context.base),
        byCommand(gpu, context, context.base + 5 * GPU_PAGE_64K),
        byTrap(gpu),
      ];
      await load.start();
      await storm(vm, gpu, ways, rounds);
      await load.stop();
      vm.note(`${gpu.name}: ${rounds} buffers came and went, ${load.rounds} rounds of steady work meanwhile`);
    });
    await vm.audit();
    await vm.progress();
  },
});
