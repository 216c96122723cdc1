/**
 * VMs under load that move back and forth between two hosts. Each move compares all of RAM, and leaves more commands in
 * flight than a ring has slots. The parameter `moves` is the count of moves of each VM.
 */
import {
  allocatePages,
  CompletionStatus,
  churnRound,
  filled,
  type Gpa,
  type GuestGpu,
  type GuestVm,
  Opcode,
  PAGE_SIZE,
  type Pause,
  scenario,
} from 'mdevsim';

/** Pages of each vGPU's lasting buffer, at GPU address 0; the churn uses addresses above. */
const PAGES = 16;
const CHURN_VA = 2 ** 21;
const CHURN_HALF = 4;
/** Commands in flight at a move: more than the 64 slots of a ring. */
const COMMANDS = 80;

interface Moving {
  readonly moves: number;
  readonly buffers: readonly (readonly Gpa[])[];
  /** Value of the last fill of each vGPU. */
  readonly values: readonly number[];
}

async function setUp(vm: GuestVm): Promise<Moving> {
  const iommu = vm.viommu === 'none' ? undefined : await vm.iommu();
  const buffers: Gpa[][] = [];
  for (const gpu of vm.gpus) {
    if (iommu) await vm.translate(gpu);
    const pages = allocatePages(vm, PAGES);
    buffers.push(pages);
    await gpu.driver.map(0, (await gpu.dma.map(pages)).iovas);
  }
  await iommu?.enableTranslation();
  return { moves: 0, buffers, values: vm.gpus.map(() => 0) };
}

/** Submits more fills than the ring can hold, and leaves them in flight. Returns the last value. */
function leave(vm: GuestVm, gpu: GuestGpu): number {
  const first = vm.prng.below(2 ** 31);
  for (let i = 0; i < COMMANDS; i++)
    void gpu.driver.submit({ opcode: Opcode.fill, target: 0, length: PAGES * PAGE_SIZE, value: first + i });
  return first + COMMANDS - 1;
}

async function arrive(vm: GuestVm, { buffers, values }: Moving): Promise<void> {
  for (const [i, gpu] of vm.gpus.entries()) {
    const done = await Promise.all(gpu.driver.outstanding());
    vm.operations += done.length;
    vm.verify.check(
      done.every(({ status }) => status === CompletionStatus.ok),
      `${gpu.name}: a command in flight failed`,
    );
    vm.verify.pages(buffers[i] as Gpa[], filled(PAGES, values[i] as number), `${gpu.name} after its move`);
  }
  await vm.audit();
}

async function move(vm: GuestVm, state: Moving): Promise<void> {
  if (state.moves === Number(vm.params.moves)) return;
  const work = async (pause: Pause): Promise<Moving> => {
    await vm.eachGpu(async (gpu) => {
      do await churnRound(vm, gpu, CHURN_VA, CHURN_HALF, gpu.dma.domain !== undefined);
      while (!pause.requested);
    });
    return { ...state, moves: state.moves + 1, values: vm.gpus.map((gpu) => leave(vm, gpu)) };
  };
  await vm.migrate({ compare: true, work });
}

export default scenario({
  name: 'back-and-forth',
  question: 'Do VMs survive any count of moves under load, with every byte?',
  vms: 2,
  vgpus: 2,
  hosts: 2,
  ramMiB: 16,
  params: { moves: 10 },
  async guest(vm: GuestVm) {
    await move(vm, await setUp(vm));
  },
  async resume(vm: GuestVm, state: unknown) {
    await arrive(vm, state as Moving);
    await move(vm, state as Moving);
  },
});
