/**
 * What an invalidation asks for, however it was asked: by register (CCMD, IOTLB) or by queued descriptor.
 */
import * as vtd from '../../pci/vtd-format.ts';
import { MAX_ADDRESS_MASK } from './registers.ts';

export type Invalidation =
  | { readonly kind: 'context-global' }
  | { readonly kind: 'context-domain'; readonly domainId: number }
  | { readonly kind: 'context-device'; readonly requesterId: number; readonly functionMask: number }
  | { readonly kind: 'iotlb-global' }
  | { readonly kind: 'iotlb-domain'; readonly domainId: number }
  | { readonly kind: 'iotlb-page'; readonly domainId: number; readonly start: number; readonly end: number }
  /** Device TLBs and the interrupt entry cache: nothing is cached there, the request is merely valid. */
  | { readonly kind: 'none' };

/** Undefined: a granularity that does not exist. `functionMask` is FM, 0…3. */
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

/** Undefined: no such granularity, or an address mask beyond CAP.MAMV. `page` is the address, bits 11:0 zero. */
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
      if (addressMask > MAX_ADDRESS_MASK) return undefined;
      const size = 2 ** (12 + addressMask);
      const start = page - (page % size);
      return { kind: 'iotlb-page', domainId, start, end: start + size };
    }
    default:
      return undefined;
  }
}

/** A wait descriptor; `status` is absent without SW. */
export interface WaitRequest {
  readonly kind: 'wait';
  readonly status: { readonly gpa: number; readonly data: number } | undefined;
  readonly interrupt: boolean;
}

/** Reserved bits of each 128-bit descriptor as four words, lowest first. Sections 6.5.2.1 to 6.5.2.8. */
const RESERVED: Readonly<Record<number, readonly [number, number, number, number]>> = {
  [vtd.QI_CONTEXT_CACHE]: [0x0000f1c0, 0xfffc0000, 0xffffffff, 0xffffffff],
  [vtd.QI_IOTLB]: [0x0000f100, 0xffffffff, 0x00000f80, 0],
  [vtd.QI_DEVICE_TLB]: [0xffe0f1f0, 0xffff0000, 0x00000ffe, 0],
  [vtd.QI_INTERRUPT_ENTRY_CACHE]: [0x07fff1e0, 0xffff0000, 0xffffffff, 0xffffffff],
  [vtd.QI_WAIT]: [0xfffff180, 0, 0x00000003, 0],
};

/**
 * Decodes a 128-bit descriptor given as four words, lowest first. Undefined: one this unit cannot take, because its
 * type is unknown, a reserved bit is set or a field has no valid value.
 */
export function decodeDescriptor(
  w0: number,
  w1: number,
  w2: number,
  w3: number,
): Invalidation | WaitRequest | undefined {
  const type = (w0 & 0xf) | ((w0 >>> 5) & 0x70);
  const reserved = RESERVED[type];
  if (!reserved) return undefined;
  const [r0, r1, r2, r3] = reserved;
  if (((w0 & r0) | (w1 & r1) | (w2 & r2) | (w3 & r3)) !== 0) return undefined;
  const granularity = (w0 >>> 4) & 3;
  const domainId = w0 >>> 16;
  switch (type) {
    case vtd.QI_CONTEXT_CACHE:
      return contextInvalidation(granularity, domainId, w1 & 0xffff, (w1 >>> 16) & 3);
    case vtd.QI_IOTLB:
      return iotlbInvalidation(granularity, domainId, w3 * 2 ** 32 + (w2 - (w2 % 4096)), w2 & 0x3f);
    case vtd.QI_WAIT:
      return decodeWait(w0, w1, w3 * 2 ** 32 + w2);
    default:
      return { kind: 'none' };
  }
}

function decodeWait(flags: number, data: number, gpa: number): WaitRequest | undefined {
  if ((flags & (vtd.WAIT_IF | vtd.WAIT_SW)) === 0) return undefined;
  const status = (flags & vtd.WAIT_SW) !== 0 ? { gpa, data } : undefined;
  return { kind: 'wait', status, interrupt: (flags & vtd.WAIT_IF) !== 0 };
}
