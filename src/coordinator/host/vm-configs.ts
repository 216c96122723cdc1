/**
 * Configurations of the VMs of a host, from the run's request.
 */
import { type Hpa, PAGE_2M } from '../../memory/address.ts';
import { HPA_BASE } from '../../memory/host-memory.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import type { VmConfig } from '../vm/config.ts';
import { DEFAULT_MODEL, DEVICE_TIMEOUT_MS } from '../workers/supervisor.ts';

type RunRequest = FrameBodies['runRequest'];

const MIB = 1024 * 1024;
/** Difference between the seeds of two neighbouring VMs. */
const SEED_STRIDE = 7919;

/** Returns the configuration of a VM that starts at this host. */
export function vmConfig(request: RunRequest, vm: number): VmConfig {
  const own = request.vmSettings.find((settings) => settings.vm === vm);
  const ramBytes = (own?.ramMib ?? request.ramMib) * MIB;
  const mdevs = request.mdevs?.instances.filter((mdev) => mdev.vm === vm);
  return {
    process: request.process,
    vm,
    vgpus: mdevs?.length ?? request.vgpus,
    mdevTypes: mdevs?.map(({ type }) => type) ?? [],
    seed: (request.seed + vm * SEED_STRIDE) % 2 ** 31,
    // The request has the most RAM of any VM, so that no two VMs overlap.
    hpaBase: hpaBaseOf(vm, request),
    ramBytes,
    viommu: own?.viommu ?? request.viommu,
    gpuTypes: own?.types ?? [],
    bootUs: own?.bootUs ?? 0,
    scenario: request.scenario,
    params: JSON.parse(request.params || '{}') as Record<string, unknown>,
    load: own?.load ?? '',
    timeoutMs: request.timeoutMs,
    model: request.device?.model ?? DEFAULT_MODEL,
    modelSource: request.device?.source ?? '',
    deviceTimeoutMs: request.device?.timeoutMs ?? DEVICE_TIMEOUT_MS,
    folder: request.folder,
    inject: vm === 0 ? request.inject : '',
    migrations: 0,
    lostDevices: [],
    loadState: '',
  };
}

/** Returns that of a VM that arrives from another host. Its host memory lies above that of the VMs that start here. */
export function arrivalConfig(config: VmConfig, request: RunRequest): VmConfig {
  // So a device that keeps an HPA of its old host is detected.
  const first = request.migrations?.vmsMax ?? 0;
  return { ...config, hpaBase: hpaBaseOf(first + config.vm, request) };
}

/** Returns the start of a VM's host memory. VMs have a gap between them: an HPA belongs to one VM at most. */
const hpaBaseOf = (slot: number, { ramMib }: RunRequest): Hpa =>
  (HPA_BASE + slot * (ramMib * MIB + PAGE_2M)) as Hpa;
