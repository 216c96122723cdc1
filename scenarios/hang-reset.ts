/**
 * Hang and reset: does a vGPU work again after a command that never ends, and are its neighbours affected?
 *
 * One vGPU runs a kernel that never ends, between valid kernels. Its compute engine must stop the kernel and its
 * driver must reset the engine. The commands before and after must complete; the copy engine must continue meanwhile.
 * The other vGPUs run a verified load all the time. At the end every vGPU computes a sum that is checked.
 */
import {
  allocatePages,
  CompletionStatus,
  filled,
  type Gpa,
  type GuestGpu,
  type GuestVm,
  Kernel,
  Opcode,
  PAGE_SIZE,
  SteadyLoad,
  scenario,
  submit,
  toIova,
  usageBetween,
  verifiedRound,
} from 'mdevsim';

const LOAD_VA = 0;
const LOAD_PAGES = 4;
const WORK_VA = 0x20_0000;
const WORK_PAGES = 4;
const HANGS = 5;

/** Allocates and maps the two buffers of a verified round at WORK_VA. */
async function workBuffer(vm: GuestVm, gpu: GuestGpu): Promise<readonly Gpa[]> {
  const pages = allocatePages(vm, 2 * WORK_PAGES);
  await gpu.driver.map(WORK_VA, pages.map(toIova));
  return pages;
}

/** Sums the words of the first page. */
const SUM = { opcode: Opcode.compute, value: Kernel.sum, source: WORK_VA, length: PAGE_SIZE } as const;

/** Returns the sum of a page filled with `value`. */
const sumOfFilled = (value: number): number => Number((BigInt(value) * BigInt(PAGE_SIZE / 4)) & 0xffff_ffffn);

/**
 * Submits a sum, an endless kernel and a sum: the endless one must end with `hung`, the sums with valid results. A
 * fill of the copy engine must complete meanwhile. Resolves to the latency of the endless kernel, in µs.
 */
async function hang(vm: GuestVm, gpu: GuestGpu, pages: readonly Gpa[]): Promise<number> {
  const value = vm.prng.next32();
  vm.ram.write(pages[0] as Gpa, filled(1, value));
  const filling = filled(WORK_PAGES, ~value >>> 0);
  const [first, spin, last, fill] = await Promise.all([
    submit(vm, gpu, SUM),
    submit(vm, gpu, { opcode: Opcode.compute, value: Kernel.spin, length: 4 }),
    submit(vm, gpu, SUM),
    submit(vm, gpu, {
      opcode: Opcode.fill,
      target: WORK_VA + WORK_PAGES * PAGE_SIZE,
      length: WORK_PAGES * PAGE_SIZE,
      value: ~value >>> 0,
    }),
  ]);
  vm.verify.check(spin.status === CompletionStatus.hung, `${gpu.name} spin ended with ${spin.status}`);
  for (const { status, result } of [first, last])
    vm.verify.check(
      status === CompletionStatus.ok && result === sumOfFilled(value),
      `${gpu.name} sum beside the hang: status ${status}, ${result} instead of ${sumOfFilled(value)}`,
    );
  vm.verify.check(fill.status === CompletionStatus.ok, `${gpu.name} fill ended with ${fill.status}`);
  vm.verify.pages(pages.slice(WORK_PAGES), filling, `${gpu.name} filled beside the hang`);
  return spin.latencyUs;
}

/** Checks a sum over a page of known words. */
async function checkSum(vm: GuestVm, gpu: GuestGpu, page: Gpa): Promise<void> {
  const value = vm.prng.next32();
  vm.ram.write(page, filled(1, value));
  const { status, result } = await submit(vm, gpu, SUM);
  vm.verify.check(
    status === CompletionStatus.ok && result === sumOfFilled(value),
    `${gpu.name} sum: status ${status}, ${result} instead of ${sumOfFilled(value)}`,
  );
}

export default scenario({
  name: 'hang-reset',
  question: 'Does a vGPU work again after a command that never ends, and are its neighbours affected?',
  vms: 1,
  vgpus: 4,
  ramMiB: 64,
  params: {},
  viommu: 'none',
  gpu: { policy: 'equal-share', sliceUs: 500 },

  async guest(vm: GuestVm): Promise<void> {
    const [victim, ...neighbours] = vm.gpus as readonly [GuestGpu, ...GuestGpu[]];
    const loads = neighbours.map((gpu) => new SteadyLoad(vm, gpu, LOAD_VA, LOAD_PAGES));
    for (const load of loads) await load.start();

    await vm.phase('hang and reset');
    const pages = await workBuffer(vm, victim);
    const before = await vm.gpuStats();
    const recoveries: number[] = [];
    for (let i = 0; i < HANGS; i++) recoveries.push(await hang(vm, victim, pages));
    vm.verify.check(
      victim.driver.hangs === HANGS,
      `${victim.name}: ${victim.driver.hangs} resets of the engine for ${HANGS} hangs`,
    );
    const usage = usageBetween(before, await vm.gpuStats());
    vm.note(
      `${victim.name}: ${HANGS} hangs, each ended by a reset of the engine within ` +
        `${(Math.max(...recoveries) / 1000).toFixed(1)} ms; ${usage[0]?.preemptions} preemptions while it hung`,
    );
    for (const { name, commands, waitP99Us } of usage.slice(1)) {
      vm.note(`${name}: ${commands} commands meanwhile, waits p99 ${(waitP99Us / 1000).toFixed(1)} ms`);
      vm.verify.check(commands > 0, `${name} ran no command while ${victim.name} hung`);
    }

    await vm.phase('work again');
    for (const load of loads) await load.stop();
    await vm.eachGpu(async (gpu) => {
      const own = gpu === victim ? pages : await workBuffer(vm, gpu);
      await verifiedRound(vm, gpu, WORK_VA, own.slice(0, WORK_PAGES), own.slice(WORK_PAGES));
      await checkSum(vm, gpu, own[0] as Gpa);
    });
  },
});
