/**
 * Interface of every vIOMMU model towards the machine around it.
 */
import type { Gpa, Iova } from '../memory/address.ts';
import type { Completion } from '../platform/completion.ts';
import type { DeviceAddressSpace } from './address-space.ts';

/** Result of a device's request. `reason` is the model's own fault code. */
export type TranslateResult =
  | { readonly ok: true; readonly gpa: Gpa /** PERM_READ | PERM_WRITE granted */; readonly perm: number }
  | { readonly ok: false; readonly reason: number; readonly text: string };

/** A fault that the vIOMMU has found, for counters, trace and report. */
export interface DmaFaultRecord {
  readonly requesterId: number;
  readonly iova: Iova;
  readonly write: boolean;
  readonly reason: number;
  readonly text: string;
}

/** An interrupt as it leaves the IOMMU. Numbers are those of the APIC: destMode 1 = logical, triggerMode 1 = level. */
export interface InterruptMessage {
  readonly dest: number;
  readonly destMode: number;
  readonly redirHint: number;
  readonly vector: number;
  readonly deliveryMode: number;
  readonly triggerMode: number;
}

/** Result of a device's interrupt message. `recorded`: the refusal has made a new record. */
export type InterruptAnswer =
  | ({ readonly kind: 'delivered'; readonly remapped: boolean } & InterruptMessage)
  | {
      readonly kind: 'blocked';
      readonly reason: number;
      readonly index: number;
      readonly recorded: boolean;
      readonly text: string;
    };

/** A guest-visible IOMMU. Called only from the coordinator thread. */
export interface VIommu {
  /** The model's name, for reports: `none`, `intel`, … */
  readonly name: string;
  /** Bytes of the MMIO register page; 0 if there is no such page. */
  readonly registerBytes: number;
  /** True if devices reach memory through fixed windows, which their containers must support. */
  readonly windowed?: boolean;
  /** Puts a device behind this vIOMMU and switches its address space to the current translations. */
  attach(space: DeviceAddressSpace): Completion;
  detach(requesterId: number): void;
  /** Performs a guest's MMIO read of `size` 4 or 8. */
  readRegister(offset: number, size: number): bigint;
  /** Performs a guest's MMIO write. All its effects are complete (R6) when the returned work is. */
  writeRegister(offset: number, size: number, value: bigint): Completion;
  /** Runs `work` when every command that the guest has given is complete, and before any later one begins. */
  quiesce(work: () => void): Completion;
  /**
   * Returns the registers and all other state outside guest RAM, for migration. Everything the guest has requested must
   * be complete. A VM whose vIOMMU has no `save` cannot be migrated.
   */
  save?(): Uint8Array;
  /**
   * Restores what {@link save} returned, in a newly created vIOMMU. Guest RAM is already restored, and no device is
   * attached.
   * @throws StateError
   */
  restore?(state: Uint8Array): void;
  /** True while interrupt messages do not pass as they are. Absent where the IOMMU does not remap interrupts. */
  readonly remapsInterrupts?: boolean;
  /** Remaps one interrupt message of a device, with an address of 0xfeexxxxx. A refusal records a fault. */
  remapInterrupt?(requesterId: number, address: number, data: number): InterruptAnswer;
  /** Translates one access of a device as the hardware would. A failed access records a fault. */
  translate(requesterId: number, iova: Iova, write: boolean): TranslateResult;
}
