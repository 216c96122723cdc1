/**
 * Workloads of the translation: map and unmap, strict and lazy, and switches of address spaces under the load of others.
 */
import { CompletionStatus, Opcode } from '../../abi/vgpu/vgpu.ts';
import type { GuestDomain, GuestIommu } from '../../guest/iommu/guest-iommu.ts';
import { allocatePages, filled } from '../../guest/workload.ts';
import { type Gpa, hex, type Iova, PAGE_SIZE } from '../../memory/address.ts';
import type { IterationContext } from '../guest/iteration.ts';
import { run } from './engine.ts';

/** Maps two new pages, fills the first, copies it to the second, and unmaps both. */
export function dmaChurn(context: IterationContext): Promise<void> {
  return context.load.translation.runShared(() => churn(context));
}

/** Every how many iterations of `dma-lazy` a page is used once more before the flush, and as many times after it. */
const PROBE_EVERY = 8;
const PROBE_BEFORE = 0;
const PROBE_AFTER = 1;

/**
 * Does as {@link dmaChurn} with deferred invalidations. Some iterations use a page once more: before the flush the
 * device may still reach it, which counts in `stale_window_hits`; after the flush it must fault.
 */
export function dmaLazy(context: IterationContext): Promise<void> {
  return context.load.translation.runShared(() => {
    const probe = context.prng.below(PROBE_EVERY);
    if (probe === PROBE_AFTER) return churn(context, (iova) => probeAfterFlush(context, iova));
    return churn(context, undefined, probe === PROBE_BEFORE);
  });
}

/**
 * @param beforeRelease runs when no device can reach the pages any more, before they are reused
 * @param probed uses a page once more before the flush of its unmap
 */
async function churn(
  context: IterationContext,
  beforeRelease?: (iova: Iova) => Promise<void>,
  probed = false,
): Promise<void> {
  const { vm, gpu, buffer } = context;
  const pages = allocatePages(vm, 2) as [Gpa, Gpa];
  const mapped = await gpu.dma.map(pages, context.metrics);
  const iova = mapped.iovas[0] as Iova;
  let released = false;
  /** False if a reset or a loss of the device has ended the work: the VU may then be in its next iteration already. */
  let worked = false;
  let settle = () => {};
  const done = new Promise<void>((resolve) => {
    settle = resolve;
  });
  let failure: unknown;
  const release = async () => {
    released = true;
    try {
      if (worked) await beforeRelease?.(iova);
    } catch (error) {
      failure = error;
    }
    for (const page of pages) vm.pages.free(page);
    settle();
  };
  try {
    await gpu.driver.map(buffer.scratchVa, mapped.iovas);
    await fillAndCopy(context, pages);
    worked = true;
  } finally {
    await gpu.dma.unmap(mapped, context.metrics, release);
  }
  if (probed)
    await gpu.dma.beforeFlush(async () => {
      if (!released) await probeBeforeFlush(context, iova);
    });
  if (beforeRelease) await done;
  if (failure !== undefined) throw failure;
}

async function fillAndCopy(context: IterationContext, [first, second]: readonly [Gpa, Gpa]): Promise<void> {
  const source = context.buffer.scratchVa;
  const value = context.prng.next32();
  await run(context, { opcode: Opcode.fill, target: source, length: PAGE_SIZE, value });
  await run(context, { opcode: Opcode.copy, target: source + PAGE_SIZE, source, length: PAGE_SIZE });
  if (!context.verified) return;
  const expected = filled(1, value);
  context.checkPages([first], expected, 'fill of a new mapping');
  context.checkPages([second], expected, 'copy in a new mapping');
}

/** Fills the page that is unmapped. */
const fillOnce = (context: IterationContext) =>
  context.submit({
    opcode: Opcode.fill,
    target: context.buffer.scratchVa,
    length: PAGE_SIZE,
    value: context.prng.next32(),
  });

/** The page belongs to nobody else yet, so that a hit harms nothing. */
async function probeBeforeFlush(context: IterationContext, iova: Iova): Promise<void> {
  const { vm, gpu, metrics } = context;
  const { status } = await vm.allowFault(gpu, iova, () => fillOnce(context));
  metrics.counter('stale_window_hits').add(status === CompletionStatus.ok ? 1 : 0);
}

async function probeAfterFlush(context: IterationContext, iova: Iova): Promise<void> {
  const { vm, gpu } = context;
  // Allowed and not expected: a reset may end the command before it faults.
  const { status } = await vm.allowFault(gpu, iova, () => fillOnce(context));
  context.check(
    status === CompletionStatus.fault,
    () => `reached IOVA ${hex(iova)} after the flush of its unmap (status ${status}): stale translation`,
  );
}

/** Disables and enables translation of the whole VM. */
export function iommuFlap(context: IterationContext): Promise<void> {
  const iommu = context.load.iommu as GuestIommu;
  return context.load.translation.runExclusive(async () => {
    for (const { dma } of context.vm.gpus) await dma.flush();
    await context.timed('switch_latency', 'disable', () => iommu.disableTranslation());
    await context.timed('switch_latency', 'enable', () => iommu.enableTranslation());
  });
}

/** Moves the vGPU to its other domain, which has the same mappings, and back. */
export function domainSwitch(context: IterationContext): Promise<void> {
  const { gpu, loadGpu } = context;
  const iommu = context.load.iommu as GuestIommu;
  const [first, second] = loadGpu.domains as [GuestDomain, GuestDomain];
  return context.load.translation.runExclusive(async () => {
    await gpu.dma.flush();
    for (const domain of [second, first])
      await context.timed('switch_latency', 'attach', () => iommu.attach(gpu.requesterId, domain));
  });
}

/** Sets the vGPU to pass-through and back to its domain. */
export function passthroughFlip(context: IterationContext): Promise<void> {
  const { gpu, loadGpu } = context;
  const iommu = context.load.iommu as GuestIommu;
  return context.load.translation.runExclusive(async () => {
    await gpu.dma.flush();
    await context.timed('switch_latency', 'pass-through', () => iommu.setPassThrough(gpu.requesterId));
    const [domain] = loadGpu.domains as [GuestDomain];
    await context.timed('switch_latency', 'attach', () => iommu.attach(gpu.requesterId, domain));
  });
}
