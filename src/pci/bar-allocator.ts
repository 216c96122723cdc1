/**
 * Allocator of BAR addresses for a guest that has sized a device's BARs: memory below 4 GiB, with 64-bit BARs above the
 * others, and I/O ports.
 */
/** Value that a driver writes to a BAR to size it (PCI Local Bus Specification 3.0 §6.2.5.1). */
export const BAR_SIZE_PROBE = 0xffff_ffffn;

const SPACE_IO = 1;
const TYPE_MASK = 0x7;
const TYPE_64_BITS = 0x4;
const IO_FLAGS = 0x3;
const MEMORY_FLAGS = 0xf;

/** Start of the hole in guest RAM below 4 GiB, and the share of each device. */
const MEMORY_BASE = 0x8000_0000;
const MEMORY_STRIDE = 0x100_0000;
/** 64-bit BARs are also below 4 GiB, as some firmware places them: lspci misreads dumps with higher addresses. */
const WIDE_BASE = 0xc000_0000;
const WIDE_STRIDE = 0x100_0000;
const WIDE_PLACES = 32;
const IO_BASE = 0xc000;
const IO_STRIDE = 0x100;
/** Devices beyond this count share addresses with others. Accesses name a BAR by its number, never by address. */
const PLACES = 64;

/** One device's share of the address spaces. */
export class BarSpace {
  #memory: number;
  #wide: number;
  #io: number;
  /** Upper half of the address of the 64-bit BAR that was placed last. */
  #upper: number | undefined;

  /** `index` is that of the device in its VM. */
  constructor(index: number) {
    this.#memory = MEMORY_BASE + (index % PLACES) * MEMORY_STRIDE;
    this.#wide = WIDE_BASE + (index % WIDE_PLACES) * WIDE_STRIDE;
    this.#io = IO_BASE + (index % PLACES) * IO_STRIDE;
  }

  /**
   * Returns the value to write to a BAR, or 0 for an absent BAR. `sized` is the BAR's value after all ones were
   * written to it. Call it for every BAR in order: the BAR after a 64-bit BAR is its upper half.
   */
  place(sized: number): number {
    const upper = this.#upper;
    this.#upper = undefined;
    if (upper !== undefined) return upper;
    if ((sized & TYPE_MASK) === TYPE_64_BITS) return this.#placeWide(-(sized & ~MEMORY_FLAGS) >>> 0);
    const isIo = (sized & SPACE_IO) !== 0;
    const bytes = -(sized & ~(isIo ? IO_FLAGS : MEMORY_FLAGS)) >>> 0;
    if (bytes === 0) return 0;
    const address = Math.ceil((isIo ? this.#io : this.#memory) / bytes) * bytes;
    if (isIo) this.#io = address + bytes;
    else this.#memory = address + bytes;
    return address;
  }

  /** Places a 64-bit BAR of less than 4 GiB. Returns the lower half of its address. */
  #placeWide(bytes: number): number {
    const address = Math.ceil(this.#wide / bytes) * bytes;
    this.#wide = address + bytes;
    this.#upper = Math.floor(address / 2 ** 32);
    return address % 2 ** 32;
  }
}
