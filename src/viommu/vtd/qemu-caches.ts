/**
 * Caches of QEMU 11.1.3 besides its IOTLB, as far as a guest that invalidates correctly can notice them: devices with a
 * cached context, and devices switched to system memory. Used only with quirks 'qemu'.
 */
import { FUNCTION_MASKS } from '../../abi/vtd.ts';
import type { Invalidation } from './invalidation.ts';

export class QemuCaches {
  /** Devices whose context entry was valid at their last walk. P of their PASID entry is not checked again. */
  readonly #contexts = new Set<number>();
  /** Devices in pass-through: QEMU switches them to system memory until their context is invalidated. */
  readonly #passThrough = new Set<number>();

  hasContext(requesterId: number): boolean {
    return this.#contexts.has(requesterId);
  }

  rememberContext(requesterId: number): void {
    this.#contexts.add(requesterId);
  }

  passesThrough(requesterId: number): boolean {
    return this.#passThrough.has(requesterId);
  }

  rememberPassThrough(requesterId: number): void {
    this.#passThrough.add(requesterId);
  }

  clear(): void {
    this.#contexts.clear();
    this.#passThrough.clear();
  }

  apply(request: Invalidation): void {
    switch (request.kind) {
      case 'context-global':
      case 'context-domain':
        this.clear();
        return;
      case 'context-device':
        this.#forgetContexts(request.requesterId, request.functionMask);
        return;
      default:
    }
  }

  #forgetContexts(requesterId: number, functionMask: number): void {
    const compared = ~(FUNCTION_MASKS[functionMask] as number);
    for (const devices of [this.#contexts, this.#passThrough])
      for (const device of devices) if (((device ^ requesterId) & compared) === 0) devices.delete(device);
  }
}
