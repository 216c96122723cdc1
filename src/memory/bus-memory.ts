/**
 * The bus addresses that a device can reach: guest RAM and, in a VM of several devices, the window in which the guest
 * places their BARs. A bus address in the window is its own host address. No RAM lies below HPA_BASE, so that a device
 * can tell them apart.
 */
import { type Gpa, type Hpa, PAGE_SIZE } from './address.ts';
import { type GuestRam, type HostExtent, MMIO_HOLE_START, type RamRegion } from './guest-ram.ts';
import { HPA_BASE } from './host-memory.ts';

/** First address beyond the window: the I/O APIC and the interrupt messages are above it, as on QEMU's q35. */
const MMIO_WINDOW_END = 0xfec0_0000;

const MMIO_WINDOW: RamRegion = { gpa: MMIO_HOLE_START as Gpa, size: MMIO_WINDOW_END - MMIO_HOLE_START };

/** First host page of RAM. Lower host pages are bus addresses in the window. */
export const RAM_PFN_FIRST: number = HPA_BASE / PAGE_SIZE;

/** Returns true if a page lies in the window of the BARs. */
export const inMmioWindow = (gpa: number): boolean => gpa >= MMIO_HOLE_START && gpa < MMIO_WINDOW_END;

/** Memory to which the mappings of a device may lead. */
export class BusMemory {
  /** In ascending order. */
  readonly regions: readonly RamRegion[];
  readonly ram: GuestRam;
  readonly #hasWindow: boolean;

  constructor(ram: GuestRam, hasWindow: boolean) {
    this.ram = ram;
    this.#hasWindow = hasWindow;
    const regions = hasWindow ? [...ram.regions, MMIO_WINDOW] : ram.regions;
    this.regions = [...regions].sort((a, b) => a.gpa - b.gpa);
  }

  /** Returns true if all of [gpa, gpa + size) can be mapped. */
  contains(gpa: number, size: number): boolean {
    return this.#inWindow(gpa, size) || this.ram.contains(gpa, size);
  }

  /** Returns the host addresses behind a range. @throws GuestAddressError */
  extents(gpa: Gpa, size: number): readonly HostExtent[] {
    return this.#inWindow(gpa, size) ? [{ hpa: gpa as number as Hpa, size }] : this.ram.extents(gpa, size);
  }

  /** Returns the host PFN of the page at `gpa`, or -1 for none. */
  frameOf(gpa: number): number {
    return this.#inWindow(gpa, PAGE_SIZE) ? gpa / PAGE_SIZE : this.ram.frameOf(gpa);
  }

  #inWindow(gpa: number, size: number): boolean {
    return this.#hasWindow && gpa >= MMIO_HOLE_START && gpa + size <= MMIO_WINDOW_END;
  }
}
