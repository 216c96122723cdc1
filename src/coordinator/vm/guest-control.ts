/**
 * The calls that a guest makes to its VM's coordinator: progress, audits, GPU scheduling and its own migration.
 */
import type { Scheduling } from '../../gpu/policy.ts';
import type { VgpuStats } from '../../gpu/stats.ts';
import type { MigrationSettings, MigrationStats } from '../../guest/migration-settings.ts';
import type { VmControl } from '../../guest/protocol.ts';
import type { RamLogHandle } from '../../memory/ram-log.ts';
import type { MetricsMessage } from '../../metrics/wire.ts';
import { boundedText, PHASE_LIMIT } from '../../report/text.ts';
import type { GpuPool } from '../gpu-pool.ts';
import type { LoadChannel } from './config.ts';
import type { VmDevice } from './device.ts';
import type { VmMigration } from './migration/migration.ts';
import type { VmVerdict } from './verdict.ts';
import { type AuditedVm, VmAudit } from './vm-audit.ts';
import { NO_DEVICE, type VmTrace } from './vm-trace.ts';

/** The parts of a VM that its guest's calls use. */
interface ControlledVm extends AuditedVm {
  readonly devices: readonly VmDevice[];
  readonly verdict: VmVerdict;
  readonly migration: VmMigration;
  readonly trace: VmTrace;
  readonly gpus: GpuPool;
  readonly load: LoadChannel;
  readonly number: number;
  /** Called when the guest has resumed after a migration. */
  onResumed(): void;
}

export class GuestControl implements VmControl {
  /** The phase that the guest has named last. */
  currentPhase = 'start';
  readonly audit: VmAudit;
  readonly #vm: ControlledVm;

  constructor(vm: ControlledVm) {
    this.#vm = vm;
    this.audit = new VmAudit(vm);
  }

  phase(name: string): void {
    this.currentPhase = boundedText(name, PHASE_LIMIT);
    this.#vm.trace.record('guestPhase', NO_DEVICE, { name: this.currentPhase });
    this.#vm.load.phase?.(this.#vm.number, this.currentPhase);
  }

  booted(): Promise<number> {
    return this.#vm.load.booted(this.#vm.number);
  }

  clockStart(): Promise<number> {
    return this.#vm.load.started;
  }

  metrics(message: MetricsMessage): Promise<void> | void {
    return this.#vm.load.metrics(this.#vm.number, message);
  }

  expectFault(device: number, iova: number): void {
    this.#vm.verdict.expectFault(device, iova);
  }

  allowFault(device: number, iova: number, allowed: boolean): void {
    this.#vm.verdict.allowFault(device, iova, allowed);
  }

  expectRemoval(device: number): void {
    this.#vm.verdict.expectRemoval(device);
  }

  beginAudit(): Promise<number> {
    return this.audit.begin();
  }

  endAudit(): Promise<number> {
    return this.audit.end();
  }

  schedule(scheduling: Scheduling): void {
    this.#vm.gpus.schedule(scheduling);
  }

  gpuStats(): VgpuStats[] {
    return this.#vm.gpus.stats();
  }

  resumed(): void {
    this.#vm.onResumed();
  }

  async beginMigration(settings: MigrationSettings): Promise<RamLogHandle> {
    return this.#vm.migration.begin(settings);
  }

  copyMemory(): Promise<void> {
    return this.#vm.migration.copy();
  }

  handOver(state: string, pausedUs: number): Promise<MigrationStats> {
    return this.#vm.migration.handOver(state, pausedUs);
  }

  abortMigration(reason: string): Promise<void> {
    return this.#vm.migration.abort(reason);
  }
}
