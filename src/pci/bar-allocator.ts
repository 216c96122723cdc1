/**
 * Where a guest's driver puts a device's BARs, once it knows their sizes: memory below 4 GiB, that of 64-bit BARs above
 * the rest, and I/O ports.
 */
/** Value that a driver writes to a BAR to size it (PCI Local Bus Specification 3.0 §6.2.5.1). */
export const BAR_SIZE_PROBE = 0xffff_ffffn;

const SPACE_IO = 1;
const TYPE_MASK = 0x7;
const TYPE_64_BITS = 0x4;
const IO_FLAGS = 0x3;
const MEMORY_FLAGS = 0xf;

/** The hole in guest RAM below 4 GiB, and what each device may have of it. */
const MEMORY_BASE = 0x8000_0000;
const MEMORY_STRIDE = 0x100_0000;
/** Below 4 GiB too, as firmware does that leaves nothing to 64-bit software: lspci reads no dump right that has more. */
const WIDE_BASE = 0xc000_0000;
const WIDE_STRIDE = 0x100_0000;
const WIDE_PLACES = 32;
const IO_BASE = 0xc000;
const IO_STRIDE = 0x100;
/** Beyond so many devices of a VM the places are used again: BARs are reached by number, never by address. */
const PLACES = 64;

/** One device's part of the address spaces. */
export class BarSpace {
  #memory: number;
  #wide: number;
  #io: number;
  /** Upper half of the address of the 64-bit BAR that has just been placed. */
  #upper: number | undefined;

  /** `index` of the device in its VM. */
  constructor(index: number) {
    this.#memory = MEMORY_BASE + (index % PLACES) * MEMORY_STRIDE;
    this.#wide = WIDE_BASE + (index % WIDE_PLACES) * WIDE_STRIDE;
    this.#io = IO_BASE + (index % PLACES) * IO_STRIDE;
  }

  /**
   * The address for a BAR, from what it reads after all ones were written to it; 0 for one that is not there. To be called
   * for each BAR in order: the one after a 64-bit BAR is its upper half.
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

  /** Places a 64-bit BAR of less than 4 GiB. The lower half of its address. */
  #placeWide(bytes: number): number {
    const address = Math.ceil(this.#wide / bytes) * bytes;
    this.#wide = address + bytes;
    this.#upper = Math.floor(address / 2 ** 32);
    return address % 2 ** 32;
  }
}
