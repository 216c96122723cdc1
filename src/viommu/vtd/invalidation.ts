/**
 * Invalidation requests, decoded from registers (CCMD, IOTLB) or queued descriptors.
 */
import * as vtd from '../../abi/vtd.ts';
import { MAX_ADDRESS_MASK } from './registers.ts';

export type Invalidation =
  | { readonly kind: 'context-global' }
  | { readonly kind: 'context-domain'; readonly domainId: number }
  | { readonly kind: 'context-device'; readonly requesterId: number; readonly functionMask: number }
  | { readonly kind: 'iotlb-global' }
  | { readonly kind: 'iotlb-domain'; readonly domainId: number }
  | { readonly kind: 'iotlb-page'; readonly domainId: number; readonly start: number; readonly end: number }
  | { readonly kind: 'pasid-global' }
  | { readonly kind: 'pasid-domain'; readonly domainId: number }
  | { readonly kind: 'pasid-one'; readonly domainId: number; readonly pasid: number }
  | { readonly kind: 'piotlb-pasid'; readonly domainId: number; readonly pasid: number }
  | {
      readonly kind: 'piotlb-page';
      readonly domainId: number;
      readonly pasid: number;
      readonly start: number;
      readonly end: number;
    }
  | { readonly kind: 'interrupt-global' }
  /** Entries [start, end) of the interrupt entry cache. */
  | { readonly kind: 'interrupt-index'; readonly start: number; readonly end: number }
  /** Device TLBs: valid, but nothing is cached there. */
  | { readonly kind: 'none' };

/** Returns undefined for an invalid granularity. `functionMask` is FM, 0…3. */
export function contextInvalidation(
  granularity: number,
  domainId: number,
  requesterId: number,
  functionMask: number,
): Invalidation | undefined {
  switch (granularity) {
    case vtd.CC_GLOBAL:
      return { kind: 'context-global' };
    case vtd.CC_DOMAIN:
      return { kind: 'context-domain', domainId };
    case vtd.CC_DEVICE:
      return { kind: 'context-device', requesterId, functionMask };
    default:
      return undefined;
  }
}

/** Returns undefined for an invalid granularity or an address mask above CAP.MAMV. Bits 11:0 of `page` are 0. */
export function iotlbInvalidation(
  granularity: number,
  domainId: number,
  page: number,
  addressMask: number,
): Invalidation | undefined {
  switch (granularity) {
    case vtd.IOTLB_GLOBAL:
      return { kind: 'iotlb-global' };
    case vtd.IOTLB_DOMAIN:
      return { kind: 'iotlb-domain', domainId };
    case vtd.IOTLB_PAGE: {
      const range = pageRange(page, addressMask);
      return range && { kind: 'iotlb-page', domainId, ...range };
    }
    default:
      return undefined;
  }
}

/** Returns undefined for an invalid granularity. */
function pasidCacheInvalidation(
  granularity: number,
  domainId: number,
  pasid: number,
): Invalidation | undefined {
  switch (granularity) {
    case vtd.PASID_CACHE_DOMAIN:
      return { kind: 'pasid-domain', domainId };
    case vtd.PASID_CACHE_PASID:
      return { kind: 'pasid-one', domainId, pasid };
    case vtd.PASID_CACHE_GLOBAL:
      return { kind: 'pasid-global' };
    default:
      return undefined;
  }
}

/** Returns undefined for an invalid granularity or an address mask above CAP.MAMV. */
function piotlbInvalidation(
  granularity: number,
  domainId: number,
  pasid: number,
  page: number,
  addressMask: number,
): Invalidation | undefined {
  if (granularity === vtd.PIOTLB_PASID) return { kind: 'piotlb-pasid', domainId, pasid };
  const range = granularity === vtd.PIOTLB_PAGE ? pageRange(page, addressMask) : undefined;
  return range && { kind: 'piotlb-page', domainId, pasid, ...range };
}

/** Returns the invalidation of all entries, or of 2^`mask` entries that include `index`. */
function interruptInvalidation(byIndex: boolean, index: number, mask: number): Invalidation {
  if (!byIndex) return { kind: 'interrupt-global' };
  const count = 2 ** mask;
  const start = index - (index % count);
  return { kind: 'interrupt-index', start, end: start + count };
}

function pageRange(page: number, addressMask: number): { start: number; end: number } | undefined {
  if (addressMask > MAX_ADDRESS_MASK) return undefined;
  const size = 2 ** (12 + addressMask);
  const start = page - (page % size);
  return { start, end: start + size };
}

/** A wait descriptor. `status` is undefined without SW. */
export interface WaitRequest {
  readonly kind: 'wait';
  readonly status: { readonly gpa: number; readonly data: number } | undefined;
  readonly interrupt: boolean;
}

interface DescriptorFormat {
  /** Reserved bits of the first four words, lowest first. */
  readonly reserved: readonly [number, number, number, number];
  /** True if the type needs 256-bit descriptors. */
  readonly wideOnly?: boolean;
}

const ALL_RESERVED = [0xffffffff, 0xffffffff] as const;

/** Sections 6.5.2.1 to 6.5.2.8. The upper four words of a 256-bit descriptor are reserved. */
const DESCRIPTORS: Readonly<Record<number, DescriptorFormat>> = {
  [vtd.QI_CONTEXT_CACHE]: { reserved: [0x0000f1c0, 0xfffc0000, ...ALL_RESERVED] },
  [vtd.QI_IOTLB]: { reserved: [0x0000f100, 0xffffffff, 0x00000f80, 0] },
  [vtd.QI_DEVICE_TLB]: { reserved: [0xffe0f1f0, 0xffff0000, 0x00000ffe, 0] },
  [vtd.QI_INTERRUPT_ENTRY_CACHE]: { reserved: [0x07fff1e0, 0xffff0000, ...ALL_RESERVED] },
  [vtd.QI_WAIT]: { reserved: [0xfffff180, 0, 0x00000003, 0] },
  [vtd.QI_PIOTLB]: { reserved: [0x0000f1c0, 0xfff00000, 0x00000f80, 0], wideOnly: true },
  [vtd.QI_PASID_CACHE]: { reserved: [0x0000f1c0, 0xfff00000, ...ALL_RESERVED], wideOnly: true },
  [vtd.QI_DEVICE_PIOTLB]: { reserved: [0x0000f000, 0xfff00000, 0x000007fe, 0], wideOnly: true },
};

/**
 * Decodes a descriptor.
 * @param words lowest first: four for 128 bits, eight for 256 bits
 * @returns undefined if the type is unknown, a reserved bit is set or a field is invalid
 */
export function decodeDescriptor(words: readonly number[]): Invalidation | WaitRequest | undefined {
  const [w0 = 0, w1 = 0, w2 = 0, w3 = 0, ...upper] = words;
  const type = (w0 & 0xf) | ((w0 >>> 5) & 0x70);
  const format = DESCRIPTORS[type];
  if (!format || (format.wideOnly && upper.length === 0) || upper.some((word) => word !== 0))
    return undefined;
  const [r0, r1, r2, r3] = format.reserved;
  if (((w0 & r0) | (w1 & r1) | (w2 & r2) | (w3 & r3)) !== 0) return undefined;
  return decodeType(type, w0, w1, w2, w3);
}

function decodeType(
  type: number,
  w0: number,
  w1: number,
  w2: number,
  w3: number,
): Invalidation | WaitRequest | undefined {
  const granularity = (w0 >>> 4) & 3;
  const domainId = w0 >>> 16;
  const page = w3 * 2 ** 32 + (w2 - (w2 % 4096));
  const addressMask = w2 & 0x3f;
  const pasid = w1 & 0xfffff;
  switch (type) {
    case vtd.QI_CONTEXT_CACHE:
      return contextInvalidation(granularity, domainId, w1 & 0xffff, (w1 >>> 16) & 3);
    case vtd.QI_IOTLB:
      return iotlbInvalidation(granularity, domainId, page, addressMask);
    case vtd.QI_PASID_CACHE:
      return pasidCacheInvalidation(granularity, domainId, pasid);
    case vtd.QI_PIOTLB:
      return piotlbInvalidation(granularity, domainId, pasid, page, addressMask);
    case vtd.QI_INTERRUPT_ENTRY_CACHE:
      return interruptInvalidation((w0 & 0x10) !== 0, w1 & 0xffff, w0 >>> 27);
    case vtd.QI_WAIT:
      return decodeWait(w0, w1, w3 * 2 ** 32 + w2);
    default:
      return { kind: 'none' };
  }
}

/** A wait with FN alone has nothing to do: the queue processes descriptors one after the other. */
function decodeWait(flags: number, data: number, gpa: number): WaitRequest | undefined {
  if ((flags & (vtd.WAIT_IF | vtd.WAIT_SW | vtd.WAIT_FN)) === 0) return undefined;
  const status = (flags & vtd.WAIT_SW) !== 0 ? { gpa, data } : undefined;
  return { kind: 'wait', status, interrupt: (flags & vtd.WAIT_IF) !== 0 };
}
