/**
 * Live migration: two VMs on two hosts change places, and change back, while their vGPUs work behind a vIOMMU. Memory
 * is copied in rounds, and compared byte for byte at the end of each migration. Commands are in flight when a VM
 * pauses; their results are checked at the other host.
 *
 * `--param hops=4` makes four migrations of each VM, `--param bufferPages=128` makes the buffers smaller, and
 * `--param downtimeMs=100` pauses earlier, with more left to copy.
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

/** Count of commands of each kind in flight on a vGPU when its VM pauses. */
const IN_FLIGHT = 8;
/** GPU address of the buffers of churn, which are mapped and unmapped all the time. */
const CHURN_VA = 6 * 2 ** 20;
const CHURN_PAGES = 4;
/** GPU address of the buffers of steady work. */
const STEADY_VA = 4 * 2 ** 20;
const STEADY_PAGES = 16;

/** The script's state of one vGPU. */
interface Buffers {
  /** Source, then target of the commands in flight. */
  readonly pages: readonly Gpa[];
  /** Source, then target of steady work. */
  readonly steady: readonly Gpa[];
  /** Value with which the commands in flight fill the source. */
  readonly value: number;
}

/** The script's state of a VM. */
interface ScriptState {
  /** Count of migrations so far. */
  readonly hops: number;
  readonly gpus: readonly Buffers[];
  /** Pages without access, each with other bytes. */
  readonly ballast: readonly Gpa[];
}

/** Returns the bytes of page `index` of the ballast. */
function ballastPage(vm: GuestVm, index: number): Uint8Array {
  const words = new Uint32Array(PAGE_SIZE / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(vm.seed + index, 2654435761) + i;
  return new Uint8Array(words.buffer);
}

/** Allocates and fills the ballast. */
function loadBallast(vm: GuestVm): Gpa[] {
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

/** Works until the pause request, then submits commands and does not wait for them. */
async function workUntil(vm: GuestVm, gpu: GuestGpu, buffers: Buffers, pause: Pause): Promise<Buffers> {
  const [source, target] = [buffers.steady.slice(0, STEADY_PAGES), buffers.steady.slice(STEADY_PAGES)];
  do {
    await verifiedRound(vm, gpu, STEADY_VA, source, target);
    await churnRound(vm, gpu, CHURN_VA, CHURN_PAGES, false);
  } while (!pause.requested);
  const value = vm.prng.next32();
  const length = (buffers.pages.length / 2) * PAGE_SIZE;
  for (let i = 0; i < IN_FLIGHT; i++) {
    // The last fill determines the bytes. The driver saves the commands that have not completed here.
    const fill = { opcode: Opcode.fill, target: 0, length, value: i + 1 < IN_FLIGHT ? i : value };
    const copy = { opcode: Opcode.copy, target: length, source: 0, length };
    const checksum = { opcode: Opcode.checksum, source: length, length };
    for (const command of [fill, copy, checksum]) void gpu.driver.submit(command);
  }
  return { ...buffers, value };
}

/** Awaits the commands in flight and checks their results; resolves to their count. */
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

/** Migrates the VM. If it stays, the run fails, but the VM continues to work. */
async function move(vm: GuestVm, state: ScriptState): Promise<void> {
  await vm.phase(`move ${state.hops + 1}`);
  try {
    await migrate(vm, state);
  } catch (error) {
    if (!(error instanceof MigrationError)) throw error;
    vm.verify.fail(`did not migrate: ${error.message}`);
    await vm.eachGpu((gpu) => churnRound(vm, gpu, CHURN_VA, CHURN_PAGES, vm.viommu !== 'none'));
  }
}

async function migrate(vm: GuestVm, { hops, gpus, ballast }: ScriptState): Promise<void> {
  await vm.migrate({
    compare: true,
    downtimeMs: Number(vm.params.downtimeMs),
    work: async (pause: Pause): Promise<ScriptState> => ({
      hops: hops + 1,
      ballast,
      gpus: await Promise.all(vm.gpus.map((gpu, i) => workUntil(vm, gpu, gpus[i] as Buffers, pause))),
    }),
  });
}

export default scenario({
  name: 'live-migration',
  question: 'Do VMs under load migrate to another host and back without the loss of a byte or a command?',
  vms: 2,
  vgpus: 2,
  hosts: 2,
  ramMiB: 64,
  params: { hops: 2, bufferPages: 256, ballastMiB: 24, downtimeMs: 5 },
  async guest(vm: GuestVm) {
    await move(vm, { hops: 0, ballast: loadBallast(vm), gpus: await setUp(vm) });
  },
  async resume(vm: GuestVm, state: unknown) {
    const { hops, gpus, ballast } = state as ScriptState;
    const inFlight = await Promise.all(vm.gpus.map((gpu, i) => collect(vm, gpu, gpus[i] as Buffers)));
    vm.note(`VM ${vm.id}: arrived with ${inFlight.reduce((a, b) => a + b, 0)} commands in flight`);
    await vm.eachGpu((gpu) => churnRound(vm, gpu, CHURN_VA, CHURN_PAGES, vm.viommu !== 'none'));
    if (hops < Number(vm.params.hops)) return move(vm, { hops, gpus, ballast });
    for (const [index, page] of ballast.entries()) vm.verify.pages([page], ballastPage(vm, index), 'ballast');
    await vm.audit();
  },
});
