/**
 * RAM of a recorded machine that many vectors use one after the other. Its memory is committed only once: each vector
 * starts from zeros, because the pages that the one before has written are cleared.
 */
import { Prng } from '#host';
import type { Hpa } from '../memory/address.ts';
import { PAGE_SIZE } from '../memory/address.ts';
import { GuestRam } from '../memory/guest-ram.ts';
import { HPA_BASE } from '../memory/host-memory.ts';
import type { RamLog } from '../memory/ram-log.ts';

const TWO_GIB = 2 ** 31;

/** Bytes that may have been committed before RAM is made anew: cleared pages stay committed. */
const WORN_BYTES = 128 * 2 ** 20;

export class VectorRam extends GuestRam {
  /** Bytes cleared so far. */
  #cleared = 0;

  /** RAM of `below4g` bytes from 0 and `above4g` bytes from 4 GiB. Only written pages are committed. */
  static create(below4g: number, above4g = 0): VectorRam {
    const ram = new VectorRam(GuestRam.allocate(HPA_BASE as Hpa, below4g, above4g, new Prng(1)).handle);
    ram.startLog();
    return ram;
  }

  /** Writes zeros to every page written since the last call. */
  clear(): void {
    const log = this.log as RamLog;
    const zeros = new Uint8Array(PAGE_SIZE);
    log.harvest((page) => {
      this.write(this.gpaOfPage(page), zeros);
      this.#cleared += PAGE_SIZE;
    });
    // The zeros have been marked too.
    log.clear();
  }

  /** Returns whether so many pages are committed that new RAM is better. */
  get isWorn(): boolean {
    return this.#cleared >= WORN_BYTES;
  }
}

let sharedRam: VectorRam | undefined;

/** Returns this thread's RAM of the recorded q35 machine: [0, 2 GiB) and [4 GiB, 6 GiB). */
export function q35Ram(): VectorRam {
  if (!sharedRam || sharedRam.isWorn) sharedRam = VectorRam.create(TWO_GIB, TWO_GIB);
  return sharedRam;
}
