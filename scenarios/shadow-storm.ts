/**
 * Shadow storm: does the shadow of the GPU page tables stay correct while mappings change on a busy GPU?
 *
 * Every vGPU works without pause in context 0. Meanwhile buffers are mapped, used and unmapped. The device reaches
 * them through context 1, whose tables the guest or a command writes, or through the global table by trapped writes.
 * Each unmap removes shadow entries; the next use rebuilds them. Every byte is compared. Some buffers are used after
 * the unmap, which must fault.
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
/** Above 4 GiB, so that addresses have more than 32 bits. */
const CONTEXT_BASE = 8 * 2 ** 30;
/** Count of 4 KiB pages of a 64 KiB GPU page, and of a buffer that contains an aligned one. */
const BIG_PAGES = GPU_PAGE_64K / PAGE_SIZE;
const BUFFER_PAGES = 2 * BIG_PAGES - 1;
const PROBE_EVERY = 8;

/** A method to map and unmap the aligned 64 KiB of a buffer in the GPU's address space. */
interface Mapper {
  readonly context: number;
  readonly va: number;
  map(iova: Iova): Promise<unknown>;
  unmap(): Promise<unknown>;
}

/** The guest writes the page tables and invalidates the shadow. */
const byTables = (gpu: GuestGpu, context: GpuContext, va: number): Mapper => ({
  context: context.id,
  va,
  map: async (iova) => {
    context.write(va, iova, GPU_PAGE_64K, { pageBytes: GPU_PAGE_64K });
    await gpu.driver.invalidate();
  },
  unmap: async () => {
    context.clear(va, GPU_PAGE_64K);
    await gpu.driver.invalidate();
  },
});

/** A command writes the page tables, without an invalidation of other entries. */
const byCommand = (gpu: GuestGpu, context: GpuContext, va: number): Mapper => ({
  context: context.id,
  va,
  map: (iova) => gpu.driver.updatePtes(context.id, va, iova, GPU_PAGE_64K),
  unmap: () => gpu.driver.updatePtes(context.id, va, undefined, GPU_PAGE_64K),
});

/** The guest writes the global table; each write traps. */
const byTrap = ({ driver }: GuestGpu): Mapper => ({
  context: GLOBAL_CONTEXT,
  va: 0,
  map: async (iova) => {
    for (let i = 0; i < BIG_PAGES; i++) await driver.writeGlobal(i, offsetBy(iova, i * PAGE_SIZE));
  },
  unmap: async () => {
    for (let i = 0; i < BIG_PAGES; i++) await driver.writeGlobal(i, undefined);
  },
});

/** Returns the index of the first page of a buffer with an IOVA that is a multiple of 64 KiB. */
const alignedPage = ({ iovas }: DmaBuffer): number => iovas.findIndex((iova) => iova % GPU_PAGE_64K === 0);

/** Fills half of the 64 KiB, copies it to the other half, and compares both. */
async function use(vm: GuestVm, gpu: GuestGpu, { context, va }: Mapper, buffer: DmaBuffer): Promise<void> {
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

/** Uses an unmapped buffer: the device must fault and report the context. */
async function useAfterUnmap(vm: GuestVm, gpu: GuestGpu, { context, va }: Mapper, gone: Iova): Promise<void> {
  await vm.expectFault(gpu, gone);
  const { status } = await submit(vm, gpu, { opcode: Opcode.fill, context, target: va, length: 4, value: 0 });
  vm.verify.check(status === CompletionStatus.fault, `${gpu.name} reached an unmapped buffer: ${status}`);
  const reported = await gpu.driver.readRegister('FaultContext');
  vm.verify.check(
    reported === context,
    `${gpu.name} reported context ${reported}, the fault was in ${context}`,
  );
}

async function storm(vm: GuestVm, gpu: GuestGpu, mappers: readonly Mapper[], rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const mapper = mappers[round % mappers.length] as Mapper;
    const pages = allocatePages(vm, BUFFER_PAGES);
    const buffer = await gpu.dma.map(pages);
    const start = buffer.iovas[alignedPage(buffer)] as Iova;
    await mapper.map(start);
    await use(vm, gpu, mapper, buffer);
    await gpu.dma.unmap(buffer);
    if (round % PROBE_EVERY === 0) await useAfterUnmap(vm, gpu, mapper, start);
    await mapper.unmap();
    for (const page of pages) vm.pages.free(page);
  }
}

export default scenario({
  name: 'shadow-storm',
  question: 'Does the shadow of the GPU page tables stay correct while mappings change on a busy GPU?',
  vms: 2,
  vgpus: 4,
  ramMiB: 64,
  params: { rounds: 60 },

  async guest(vm: GuestVm): Promise<void> {
    if (vm.viommu === 'none')
      throw new Error('viommu: none: nothing is ever unmapped; accepted: any other kind');
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
      const mappers = [
        byTables(gpu, context, context.base),
        byCommand(gpu, context, context.base + 5 * GPU_PAGE_64K),
        byTrap(gpu),
      ];
      await load.start();
      await storm(vm, gpu, mappers, rounds);
      await load.stop();
      vm.note(
        `${gpu.name}: ${rounds} buffers mapped and unmapped, ${load.rounds} rounds of steady work meanwhile`,
      );
    });
    await vm.audit();
  },
});
