/**
 * The smallest vIOMMU model: none. Every device sees system memory all the time.
 */

import { type Iova, PERM_RW, toGpa } from '../memory/address.ts';
import { allOnes } from '../memory/bus-access.ts';
import type { GuestRam } from '../memory/guest-ram.ts';
import type { Completion } from '../platform/completion.ts';
import { decodeState, encodeState } from '../proto/state-codec.ts';
import type { DeviceAddressSpace } from './address-space.ts';
import type { TranslateResult, VIommu } from './viommu.ts';

export class NoIommu implements VIommu {
  readonly name = 'none';
  readonly registerBytes = 0;
  readonly #ram: GuestRam;

  constructor(ram: GuestRam) {
    this.#ram = ram;
  }

  attach(space: DeviceAddressSpace): Completion {
    return space.enterSystem();
  }

  detach(): void {}

  readRegister(_offset: number, size: number): bigint {
    return allOnes(size);
  }

  writeRegister(): Completion {
    return undefined;
  }

  quiesce(work: () => void): Completion {
    work();
    return undefined;
  }

  /** Returns only the kind: there is no state, but the other host must have the same vIOMMU. */
  save(): Uint8Array {
    return encodeState('none', 1, {});
  }

  /** @throws StateError */
  restore(state: Uint8Array): void {
    decodeState(state, 'none', 1);
  }

  translate(_requesterId: number, iova: Iova): TranslateResult {
    const gpa = toGpa(iova);
    if (this.#ram.contains(gpa, 1)) return { ok: true, gpa, perm: PERM_RW };
    return { ok: false, reason: 0, text: 'not guest RAM' };
  }
}
