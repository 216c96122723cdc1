/**
 * Memory behind a recorded guest's DMA maps: empty host frames in place of its memfd and its ROMs.
 */
import { Prng } from '#host';
import { type Gpa, type Hpa, hex } from '../../memory/address.ts';
import { GuestRam, type HostExtent } from '../../memory/guest-ram.ts';
import { FRAME_SIZE, HostMemory, HPA_BASE } from '../../memory/host-memory.ts';
import { VfioError } from '../../vfio/errors.ts';
import type { Backing } from '../../vfio/mapping.ts';

/** Size of the host memory for maps without an fd: option ROMs, the BIOS. */
const ROM_SLAB_SIZE = 8 * FRAME_SIZE;

/** First vaddr of the ROM slab. A lower vaddr is an offset in the memfd. */
const ROM_VADDR = 2 ** 44;

/** Seed of the frames' shuffle. It is constant, so every replay is the same. */
const SHUFFLE_SEED = 2016;

/**
 * Backing of a replayed container. A vaddr is the result of {@link memfdVaddr} (an offset in the memfd, which has
 * shuffled 2 MiB host frames) or of {@link romVaddr}. Nothing is written, so the frames take no memory.
 */
export class RecordedMemory implements Backing {
  readonly #rom: HostMemory;
  #ram: GuestRam | undefined;

  constructor() {
    this.#rom = HostMemory.allocate(HPA_BASE as Hpa, ROM_SLAB_SIZE);
  }

  /** Allocates the memfd's memory. `size` is a multiple of 2 MiB, at most 2 GiB. @throws RangeError */
  mapMemfd(size: number): void {
    this.#ram = GuestRam.allocate((HPA_BASE + ROM_SLAB_SIZE) as Hpa, size, 0, new Prng(SHUFFLE_SEED));
  }

  /** Returns the vaddr of `offset` in the memfd. @throws VfioError EFAULT for an offset beyond any memfd */
  memfdVaddr(offset: bigint): number {
    if (offset >= ROM_VADDR) throw new VfioError('EFAULT', `no memfd reaches ${hex(offset)}`);
    return Number(offset);
  }

  /** Returns the vaddr for a map without an fd. Its IOVA determines its offset in the slab. */
  romVaddr(iova: number): number {
    return ROM_VADDR + (iova % ROM_SLAB_SIZE);
  }

  /** Returns the HPA behind `vaddr`, or undefined. It does not use {@link extents}, because it checks them. */
  hpaOf(vaddr: number): Hpa | undefined {
    return vaddr >= ROM_VADDR
      ? ((this.#rom.base + ((vaddr - ROM_VADDR) % ROM_SLAB_SIZE)) as Hpa)
      : this.#ram?.hpaOf(vaddr);
  }

  /** @throws RangeError beyond the memfd, or for more bytes than the ROM slab */
  extents(vaddr: number, size: number): readonly HostExtent[] {
    if (vaddr >= ROM_VADDR) return this.#romExtents(vaddr - ROM_VADDR, size);
    if (!this.#ram) throw new RangeError(`no memory at ${hex(vaddr)}: no memfd was mapped`);
    return this.#ram.extents(vaddr as Gpa, size);
  }

  /** Returns the extents from `offset` on. They continue at the slab's start after its end. */
  #romExtents(offset: number, size: number): HostExtent[] {
    if (size > ROM_SLAB_SIZE)
      throw new RangeError(`map of ${hex(size)} bytes without an fd; accepted: up to ${hex(ROM_SLAB_SIZE)}`);
    const first = Math.min(size, ROM_SLAB_SIZE - offset);
    const extents = [{ hpa: (this.#rom.base + offset) as Hpa, size: first }];
    if (size > first) extents.push({ hpa: this.#rom.base as Hpa, size: size - first });
    return extents;
  }
}
