/**
 * The memory behind a recorded guest's DMA maps: empty host frames that stand for its memfd and its ROMs.
 */
import { Prng } from '#host';
import { type Gpa, type Hpa, hex } from '../../memory/address.ts';
import { GuestRam, type HostExtent } from '../../memory/guest-ram.ts';
import { FRAME_SIZE, HostMemory, HPA_BASE } from '../../memory/host-memory.ts';
import { VfioError } from '../../vfio/errors.ts';
import type { Backing } from '../../vfio/mapping.ts';

/** Host memory for what came without an fd: option ROMs, the BIOS. */
export const ROM_SLAB_SIZE = 8 * FRAME_SIZE;

/** vaddrs from here on mean the ROM slab; below, a place in the memfd. */
const ROM_VADDR = 2 ** 44;

/** Frames are shuffled the same way in every replay: only that they are shuffled matters. */
const SHUFFLE_SEED = 2016;

/**
 * Backing of a replayed container. A vaddr is what {@link memfdVaddr} (the offset in the memfd, over shuffled 2 MiB
 * host frames) or {@link romVaddr} gave out. Nothing is written: the frames cost no memory.
 */
export class RecordedMemory implements Backing {
  readonly #rom: HostMemory;
  #ram: GuestRam | undefined;

  constructor() {
    this.#rom = HostMemory.allocate(HPA_BASE as Hpa, ROM_SLAB_SIZE);
  }

  /** The memfd's size is known: a multiple of 2 MiB, at most 2 GiB. @throws RangeError */
  mapMemfd(size: number): void {
    this.#ram = GuestRam.allocate((HPA_BASE + ROM_SLAB_SIZE) as Hpa, size, 0, new Prng(SHUFFLE_SEED));
  }

  /** vaddr of `offset` in the memfd. @throws VfioError EFAULT for an offset that no memfd has */
  memfdVaddr(offset: bigint): number {
    if (offset >= ROM_VADDR) throw new VfioError('EFAULT', `no memfd reaches ${hex(offset)}`);
    return Number(offset);
  }

  /** vaddr of the memory of a map without an fd: its place in the slab follows from its IOVA. */
  romVaddr(iova: number): number {
    return ROM_VADDR + (iova % ROM_SLAB_SIZE);
  }

  /** HPA behind `vaddr`, or undefined: computed without {@link extents}, to check it. */
  hpaOf(vaddr: number): Hpa | undefined {
    return vaddr >= ROM_VADDR
      ? ((this.#rom.base + ((vaddr - ROM_VADDR) % ROM_SLAB_SIZE)) as Hpa)
      : this.#ram?.hpaOf(vaddr);
  }

  /** @throws RangeError beyond the memfd, or more than the ROM slab */
  extents(vaddr: number, size: number): readonly HostExtent[] {
    if (vaddr >= ROM_VADDR) return this.#romExtents(vaddr - ROM_VADDR, size);
    if (!this.#ram) throw new RangeError(`no memory at ${hex(vaddr)}: no memfd was mapped`);
    return this.#ram.extents(vaddr as Gpa, size);
  }

  /** From `offset` on, and again from the slab's start if its end comes first. */
  #romExtents(offset: number, size: number): HostExtent[] {
    if (size > ROM_SLAB_SIZE)
      throw new RangeError(
        `a map of ${hex(size)} bytes without an fd; accepted: up to ${hex(ROM_SLAB_SIZE)}`,
      );
    const first = Math.min(size, ROM_SLAB_SIZE - offset);
    const extents = [{ hpa: (this.#rom.base + offset) as Hpa, size: first }];
    if (size > first) extents.push({ hpa: this.#rom.base as Hpa, size: size - first });
    return extents;
  }
}
