/**
 * Two engines of one vGPU work on the same buffers, ordered by fences alone.
 *
 * In each round the copy engine fills two vectors and signals. The compute engine waits for the signal, runs saxpy
 * and signals. The copy engine waits for it and computes the checksum of the result. Several rounds are submitted at
 * once; the guest's CPU signals the start of the last one. Then the compute engine hangs: the copy engine must
 * continue meanwhile, and both must work after the reset.
 */
import { crc32 } from 'node:zlib';
import {
  allocatePages,
  CompletionStatus,
  filled,
  type Gpa,
  type GpuCommand,
  type GpuCompletion,
  type GuestGpu,
  type GuestVm,
  Kernel,
  Opcode,
  PAGE_SIZE,
  scenario,
  submit,
  toIova,
  verifiedRound,
} from 'mdevsim';

const VECTOR_PAGES = 8;
const VECTOR_BYTES = VECTOR_PAGES * PAGE_SIZE;
const X_VA = 0;
/** One result for each round in flight. */
const Y_VA = VECTOR_BYTES;
const ROUNDS_AT_ONCE = 4;
const FENCE_VA = 0x20_0000;
const COPY_VA = 0x40_0000;
/**
 * Fence words: vectors are filled; saxpy is done; the checksum is done, so that X may be filled again; the guest
 * starts the round.
 */
const [FILLED, COMPUTED, SUMMED, GO] = [FENCE_VA, FENCE_VA + 64, FENCE_VA + 128, FENCE_VA + 192];
/** Time limits of a command, in µs of engine time: none while the copy engine must continue, then the default. */
const NO_LIMIT_US = 2 ** 32 - 1;
const HANG_LIMIT_US = 100_000;
const ROUNDS_BESIDE = 50;

/** Pages of the buffers, mapped at IOVA = GPA. */
interface Buffers {
  readonly results: readonly (readonly Gpa[])[];
  readonly fences: Gpa;
  readonly copies: readonly Gpa[];
}

const identity = (pages: readonly Gpa[]) => pages.map(toIova);

async function setUp(vm: GuestVm, gpu: GuestGpu, inVram: boolean): Promise<Buffers> {
  const { driver } = gpu;
  const results = Array.from({ length: ROUNDS_AT_ONCE }, () => allocatePages(vm, VECTOR_PAGES));
  const [fences] = allocatePages(vm, 1) as [Gpa];
  const copies = allocatePages(vm, 2 * VECTOR_PAGES);
  if (inVram) await driver.mapVram(X_VA, 0, VECTOR_PAGES);
  else await driver.map(X_VA, identity(allocatePages(vm, VECTOR_PAGES)));
  await driver.map(Y_VA, identity(results.flat()));
  await driver.map(FENCE_VA, identity([fences]));
  await driver.map(COPY_VA, identity(copies));
  vm.ram.write(fences, filled(1, 0));
  return { results, fences, copies };
}

const bitsOf = (value: number): number => new Uint32Array(new Float32Array([value]).buffer)[0] as number;
const fence = (opcode: typeof Opcode.signal | typeof Opcode.wait, at: number, value: number): GpuCommand =>
  opcode === Opcode.signal ? { opcode, target: at, value } : { opcode, source: at, value };

/** A round of both engines. */
interface Round {
  readonly commands: readonly GpuCommand[];
  /** Expected value of every word of the result. */
  readonly word: number;
}

/** Returns a round. The order of its commands is wrong without fences. */
function round(vm: GuestVm, number: number, slot: number): Round {
  // Small, so that a x + y is exact.
  const small = () => (vm.prng.next32() % 1000) + 0.5;
  const [a, x, y] = [small(), small(), small()];
  const target = Y_VA + slot * VECTOR_BYTES;
  const compute = (command: GpuCommand): GpuCommand => ({ ...command, engine: 'compute' });
  const saxpy = { value: Kernel.saxpy, source: X_VA, target, length: VECTOR_BYTES, scalar: a };
  const commands: GpuCommand[] = [
    compute(fence(Opcode.wait, FILLED, number)),
    compute({ opcode: Opcode.compute, ...saxpy }),
    compute(fence(Opcode.signal, COMPUTED, number)),
    fence(Opcode.wait, GO, number),
    { opcode: Opcode.fill, target: X_VA, length: VECTOR_BYTES, value: bitsOf(x) },
    { opcode: Opcode.fill, target, length: VECTOR_BYTES, value: bitsOf(y) },
    fence(Opcode.signal, FILLED, number),
    fence(Opcode.wait, COMPUTED, number),
    { opcode: Opcode.checksum, source: target, length: VECTOR_BYTES },
    fence(Opcode.signal, SUMMED, number),
  ];
  return { commands, word: bitsOf(a * x + y) };
}

/** Runs several rounds at once. The guest's CPU starts the last one only after the others have ended. */
async function pipeline(vm: GuestVm, gpu: GuestGpu, buffers: Buffers, first: number): Promise<void> {
  const last = first + ROUNDS_AT_ONCE - 1;
  vm.ram.write32(buffers.fences + (GO - FENCE_VA), last - 1);
  const rounds = buffers.results.map((_, slot) => round(vm, first + slot, slot));
  const running = rounds.map(({ commands }) =>
    Promise.all(commands.map((command) => submit(vm, gpu, command))),
  );
  const ended = running.map((each, slot) => each.then((done) => check(vm, gpu, buffers, rounds, slot, done)));
  await Promise.all(ended.slice(0, -1));
  const summed = vm.ram.read32(buffers.fences + (SUMMED - FENCE_VA));
  vm.verify.check(
    summed === last - 1,
    `${gpu.name}: round ${summed} has ended, round ${last} was not started`,
  );
  // No doorbell: the device must poll the fence.
  vm.ram.write32(buffers.fences + (GO - FENCE_VA), last);
  await Promise.all(ended);
}

/** Checks a completed round. */
function check(
  vm: GuestVm,
  gpu: GuestGpu,
  { results }: Buffers,
  rounds: readonly Round[],
  slot: number,
  done: readonly GpuCompletion[],
): void {
  const expected = filled(VECTOR_PAGES, (rounds[slot] as Round).word);
  for (const [i, { status }] of done.entries())
    vm.verify.check(
      status === CompletionStatus.ok,
      `${gpu.name}: command ${i} of a round ended with ${status}`,
    );
  const sum = done.at(-2)?.result;
  vm.verify.check(sum === crc32(expected), `${gpu.name}: checksum ${sum} instead of ${crc32(expected)}`);
  vm.verify.pages(results[slot] as readonly Gpa[], expected, `${gpu.name} saxpy`);
}

/** Runs rounds of the copy engine while a kernel spins on the compute engine; then lets the kernel time out. */
async function copyBesideHang(vm: GuestVm, gpu: GuestGpu, { copies }: Buffers): Promise<void> {
  const [source, target] = [copies.slice(0, VECTOR_PAGES), copies.slice(VECTOR_PAGES)];
  await gpu.driver.writeRegister('ComputeHangLimitUs', NO_LIMIT_US);
  let spinning = true;
  const spin = submit(vm, gpu, { opcode: Opcode.compute, value: Kernel.spin, length: 4 }).finally(() => {
    spinning = false;
  });
  for (let i = 0; i < ROUNDS_BESIDE; i++) await verifiedRound(vm, gpu, COPY_VA, source, target);
  vm.verify.check(spinning, `${gpu.name}: the compute engine did not hang`);
  await gpu.driver.writeRegister('ComputeHangLimitUs', HANG_LIMIT_US);
  const { status } = await spin;
  vm.verify.check(status === CompletionStatus.hung, `${gpu.name}: spin ended with ${status}`);
}

export default scenario({
  name: 'engines',
  question:
    'Do two engines of a vGPU work in order by fences alone, and does one continue while the other hangs?',
  vms: 1,
  vgpus: 2,
  ramMiB: 64,
  viommu: 'none',
  gpu: { policy: 'equal-share', sliceUs: 500 },
  params: { pipelines: 10 },

  async guest(vm: GuestVm): Promise<void> {
    const pipelines = Number(vm.params.pipelines);
    await vm.phase('pipeline');
    await vm.eachGpu(async (gpu) => {
      const buffers = await setUp(vm, gpu, gpu.index % 2 === 1);
      const run = async (from: number, count: number) => {
        for (let i = from; i < from + count; i++) await pipeline(vm, gpu, buffers, 1 + i * ROUNDS_AT_ONCE);
      };
      await run(0, pipelines);
      await copyBesideHang(vm, gpu, buffers);
      await run(pipelines, pipelines);
      vm.verify.check(
        gpu.driver.hangs === 1,
        `${gpu.name}: ${gpu.driver.hangs} resets of an engine for 1 hang`,
      );
      vm.note(
        `${gpu.name}: ${2 * pipelines * ROUNDS_AT_ONCE} rounds ordered by fences, ` +
          `${ROUNDS_BESIDE} rounds of the copy engine while the compute engine hung`,
      );
    });
  },
});
