/**
 * vGPUs for the bench, each in a thread of its own with a full ring, without a coordinator.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { Prng, sleep } from '#host';
import * as vgpu from '../src/abi/vgpu/vgpu.ts';
import { DeviceLink, DeviceState, RING_CONTROL } from '../src/channel/device-link.ts';
import { doorbellWords } from '../src/channel/doorbell.ts';
import { type MmioPort, REGION_BAR0, REGION_CONFIG } from '../src/channel/mmio-channel.ts';
import { GpuPool } from '../src/coordinator/gpu-pool.ts';
import type { DeviceOptions } from '../src/device/model.ts';
import type { DeviceTask } from '../src/device/runtime.ts';
import type { GpuSlotHandle } from '../src/gpu/engine-slot.ts';
import { BUFFER_PAGES } from '../src/load/buffers.ts';
import { type Gpa, type Hpa, type Iova, PAGE_2M, PAGE_SIZE, PERM_RW } from '../src/memory/address.ts';
import { GuestRam } from '../src/memory/guest-ram.ts';
import { HPA_BASE } from '../src/memory/host-memory.ts';
import { MSI_CAPABILITY, MSI_CONTROL_ENABLE } from '../src/pci/config-space.ts';
import { PinTableWriter } from '../src/pin-table/writer.ts';
import { encodeFrame } from '../src/proto/codec.ts';
import { Container } from '../src/vfio/container.ts';
import { type CommandFields, REGISTER_BYTES, writeCommand } from '../test/fixtures/vgpu-layout.ts';

/** Slots of a ring, as many as a driver under load would have. */
const RING_ENTRIES = 1024;
const RING_BYTES = RING_ENTRIES * vgpu.COMMAND_BYTES;
const COMPLETION_BYTES = RING_ENTRIES * vgpu.COMPLETION_BYTES;
/** Pages that a command may use, from GPU address 0 on: those of the load's buffers. */
const DATA_PAGES = BUFFER_PAGES;
const AREA_BYTES = RING_BYTES + COMPLETION_BYTES + (2 + DATA_PAGES) * PAGE_SIZE;
const STOP_MS = 10_000;

/** A vGPU in its own thread. Every slot of its ring holds the same command, so the guest only rings the doorbell. */
export class ThreadedVgpu {
  readonly link = new DeviceLink();
  readonly #port: MmioPort = this.link.mmioPort();
  readonly #ram: GuestRam;
  readonly #area: number;
  readonly #table = new PinTableWriter(64);
  #worker: Worker | undefined;
  posted = 0;

  constructor(ram: GuestRam, area: number) {
    this.#ram = ram;
    this.#area = area;
    const slot = this.#table.addReader();
    if (slot !== 0) throw new Error('the slot of the first reader is not 0');
    new Container(this.#table, ram).map(0 as Iova, 0, ram.size, PERM_RW);
  }

  /** Starts the thread, and enables the ring and interrupts. */
  async start(name: string, slot: GpuSlotHandle, command: CommandFields): Promise<void> {
    const options: DeviceOptions = { fault: '', gpu: slot };
    const task: DeviceTask = {
      process: 0,
      vm: 0,
      device: slot.slot,
      name,
      model: 'vgpu',
      modelSource: '',
      options,
      link: this.link.sab,
      pinTable: this.#table.handle,
      readerSlot: 0,
      memory: this.#ram.host.handle,
      coordinatorDoorbell: new SharedArrayBuffer(doorbellWords(1) * 4),
      coordinatorSenders: 1,
      coordinatorBit: 0,
    };
    this.#worker = new Worker(new URL('./vgpu-thread.js', import.meta.url), { workerData: task });
    while (this.link.state !== DeviceState.ready) await sleep(2);
    await this.#setUp(command);
  }

  /** Count of completed commands; each raises one interrupt. */
  get completed(): number {
    return this.link.interrupts(0);
  }

  /** Fills the ring if at least half of it is empty. */
  refill(): void {
    const room = RING_ENTRIES - 1 - (this.posted - this.completed);
    if (room >= RING_ENTRIES / 2) this.post(room);
  }

  post(commands: number): void {
    this.posted += commands;
    void this.#port.write(REGION_BAR0, vgpu.VGPU_OFFSET.RingTail, 4, BigInt(this.posted % RING_ENTRIES));
  }

  async stop(): Promise<void> {
    this.link.toDevice.push(encodeFrame({ timeUs: 0, process: 0, vm: 0, device: 0 }, 'deviceStop', {}));
    this.link.doorbell.ring(RING_CONTROL);
    const worker = this.#worker;
    if (!worker) return;
    await Promise.race([once(worker, 'exit'), sleep(STOP_MS)]);
    await worker.terminate();
  }

  async #setUp(command: CommandFields): Promise<void> {
    const [ring, completions] = [this.#area, this.#area + RING_BYTES];
    const directory = completions + COMPLETION_BYTES;
    const [table, data] = [directory + PAGE_SIZE, directory + 2 * PAGE_SIZE];
    for (let slot = 0; slot < RING_ENTRIES; slot++)
      writeCommand(this.#ram, ring + slot * vgpu.COMMAND_BYTES, command);
    this.#ram.write32(directory, table | vgpu.GPU_PTE_PRESENT);
    for (let page = 0; page < DATA_PAGES; page++)
      this.#ram.write32(
        table + page * 8,
        (data + page * PAGE_SIZE) | vgpu.GPU_PTE_PRESENT | vgpu.GPU_PTE_WRITABLE,
      );
    const config = (offset: number, size: 2 | 4, value: number) =>
      this.#port.write(REGION_CONFIG, offset, size, BigInt(value));
    await config(4, 2, 6);
    await config(MSI_CAPABILITY + 2, 2, MSI_CONTROL_ENABLE);
    const registers: readonly [vgpu.VgpuRegister, number][] = [
      ['RingBase', ring],
      ['RingEntries', RING_ENTRIES],
      ['CompletionBase', completions],
      ['PageTableBase', directory],
      ['Control', vgpu.CONTROL_ENABLE],
    ];
    for (const [name, value] of registers)
      await this.#port.write(REGION_BAR0, vgpu.VGPU_OFFSET[name], REGISTER_BYTES[name], BigInt(value));
    const status = Number(await this.#port.read(REGION_BAR0, vgpu.VGPU_OFFSET.Status, 4));
    if (status !== vgpu.STATUS_RUNNING) throw new Error(`the vGPU's status is ${status}`);
  }
}

/** Starts `count` vGPUs in threads, on as many physical GPUs as they need. */
export async function startVgpus(count: number, command: CommandFields): Promise<ThreadedVgpu[]> {
  const bytes = Math.ceil((count * AREA_BYTES + PAGE_2M) / PAGE_2M) * PAGE_2M;
  const ram = GuestRam.allocate(HPA_BASE as Hpa, bytes, 0, new Prng(1));
  const pool = new GpuPool();
  const vgpus = Array.from({ length: count }, (_, i) => new ThreadedVgpu(ram, i * AREA_BYTES));
  const places = vgpus.map(({ link }, i) => pool.place(`gpu${i}`, i, link.sab));
  for (const [i, place] of places.entries()) await vgpus[i]?.start(`gpu${i}`, pool.handle(place), command);
  return vgpus;
}

/** Returns the host addresses of the 2 MiB frames behind [gpa, gpa + size). */
export const framesOf = (ram: GuestRam, gpa: number, size: number): Hpa[] =>
  Array.from({ length: size / PAGE_2M }, (_, i) => {
    const [extent] = ram.extents((gpa + i * PAGE_2M) as Gpa, PAGE_2M);
    if (!extent || extent.size < PAGE_2M) throw new Error('a 2 MiB frame is not contiguous');
    return extent.hpa;
  });
