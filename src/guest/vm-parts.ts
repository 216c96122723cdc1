/**
 * The parts of a guest: new ones for a VM that boots, restored ones for a VM that arrives from another host.
 */
import { Prng } from '#host';
import { Gate } from '../channel/gate.ts';
import { FOUR_GIB } from '../memory/address.ts';
import { GuestRam } from '../memory/guest-ram.ts';
import type { Metrics } from '../metrics/metrics.ts';
import { Latencies } from '../report/histograms.ts';
import { GpuDriver } from './gpu/driver.ts';
import { domainOf, type SavedGuest } from './guest-state.ts';
import { DmaApi } from './iommu/dma-api.ts';
import { IovaAllocator } from './iommu/iova-allocator.ts';
import { PageAllocator, type PageAllocatorState } from './page-allocator.ts';
import { GuestPciDevice } from './pci-device.ts';
import type { GuestTask } from './protocol.ts';
import { VmIommu } from './vm-iommu.ts';

/** First IOVA of the DMA API. It is above every GPA, so that no IOVA equals the GPA that it maps. */
const IOVA_BASE = 2 ** 34;
const IOVA_BYTES = 2 ** 34;
/** First GPA that the guest uses; firmware would own the memory below. */
const FIRST_PAGE = 0x10_0000;

/** A vGPU of a VM: its driver and its DMA API. */
export interface GuestGpu {
  /** `vmN/gpuM`. */
  readonly name: string;
  /** Position among the devices of the VM, from 0. */
  readonly index: number;
  /** bus << 8 | device << 3 | function */
  readonly requesterId: number;
  readonly driver: GpuDriver;
  readonly dma: DmaApi;
  /** Its part of the VM's latencies. */
  readonly latencies: Latencies;
  /** The VM's metrics with the tags of this vGPU; in an `iteration` also with those of its stage and workload. */
  readonly metrics: Metrics;
}

/** Any device of a VM. */
export type GuestDmaDevice = GuestGpu | GuestPciDevice;

/** The parts of a VM on the side of its guest. */
export interface VmParts {
  /** Closed while the VM is paused; its drivers then do nothing. */
  readonly gate: Gate;
  readonly prng: Prng;
  readonly ram: GuestRam;
  /** Pages below and above 4 GiB. */
  readonly lowPages: PageAllocator;
  readonly pages: PageAllocator;
  /** IOVAs of the DMA API of every device. */
  readonly iovas: IovaAllocator;
  readonly iommu: VmIommu;
  readonly gpus: readonly GuestGpu[];
  readonly devices: readonly GuestPciDevice[];
  /** Each device's part of the VM's latencies, by index. */
  readonly deviceLatencies: readonly Latencies[];
}

/**
 * Makes the parts of a VM. With `saved` they continue where those of its last host stopped; RAM and devices are not
 * touched.
 * @throws SavedGpuError, GuestStateError for a saved state that does not fit this VM
 */
export function createVmParts(
  task: GuestTask,
  latencies: Latencies,
  metrics: Metrics,
  saved: SavedGuest | undefined,
): VmParts {
  const ram = new GuestRam(task.ram);
  const { below4g, above4g } = task.ram;
  const lowPages = pageAllocator(ram, FIRST_PAGE, below4g - FIRST_PAGE, saved?.lowPages);
  const iovas = saved
    ? IovaAllocator.restore(IOVA_BASE, IOVA_BYTES, saved.iovas)
    : new IovaAllocator(IOVA_BASE, IOVA_BYTES);
  const gate = new Gate();
  const iommu = new VmIommu(task, ram, lowPages, saved, gate);
  const deviceLatencies = task.devices.map(() => new Latencies(latencies));
  const deviceMetrics = (index: number) => metrics.tagged({ vgpu: String(index) });
  const dma = (index: number): DmaApi => {
    const api = new DmaApi(deviceLatencies[index] as Latencies, iovas, gate, deviceMetrics(index));
    api.setDomain(domainOf(saved?.devices[index]?.domain ?? null, iommu.findDomain));
    return api;
  };
  const isGpu = task.model === 'vgpu';
  return {
    gate,
    prng: saved ? Prng.from(saved.prng) : new Prng(task.seed ^ 0x5eed),
    ram,
    lowPages,
    pages: pageAllocator(ram, FOUR_GIB, above4g, saved?.pages),
    iovas,
    iommu,
    gpus: (isGpu ? task.devices : []).map((device, index) => ({
      name: device.name,
      index,
      requesterId: device.requesterId,
      driver: saved
        ? GpuDriver.restore(device, index, ram, lowPages, saved.devices[index]?.driver, gate)
        : new GpuDriver(device, index, ram, lowPages, undefined, gate),
      dma: dma(index),
      latencies: deviceLatencies[index] as Latencies,
      metrics: deviceMetrics(index),
    })),
    deviceLatencies,
    devices: (isGpu ? [] : task.devices).map(
      (device, index) => new GuestPciDevice(device, index, dma(index), gate),
    ),
  };
}

const pageAllocator = (
  ram: GuestRam,
  base: number,
  size: number,
  saved: PageAllocatorState | undefined,
): PageAllocator =>
  saved ? PageAllocator.restore(ram, base, size, saved) : new PageAllocator(ram, base, size);
