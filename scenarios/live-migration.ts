/**
 * Two VMs on two hosts change places while their vGPUs work behind a vIOMMU, and change back. Memory is copied in rounds
 * meanwhile and compared byte for byte at the end of each move; commands are in flight when a VM pauses, and their
 * results are checked where it goes on.
 *
 * `--param hops=4` moves more often, `--param bufferPages=128` makes the buffers smaller, `--param downtimeMs=100` pauses
 * sooner, with more left to copy.
 */
import { crc32 } from 'node:zlib';
import {
  allocatePages,
  CompletionStatus,
  churnRound,
  filled,
  type Gpa,
  type GuestGpu,
  type GuestVm,
  MigrationError,
  Opcode,
  PAGE_SIZE,
  type Pause,
  scenario,
  verifiedRound,
} from 'mdevsim';

/** Commands of each kind that a vGPU has before it when its VM pauses. */
const IN_FLIGHT = 8;
/** GPU address of the buffers that are mapped and unmapped all the time. */
const CHURN_VA = 6 * 2 ** 20;
const CHURN_PAGES = 4;
/** GPU address of the buffers of steady work. */
const STEADY_VA = 4 * 2 ** 20;
const STEADY_PAGES = 16;

/** What a VM carries along for one of its vGPUs. */
interface Buffers {
  /** Source, then target; mapped once for all. */
  readonly pages: readonly Gpa[];
  readonly steady: readonly Gpa[];
  /** What the commands in flight fill the source with, and copy to the target. */
  readonly value: number;
}

interface Carried {
  readonly hops: number;
  readonly gpus: readonly Buffers[];
  /** Pages that nobody touches, each of its own bytes. */
  readonly ballast: readonly Gpa[];
}

/** What page `index` of the ballast holds. */
function ballastPage(vm: GuestVm, index: number): Uint8Array {
  const words = new Uint32Array(PAGE_SIZE / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(vm.seed + index, 2654435761) + i;
  return new Uint8Array(words.buffer);
}

function load(vm: GuestVm): Gpa[] {
  const ballast = allocatePages(vm, (Number(vm.params.ballastMiB) * 2 ** 20) / PAGE_SIZE);
  for (const [index, page] of ballast.entries()) vm.ram.write(page, ballastPage(vm, index));
  return ballast;
}

async function setUp(vm: GuestVm): Promise<Buffers[]> {
  const half = Number(vm.params.bufferPages);
  const behindIommu = vm.viommu !== 'none';
  if (behindIommu) {
    for (const gpu of vm.gpus) await vm.translate(gpu);
    const iommu = await vm.iommu();
    await vm.timedSwitch(() => iommu.enableTranslation());
  }
  return Promise.all(
    vm.gpus.map(async (gpu) => {
      const pages = allocatePages(vm, 2 * half);
      const steady = allocatePages(vm, 2 * STEADY_PAGES);
      await gpu.driver.map(0, (await gpu.dma.map(pages)).iovas);
      await gpu.driver.map(STEADY_VA, (await gpu.dma.map(steady)).iovas);
      return { pages, steady, value: 0 };
    }),
  );
}

/** Works until the VM is to pause, then leaves commands behind that nobody has seen the end of. */
async function workUntil(vm: GuestVm, gpu: GuestGpu, buffers: Buffers, pause: Pause): Promise<Buffers> {
  const [source, target] = [buffers.steady.slice(0, STEADY_PAGES), buffers.steady.slice(STEADY_PAGES)];
  do {
    await verifiedRound(vm, gpu, STEADY_VA, source, target);
    await churnRound(vm, gpu, CHURN_VA, CHURN_PAGES, false);
  } while (!pause.requested);
  const value = vm.prng.next32();
  const length = (buffers.pages.length / 2) * PAGE_SIZE;
  for (let i = 0; i < IN_FLIGHT; i++) {
    // The last fill decides; whether one of them was seen to end here is for the driver to know.
    const fill = { opcode: Opcode.fill, target: 0, length, value: i + 1 < IN_FLIGHT ? i : value };
    const copy = { opcode: Opcode.copy, target: length, source: 0, length };
    const checksum = { opcode: Opcode.checksum, source: length, length };
    for (const command of [fill, copy, checksum]) void gpu.driver.submit(command);
  }
  return { ...buffers, value };
}

/** What was in flight ends here as if the VM had never moved. */
async function collect(vm: GuestVm, gpu: GuestGpu, { pages, value }: Buffers): Promise<number> {
  const waiting = gpu.driver.outstanding();
  const completions = await Promise.all(waiting);
  for (const { status } of completions)
    vm.verify.check(status === CompletionStatus.ok, `${gpu.name}: a command in flight ended with ${status}`);
  vm.operations += completions.length;
  const expected = filled(pages.length / 2, value);
  const sum = completions.at(-1)?.result;
  vm.verify.check(
    sum === undefined || sum === crc32(expected),
    `${gpu.name}: checksum ${sum} of what was copied in flight, expected ${crc32(expected)}`,
  );
  vm.verify.pages(pages.slice(0, pages.length / 2), expected, `${gpu.name} filled in flight`);
  vm.verify.pages(pages.slice(pages.length / 2), expected, `${gpu.name} copied in flight`);
  return waiting.length;
}

/** Moves the VM. One that has to stay is a failure of the run, but its work goes on. */
async function move(vm: GuestVm, state: Carried): Promise<void> {
  await vm.phase(`move ${state.hops + 1}`);
  try {
    await migrate(vm, state);
  } catch (error) {
    if (!(error instanceof MigrationError)) throw error;
    vm.verify.fail(`did not move: ${error.message}`);
    await vm.eachGpu((gpu) => churnRound(vm, gpu, CHURN_VA, CHURN_PAGES, vm.viommu !== 'none'));
  }
}

async function migrate(vm: GuestVm, { hops, gpus, ballast }: Carried): Promise<void> {
  await vm.migrate({
    compare: true,
    downtimeMs: Number(vm.params.downtimeMs),
    work: async (pause: Pause): Promise<Carried> => ({
      hops: hops + 1,
      ballast,
      gpus: await Promise.all(vm.gpus.map((gpu, i) => workUntil(vm, gpu, gpus[i] as Buffers, pause))),
    }),
  });
}

export default scenario({
  name: 'live-migration',
  question: 'Do VMs under load change hosts, and change back, with not a byte and not a command lost?',
  vms: 2,
  vgpus: 2,
  hosts: 2,
  ramMiB: 64,
  params: { hops: 2, bufferPages: 256, ballastMiB: 24, downtimeMs: 5 },
  async guest(vm: GuestVm) {
    await move(vm, { hops: 0, ballast: load(vm), gpus: await setUp(vm) });
  },
  async resume(vm: GuestVm, state: unknown) {
    const { hops, gpus, ballast } = state as Carried;
    const inFlight = await Promise.all(vm.gpus.map((gpu, i) => collect(vm, gpu, gpus[i] as Buffers)));
    vm.note(`VM ${vm.id}: arrived with ${inFlight.reduce((a, b) => a + b, 0)} commands in flight`);
    await vm.eachGpu((gpu) => churnRound(vm, gpu, CHURN_VA, CHURN_PAGES, vm.viommu !== 'none'));
    if (hops < Number(vm.params.hops)) return move(vm, { hops, gpus, ballast });
    for (const [index, page] of ballast.entries()) vm.verify.pages([page], ballastPage(vm, index), 'ballast');
    await vm.audit();
  },
});
