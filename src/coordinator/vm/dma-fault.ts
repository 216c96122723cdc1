/**
 * The reason of a DMA fault, determined from the vIOMMU's tables.
 */
import { hex, type Iova } from '../../memory/address.ts';
import { inMmioWindow } from '../../memory/bus-memory.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import type { DeviceAddressSpace } from '../../viommu/address-space.ts';
import type { DmaFaultRecord, VIommu } from '../../viommu/viommu.ts';

/** Returns the record of a device's DMA that found no mapping in its container. The vIOMMU records the fault, too. */
export function faultRecord(
  { iommu, ram }: { readonly iommu: VIommu; readonly ram: GuestRam },
  space: DeviceAddressSpace,
  { iova: address, write, denied }: FrameBodies['dmaFault'],
): DmaFaultRecord {
  const iova = address as Iova;
  const { requesterId } = space;
  const answer = iommu.translate(requesterId, iova, write);
  const { reason, text } = answer.ok
    ? { reason: 0, text: whyUnmapped(ram, space, iova, answer.gpa, denied) }
    : answer;
  return { requesterId, iova, write, reason, text };
}

function whyUnmapped(
  ram: GuestRam,
  space: DeviceAddressSpace,
  iova: Iova,
  gpa: number,
  denied: boolean,
): string {
  if (inMmioWindow(gpa) && denied) return `(${hex(gpa)} is no guest RAM, which alone can be pinned)`;
  if (inMmioWindow(gpa)) return `(no other device decodes ${hex(gpa)})`;
  if (!ram.contains(gpa, 1)) return `(${hex(gpa)} is not guest RAM)`;
  const refusal = space.refusalAt(iova);
  if (refusal !== undefined) return `(the container refuses the mapping: ${refusal})`;
  return '(the tables translate it, but no invalidation has announced that)';
}
