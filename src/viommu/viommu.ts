/**
 * The one interface in front of every vIOMMU model: what the machine around it may ask.
 */
import type { Gpa, Iova } from '../memory/address.ts';
import type { Completion } from '../platform/completion.ts';
import type { DeviceAddressSpace } from './address-space.ts';

/** The answer to a device's request. `reason` is the model's own fault code (VT-d's are in hex in its spec). */
export type TranslateResult =
  | { readonly ok: true; readonly gpa: Gpa /** PERM_READ | PERM_WRITE granted */; readonly perm: number }
  | { readonly ok: false; readonly reason: number; readonly text: string };

/** A fault as the vIOMMU saw it, for counters, trace and report. */
export interface DmaFaultRecord {
  readonly requesterId: number;
  readonly iova: Iova;
  readonly write: boolean;
  readonly reason: number;
  readonly text: string;
}

/** A guest-visible IOMMU. Called from the coordinator thread only. */
export interface VIommu {
  /** The word that chooses it in a scenario: `none`, `intel`, … */
  readonly name: string;
  /** Size in bytes of the MMIO register page; 0 if there is none. */
  readonly registerBytes: number;
  /** True: devices reach memory through fixed windows, and their containers are of that kind. */
  readonly windowed?: boolean;
  /** Puts a device behind this vIOMMU and switches its address space to what the tables say now. */
  attach(space: DeviceAddressSpace): Completion;
  detach(requesterId: number): void;
  /** A guest's MMIO read, `size` 4 or 8. */
  readRegister(offset: number, size: number): bigint;
  /** A guest's MMIO write; everything it causes is complete (R6) when the completion is. */
  writeRegister(offset: number, size: number, value: bigint): Completion;
  /**
   * The registers and what else is not in guest RAM, for another host. Everything the guest asked for must be complete.
   * Without it a VM with this vIOMMU cannot be migrated.
   */
  save?(): Uint8Array;
  /**
   * Takes up what {@link save} gave, in a vIOMMU just made: guest RAM is there, and no device attached yet.
   * @throws StateError
   */
  restore?(state: Uint8Array): void;
  /** Translates one access of a device as the hardware would. Records a fault on failure. */
  translate(requesterId: number, iova: Iova, write: boolean): TranslateResult;
}
