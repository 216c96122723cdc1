/**
 * Invalidation descriptors of a driver (specification section 6.5.2).
 */
import * as vtd from '../../../abi/vtd.ts';
import type { Descriptor } from '../command-ring.ts';

/** Drains reads and writes. */
const DRAIN = vtd.QI_IOTLB_DW | vtd.QI_IOTLB_DR;

/** Global invalidations of each cache. */
export const CONTEXT_GLOBAL: Descriptor = [vtd.QI_CONTEXT_CACHE | (vtd.CC_GLOBAL << 4), 0, 0, 0];
export const PASID_CACHE_GLOBAL: Descriptor = [vtd.QI_PASID_CACHE | (vtd.PASID_CACHE_GLOBAL << 4), 0, 0, 0];
export const IOTLB_GLOBAL: Descriptor = [vtd.QI_IOTLB | (vtd.IOTLB_GLOBAL << 4) | DRAIN, 0, 0, 0];

/** Returns the device-selective invalidation of the context cache. */
export const contextDevice = (domainId: number, requesterId: number): Descriptor => [
  vtd.QI_CONTEXT_CACHE | (vtd.CC_DEVICE << 4) | (domainId << 16),
  requesterId,
  0,
  0,
];

/** Returns the PASID-selective invalidation of the PASID cache. */
export const pasidCache = (domainId: number, pasid: number): Descriptor => [
  vtd.QI_PASID_CACHE | (vtd.PASID_CACHE_PASID << 4) | (domainId << 16),
  pasid,
  0,
  0,
];

/** IOTLB invalidation descriptors for the translations of one stage. */
export interface IotlbDescriptors {
  /** All translations of a domain. */
  domain(domainId: number): Descriptor;
  /** 2^`mask` pages at `iova`. */
  pages(domainId: number, iova: number, mask: number): Descriptor;
}

/** IOTLB invalidation by domain ID, for second-stage translations. */
export const SECOND_STAGE_IOTLB: IotlbDescriptors = {
  domain: (domainId) => [vtd.QI_IOTLB | (vtd.IOTLB_DOMAIN << 4) | DRAIN | (domainId << 16), 0, 0, 0],
  pages: (domainId, iova, mask) => [
    vtd.QI_IOTLB | (vtd.IOTLB_PAGE << 4) | DRAIN | (domainId << 16),
    0,
    (iova % 2 ** 32) + mask,
    Math.floor(iova / 2 ** 32),
  ],
};

/** PASID-based invalidation with RID_PASID, for requests without a PASID. */
export const FIRST_STAGE_IOTLB: IotlbDescriptors = {
  domain: (domainId) => [vtd.QI_PIOTLB | (vtd.PIOTLB_PASID << 4) | (domainId << 16), vtd.RID_PASID, 0, 0],
  pages: (domainId, iova, mask) => [
    vtd.QI_PIOTLB | (vtd.PIOTLB_PAGE << 4) | (domainId << 16),
    vtd.RID_PASID,
    (iova % 2 ** 32) + mask,
    Math.floor(iova / 2 ** 32),
  ],
};
