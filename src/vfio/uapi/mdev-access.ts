/**
 * Access of a mediated device's driver to the memory behind its container: vfio_pin_pages, vfio_unpin_pages and
 * vfio_dma_rw, with Linux's results.
 */
import { hex, PAGE_SIZE } from '../../memory/address.ts';
import { VfioError } from '../errors.ts';
import { mayRead, mayWrite, type Type1, type Type1Device, type Type1Mapping, unlock } from './type1.ts';
import type { PageFrame, UserMemory } from './user-memory.ts';
import { offsetOf, PAGES_64, PIN_PAGES_MAX, pageOf, wraps } from './vfio-uapi.ts';

/**
 * Pins `count` pages from `iova` on, all or none. If an IOVA is already pinned, returns the page that is held, even if
 * the process has since mapped another one there.
 * @throws VfioError EINVAL (0 pages, a driver without dma_unmap, unmapped), E2BIG (beyond 512), EACCES (type1 v1),
 *   EOVERFLOW (wraps), EPERM (`perm` is not a subset of the mapping's), EFAULT (no such memory), ENOMEM (beyond the
 *   limit of locked memory), ENODEV (the process has ended)
 */
export function pinPages(
  iommu: Type1,
  device: Type1Device,
  iova: bigint,
  count: number,
  perm: number,
): PageFrame[] {
  if (count === 0 || !device.dmaUnmap)
    throw new VfioError('EINVAL', `${device.name}: 0 pages, or a driver without dma_unmap`);
  if (count < 0 || count > PIN_PAGES_MAX)
    throw new VfioError('E2BIG', `pin of ${count} pages; accepted: at most ${PIN_PAGES_MAX}`);
  if (!iommu.v2) throw new VfioError('EACCES', 'only type1 v2 can pin');
  if (wraps(iova, BigInt(count * PAGE_SIZE)))
    throw new VfioError('EOVERFLOW', `pin of ${count} pages at ${hex(iova)} wraps`);
  if (!iommu.canAsk) throw new VfioError('EINVAL', 'no device of the container can be asked to unpin');
  const frames: PageFrame[] = [];
  try {
    for (; frames.length < count; )
      frames.push(pinPage(iommu, device, pageOf(iova) + frames.length, offsetOf(iova), perm));
  } catch (error) {
    for (let done = 0; done < frames.length; done++)
      unpinPage(iommu, device, pageOf(iova) + done, offsetOf(iova));
    throw error;
  }
  return frames;
}

function pinPage(iommu: Type1, device: Type1Device, page: number, offset: number, perm: number): PageFrame {
  const mapping = mappingOf(iommu, page, offset);
  if (!mapping) throw new VfioError('EINVAL', `nothing is mapped at page ${page}`);
  if ((mapping.perm & perm) !== perm)
    throw new VfioError('EPERM', `pin with permission ${perm}, mapped with ${mapping.perm}`);
  const pin = mapping.pins.find(page, offset);
  if (pin) return mapping.pins.reference(pin, device);
  const { memory, locksFreely } = mapping;
  if (!memory.alive) throw new VfioError('ENODEV', 'the process that made the mapping has ended');
  // The page is pinned with the mapping's permission, not with the requested one.
  const frame = memory.pin(mapping.vaddr + page - mapping.iova, mayWrite(mapping));
  lockPage(iommu, memory, locksFreely);
  mapping.pins.add(page, offset, frame, device);
  mapping.dirty?.add([page]);
  return frame;
}

/** Counts a pinned page as locked. The kernel warns in its log if the process may not lock more. @throws VfioError ENOMEM */
function lockPage(iommu: Type1, memory: UserMemory, freely: boolean): void {
  try {
    memory.lock(1, freely);
  } catch (error) {
    if (error instanceof VfioError) iommu.violation('memlock-exceeded', `pin refused: ${error.message}`);
    throw error;
  }
}

/**
 * Drops one reference to each of `count` pages. It never fails: it skips pages that are not pinned, stops at the first
 * unmapped one, and reports a call that is not allowed as a violation.
 */
export function unpinPages(iommu: Type1, device: Type1Device, iova: bigint, count: number): void {
  if (!device.dmaUnmap || count <= 0 || count > PIN_PAGES_MAX || !iommu.v2 || wrapsPages(iova, count)) {
    iommu.violation('unpin-refused', `${device.name}: unpin of ${count} pages at ${hex(iova)}`);
    return;
  }
  for (let done = 0; done < count; done++)
    if (!unpinPage(iommu, device, pageOf(iova) + done, offsetOf(iova))) {
      iommu.violation(
        'unpin-unmapped',
        `${device.name}: unpin of ${count} pages at ${hex(iova)}; page ${done} is not mapped`,
      );
      return;
    }
}

const wrapsPages = (iova: bigint, count: number): boolean => wraps(iova, BigInt(count * PAGE_SIZE));

/** Returns false if nothing is mapped there. */
function unpinPage(iommu: Type1, device: Type1Device, page: number, offset: number): boolean {
  const mapping = mappingOf(iommu, page, offset);
  if (!mapping) return false;
  if (mapping.pins.release(page, offset, device)) unlock(mapping, 1);
  return true;
}

/** Returns the first mapping that overlaps the 4096 bytes from `page` and `offset` on. */
function mappingOf(iommu: Type1, page: number, offset: number): Type1Mapping | undefined {
  return iommu.mappings.at(page) ?? (offset > 0 ? iommu.mappings.at(page + 1) : undefined);
}

/**
 * Copies between `data` and the memory at `iova`, mapping by mapping. Bytes copied before an error stay copied.
 * @param caller process on whose behalf the driver runs; undefined for a kernel thread
 * @throws VfioError EINVAL (0 bytes, unmapped), EOVERFLOW (wraps), EPERM (the mapping is not readable, or not writable
 *   for a write; the memory's process has ended), EFAULT (no such memory, or another process's)
 */
export function dmaRw(
  iommu: Type1,
  iova: bigint,
  data: Uint8Array,
  write: boolean,
  caller: UserMemory | undefined,
): void {
  if (data.length === 0) throw new VfioError('EINVAL', 'dma_rw of 0 bytes');
  if (wraps(iova, BigInt(data.length)))
    throw new VfioError('EOVERFLOW', `dma_rw of ${data.length} bytes at ${hex(iova)} wraps`);
  let [page, offset] = [pageOf(iova), offsetOf(iova)];
  for (let at = 0; at < data.length; ) {
    const mapping = page < PAGES_64 ? iommu.mappings.at(page) : undefined;
    if (!mapping) throw new VfioError('EINVAL', `nothing is mapped at ${hex(iova + BigInt(at))}`);
    const room = (mapping.iova + mapping.size - page) * PAGE_SIZE - offset;
    const piece = data.subarray(at, at + Math.min(room, data.length - at));
    copyPiece(mapping, page, offset, piece, write, caller);
    at += piece.length;
    page = mapping.iova + mapping.size;
    offset = 0;
  }
}

function copyPiece(
  mapping: Type1Mapping,
  page: number,
  offset: number,
  piece: Uint8Array,
  write: boolean,
  caller: UserMemory | undefined,
): void {
  const { memory } = mapping;
  if ((write && !mayWrite(mapping)) || !mayRead(mapping))
    throw new VfioError('EPERM', `dma_rw in a mapping with permission ${mapping.perm}`);
  if (!memory.alive) throw new VfioError('EPERM', 'dma_rw in the memory of a process that has ended');
  if (caller && caller !== memory) throw new VfioError('EFAULT', "dma_rw in another process's memory");
  const vpage = mapping.vaddr + page - mapping.iova;
  const copied = write ? memory.copyIn(vpage, offset, piece) : memory.copyOut(vpage, offset, piece);
  if (copied < piece.length)
    throw new VfioError('EFAULT', `no memory ${copied} bytes after the start in virtual page ${vpage}`);
  if (write) mapping.dirty?.addRange(page, page + Math.floor((offset + copied - 1) / PAGE_SIZE));
}
