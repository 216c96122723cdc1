/**
 * The workloads by name.
 */
import type { Workload } from '../guest/iteration.ts';
import { OWN_WORKLOAD, WORKLOAD_NAMES } from '../workload-names.ts';
import { bigBuffers } from './big-buffers.ts';
import { displayFlip, hang, reset } from './device.ts';
import { checksum, compute, copy, fill } from './engine.ts';
import { shadowStorm } from './shadow.ts';
import { dmaChurn, dmaLazy, domainSwitch, iommuFlap, passthroughFlip } from './translation.ts';

/** Calls the scenario's own function. */
const own: Workload = async ({ load, vm, gpu, metrics }) => {
  if (!load.iteration) throw new Error('the scenario has no function iteration(vm, vgpu)');
  await load.iteration(vm, { ...gpu, metrics });
};

const IMPLEMENTATIONS: Readonly<Record<string, Workload>> = {
  fill,
  copy,
  compute,
  checksum,
  'dma-churn': dmaChurn,
  'dma-lazy': dmaLazy,
  'iommu-flap': iommuFlap,
  'domain-switch': domainSwitch,
  'passthrough-flip': passthroughFlip,
  'big-buffers': bigBuffers,
  'shadow-storm': shadowStorm,
  'display-flip': displayFlip,
  reset,
  hang,
  [OWN_WORKLOAD]: own,
};

/** @throws Error for an unknown name */
export function workloadOf(name: string): Workload {
  const workload = IMPLEMENTATIONS[name];
  if (!workload) throw new Error(`no workload '${name}'; accepted: ${WORKLOAD_NAMES.join(', ')}`);
  return workload;
}
