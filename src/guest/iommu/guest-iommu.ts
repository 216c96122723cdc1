/**
 * The interface of every guest driver for a vIOMMU, and of its domains.
 */

/** An IOVA→GPA address space to which devices are attached. Addresses and sizes are bytes, multiples of 4 KiB. */
export interface GuestDomain extends DmaDomain {
  /** ID of the domain, for {@link GuestIommu.domain}; a migration keeps it. */
  readonly id: number;
  /**
   * Maps a range; resolves when the attached devices see the mapping.
   * @param perm PERM_READ | PERM_WRITE
   * @throws the driver's own error if part of the range is mapped or out of bounds
   */
  map(iova: number, gpa: number, size: number, perm: number): Promise<void>;
  /** Maps several ranges with few notifications; else as {@link map}. */
  mapAll(ranges: readonly MapRange[]): Promise<void>;
  /** Unmaps a range; resolves to the count of bytes that were mapped when no device can use the mappings any more. */
  unmap(iova: number, size: number): Promise<number>;
  /** Unmaps several ranges; else as {@link unmap}. */
  unmapAll(ranges: readonly UnmapRange[]): Promise<number>;
}

/** A DMA fault, as the hardware reports it to the guest. */
export interface GuestFault {
  /** bus << 8 | device << 3 | function */
  readonly requesterId: number;
  readonly iova: number;
  /** True for a write, false for a read. */
  readonly write: boolean;
  /** Reason code of the hardware. */
  readonly reason: number;
}

/** Capabilities that differ between vIOMMUs. */
export interface GuestIommuCapabilities {
  /** True if one device can see system memory while others are translated. */
  readonly passThrough: boolean;
  /** True if the hardware reports faults to the guest. */
  readonly faultRecords: boolean;
}

/**
 * A started driver for a vIOMMU. Requester IDs are bus << 8 | device << 3 | function.
 *
 * While translation is disabled, every device sees system memory at IOVA = GPA; attachments take effect later. While
 * it is enabled, a device that is not attached sees nothing. Each call resolves when devices see its effect. A device
 * that works meanwhile does not fault on an IOVA that is mapped to the same GPA before and after the call.
 */
export interface GuestIommu {
  readonly capabilities: GuestIommuCapabilities;
  /** Creates an empty domain. @throws the driver's own error when its resources are used up */
  createDomain(): GuestDomain;
  /** Returns the domain with this ID; undefined if this driver has none. */
  domain(id: number): GuestDomain | undefined;
  /** Moves a device into a domain of this driver. */
  attach(requesterId: number, domain: GuestDomain): Promise<void>;
  /**
   * Lets a device see system memory while others are translated.
   * @throws the driver's own error without {@link GuestIommuCapabilities.passThrough}
   */
  setPassThrough(requesterId: number): Promise<void>;
  /** Removes a device from its domain or from pass-through; while translation is enabled, it then sees nothing. */
  detach(requesterId: number): Promise<void>;
  /** Enables translation of all devices. */
  enableTranslation(): Promise<void>;
  /** Disables translation: every device sees system memory. */
  disableTranslation(): Promise<void>;
  /**
   * Resolves to the first fault since the last call, or undefined. Further faults are dropped, as by hardware with
   * one record. Always undefined without {@link GuestIommuCapabilities.faultRecords}.
   */
  readFaults(): Promise<GuestFault | undefined>;
  /**
   * Returns what the driver knows beside guest RAM and the hardware, as JSON for restoreGuestIommu on another host.
   * @throws InFlightError while calls of the driver or of its domains are in flight
   */
  save(): unknown;
}

/** A mapping: IOVA, GPA, size and permissions. */
export interface MapRange {
  readonly iova: number;
  readonly gpa: number;
  /** Bytes, a multiple of 4 KiB. */
  readonly size: number;
  /** PERM_READ | PERM_WRITE */
  readonly perm: number;
}

/** A range of IOVAs. */
export interface UnmapRange {
  readonly iova: number;
  /** Bytes, a multiple of 4 KiB. */
  readonly size: number;
}

/** The calls of the DMA API to a domain. */
export interface DmaDomain {
  /** Maps ranges; resolves when devices see the mappings. */
  mapAll(ranges: readonly MapRange[]): Promise<void>;
  /** Unmaps a range; resolves to the count of bytes that were mapped when no device can use the mappings any more. */
  unmap(iova: number, size: number): Promise<number>;
  /**
   * Unmaps a range without an invalidation, as Linux's lazy mode does: devices may use the mappings until
   * {@link flush}. Absent where an unmap takes effect at once.
   */
  unmapLazily?(iova: number, size: number): Promise<number>;
  /** Resolves when no device can use the mappings that {@link unmapLazily} has removed. */
  flush?(): Promise<void>;
}
