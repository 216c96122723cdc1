/**
 * Verified work for a vGPU: fill, copy and checksum, with every byte of the results compared.
 */
import { crc32 } from 'node:zlib';
import { CompletionStatus, Opcode } from '../abi/vgpu/vgpu.ts';
import { type Gpa, hex, type Iova, PAGE_SIZE, toIova } from '../memory/address.ts';
import type { GpuCommand, GpuCompletion } from './gpu/ring.ts';
import type { GuestVm } from './guest-vm.ts';
import type { DmaBuffer } from './iommu/dma-api.ts';
import type { GuestGpu } from './vm-parts.ts';

/**
 * Submits a command, counts it in `vm.operations` and records its latency from doorbell to completion.
 * @throws as GpuDriver.submit
 */
export async function submit(vm: GuestVm, gpu: GuestGpu, command: GpuCommand): Promise<GpuCompletion> {
  const completion = await gpu.driver.submit(command);
  gpu.latencies.recordUs('interrupt', completion.latencyUs);
  gpu.metrics.trend('command_latency').add(completion.latencyUs);
  if (completion.status === CompletionStatus.fault)
    gpu.metrics.trend('fault_latency').add(completion.latencyUs);
  gpu.metrics.counter('commands').add();
  vm.operations++;
  return completion;
}

/** Returns the bytes of `pages` pages filled with one 32-bit value. */
export function filled(pages: number, value: number): Uint8Array {
  const bytes = new Uint8Array(pages * PAGE_SIZE);
  new Uint32Array(bytes.buffer).fill(value);
  return bytes;
}

/** Returns the GPAs of `count` zeroed pages above 4 GiB, or below if `low`. @throws PageAllocatorExhausted */
export const allocatePages = (vm: GuestVm, count: number, low = false): Gpa[] =>
  Array.from({ length: count }, () => (low ? vm.lowPages : vm.pages).allocate() as Gpa);

/**
 * Runs one round on two mapped buffers of equal size, `source` at GPU address `va` and `target` behind it: fills the
 * first, copies it to the second, and checks the checksum and all bytes. A difference fails the run.
 * @throws as GpuDriver.submit
 */
export async function verifiedRound(
  vm: GuestVm,
  gpu: GuestGpu,
  va: number,
  source: readonly Gpa[],
  target: readonly Gpa[],
): Promise<void> {
  const length = source.length * PAGE_SIZE;
  const value = vm.prng.next32();
  const expected = filled(source.length, value);
  const [fill, copy, checksum] = await Promise.all([
    submit(vm, gpu, { opcode: Opcode.fill, target: va, length, value }),
    submit(vm, gpu, { opcode: Opcode.copy, target: va + length, source: va, length }),
    submit(vm, gpu, { opcode: Opcode.checksum, source: va + length, length }),
  ]);
  for (const [name, { status }] of Object.entries({ fill, copy, checksum }))
    vm.verify.check(status === CompletionStatus.ok, `${gpu.name} ${name} at ${hex(va)} ended with ${status}`);
  vm.verify.check(
    checksum.result === crc32(expected),
    `${gpu.name} checksum ${hex(checksum.result)}, expected ${hex(crc32(expected))}`,
  );
  vm.verify.pages(source, expected, `${gpu.name} fill`);
  vm.verify.pages(target, expected, `${gpu.name} copy`);
}

/** A load on one pair of buffers that runs until it is stopped, also during a switch of address spaces. */
export class SteadyLoad {
  /** Count of completed rounds. */
  rounds = 0;
  /** GPAs of the buffers: the source, then the target. */
  readonly pages: readonly Gpa[];
  readonly #vm: GuestVm;
  readonly #gpu: GuestGpu;
  readonly #va: number;
  readonly #half: number;
  #stopping = false;
  #done: Promise<void> = Promise.resolve();

  /** Allocates 2 × `half` pages below 4 GiB; the load uses them at IOVA = GPA and at GPU address `va`. */
  constructor(vm: GuestVm, gpu: GuestGpu, va: number, half: number) {
    this.#vm = vm;
    this.#gpu = gpu;
    this.#va = va;
    this.#half = half;
    this.pages = allocatePages(vm, 2 * half, true);
  }

  /** Maps the buffers in the GPU page table and starts the load. */
  async start(): Promise<void> {
    await this.#gpu.driver.map(this.#va, this.pages.map(toIova));
    this.#stopping = false;
    this.#done = this.#run();
    this.#done.catch(() => {}); // reported by stop
  }

  /** Ends the load after its current round. @throws the error of the load */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  /** Resolves after `count` more rounds, or when the load ends. */
  async atLeast(count: number): Promise<void> {
    const goal = this.rounds + count;
    let ended = false;
    const end = this.#done.then(
      () => {
        ended = true;
      },
      () => {
        ended = true;
      },
    );
    while (this.rounds < goal && !ended) await Promise.race([end, this.#vm.sleep(1)]);
  }

  async #run(): Promise<void> {
    const [source, target] = [this.pages.slice(0, this.#half), this.pages.slice(this.#half)];
    while (!this.#stopping) {
      await verifiedRound(this.#vm, this.#gpu, this.#va, source, target);
      this.rounds++;
    }
  }
}

/**
 * Runs one round of strict churn: maps 2 × `half` new pages, works on them at GPU address `va` and unmaps them. With
 * `probe` it then checks by {@link probeUnmapped} that the device cannot reach them.
 */
export async function churnRound(
  vm: GuestVm,
  gpu: GuestGpu,
  va: number,
  half: number,
  probe: boolean,
): Promise<void> {
  const pages = allocatePages(vm, 2 * half);
  const buffer = await gpu.dma.map(pages);
  await gpu.driver.map(va, buffer.iovas);
  await verifiedRound(vm, gpu, va, pages.slice(0, half), pages.slice(half));
  await gpu.dma.unmap(buffer);
  if (probe && buffer.domain) await probeUnmapped(vm, gpu, va, buffer);
  await gpu.driver.unmap(va, buffer.iovas.length);
  for (const page of pages) vm.pages.free(page);
}

/**
 * Fills an unmapped buffer, which the GPU page table still maps at `va`: the device must fault and no byte may
 * change.
 */
export async function probeUnmapped(
  vm: GuestVm,
  gpu: GuestGpu,
  va: number,
  { pages, iovas }: DmaBuffer,
): Promise<void> {
  const before = vm.ram.read(pages[0] as Gpa, PAGE_SIZE);
  await vm.expectFault(gpu, iovas[0] as Iova);
  const { status } = await submit(vm, gpu, {
    opcode: Opcode.fill,
    target: va,
    length: PAGE_SIZE,
    value: ~vm.prng.next32() >>> 0,
  });
  vm.verify.check(
    status === CompletionStatus.fault,
    `${gpu.name} reached unmapped IOVA ${hex(iovas[0] as Iova)} (status ${status}): stale translation`,
  );
  vm.verify.pages([pages[0] as Gpa], before, `${gpu.name} write after unmap`);
}
