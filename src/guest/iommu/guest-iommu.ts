/** An IOVA→GPA address space that devices can be attached to. Addresses and sizes are bytes, multiples of 4 KiB. */
export interface GuestDomain extends DmaDomain {
  /** Its number: it is {@link GuestIommu.domain} of it, also on another host. */
  readonly id: number;
  /**
   * Resolves when the devices attached to it see the mapping.
   * @param perm PERM_READ | PERM_WRITE
   * @throws the driver's own error if part of it is mapped or out of range
   */
  map(iova: number, gpa: number, size: number, perm: number): Promise<void>;
  /** As {@link map} for several ranges with few notifications. */
  mapAll(ranges: readonly MapRange[]): Promise<void>;
  /** Resolves, with the bytes that were mapped, when no device can use them any more. */
  unmap(iova: number, size: number): Promise<number>;
  /** As {@link unmap} for several ranges. */
  unmapAll(ranges: readonly UnmapRange[]): Promise<number>;
}

/** A fault as the hardware tells the guest. */
export interface GuestFault {
  readonly requesterId: number;
  readonly iova: number;
  readonly write: boolean;
  /** The hardware's own number. */
  readonly reason: number;
}

/** What a script asks before it relies on it. */
export interface GuestIommuCapabilities {
  /** One device can see system memory while others are translated. */
  readonly passThrough: boolean;
  /** The hardware tells the guest of faults. */
  readonly faultRecords: boolean;
}

/**
 * A started driver. Requester IDs are bus << 8 | device << 3 | function. While translation is disabled every device
 * sees system memory at IOVA = GPA and attachments are only prepared; once it is enabled, a device that was not
 * attached sees nothing. Each call resolves when devices see its effect, and no device that is at work faults on an
 * address that means the same before and after.
 */
export interface GuestIommu {
  readonly capabilities: GuestIommuCapabilities;
  /** An empty domain. @throws the driver's own error when there is no room for one more */
  createDomain(): GuestDomain;
  /** The domain of that number, if it is one of this driver's. */
  domain(id: number): GuestDomain | undefined;
  /** Puts a device into a domain of this driver, out of any other. */
  attach(requesterId: number, domain: GuestDomain): Promise<void>;
  /** Lets a device see system memory while others are translated. */
  setPassThrough(requesterId: number): Promise<void>;
  /** Takes a device out of its domain, or out of pass-through: while translation is enabled it then sees nothing. */
  detach(requesterId: number): Promise<void>;
  enableTranslation(): Promise<void>;
  disableTranslation(): Promise<void>;
  /**
   * The first fault since the last call, or undefined; further ones are dropped, as hardware with one record drops
   * them. Always undefined without {@link GuestIommuCapabilities.faultRecords}.
   */
  readFaults(): Promise<GuestFault | undefined>;
  /**
   * What it knows beside guest RAM and the hardware, as JSON, for a driver on another host: see restoreGuestIommu.
   * @throws InFlightError while a call of it or of its domains is under way
   */
  save(): unknown;
}

export interface MapRange {
  readonly iova: number;
  readonly gpa: number;
  /** Bytes, a multiple of 4 KiB. */
  readonly size: number;
  /** PERM_READ | PERM_WRITE */
  readonly perm: number;
}

export interface UnmapRange {
  readonly iova: number;
  readonly size: number;
}

/** What the DMA API needs of a domain, whichever vIOMMU it is one of. */
export interface DmaDomain {
  /** Resolves when devices see the mappings. */
  mapAll(ranges: readonly MapRange[]): Promise<void>;
  /** Resolves, with the bytes that were mapped, when no device can use them any more. */
  unmap(iova: number, size: number): Promise<number>;
}
