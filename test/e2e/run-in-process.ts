/**
 * Runs a scenario in this process, from source: coordinator, device workers and guest workers.
 */
import { runRequest } from '../../src/coordinator/host/host-process.ts';
import { decodeFrame } from '../../src/proto/codec.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';

export type VmResult = FrameBodies['vmResult'];

export interface InProcessRun {
  readonly scenario: string;
  readonly viommu: string;
  readonly vms?: number;
  readonly vgpus?: number;
  readonly ramMib?: number;
  readonly inject?: string;
  /** Name of a built-in device model; by default `vgpu`. */
  readonly model?: string;
  readonly params?: Readonly<Record<string, unknown>>;
}

/** Runs one VM with two vGPUs by default; returns the VMs' results. */
export async function runInProcess(run: InProcessRun): Promise<VmResult[]> {
  const { scenario, viommu, vms = 1, vgpus = 2, ramMib = 32, inject = '', model, params = {} } = run;
  const results: VmResult[] = [];
  const request = {
    scenario: scenarioUrl(scenario),
    process: 0,
    vms: Array.from({ length: vms }, (_, vm) => vm),
    vgpus,
    seed: 20160728,
    ramMib,
    timeoutMs: 60_000,
    inject,
    trace: '',
    viommu,
    baselineWorkers: 0,
    vmSettings: [],
    params: JSON.stringify(params),
    folder: '',
    ...(model !== undefined && { device: { model, timeoutMs: 20_000, source: '' } }),
  };
  await runRequest(request, {
    send: (bytes) => {
      const frame = decodeFrame(bytes);
      if (frame.kind === 'vmResult') results[frame.header.vm] = frame.body;
    },
  });
  return results;
}
