/**
 * The calls that a guest makes to its VM's coordinator: progress, audits, GPU scheduling and its own migration.
 */
import type { Scheduling } from '../../gpu/policy.ts';
import type { VgpuStats } from '../../gpu/stats.ts';
import type { MigrationSettings, MigrationStats } from '../../guest/migration-settings.ts';
import type { VmControl } from '../../guest/protocol.ts';
import { hex } from '../../memory/address.ts';
import type { RamLogHandle } from '../../memory/ram-log.ts';
import { boundedText, PHASE_LIMIT } from '../../report/text.ts';
import type { GpuPool } from '../gpu-pool.ts';
import type { VmDevice } from './device.ts';
import type { VmMigration } from './migration/migration.ts';
import type { VmVerdict } from './verdict.ts';
import { NO_DEVICE, type VmTrace } from './vm-trace.ts';

/** The parts of a VM that its guest's calls use. */
interface ControlledVm {
  readonly devices: readonly VmDevice[];
  readonly verdict: VmVerdict;
  readonly migration: VmMigration;
  readonly trace: VmTrace;
  readonly gpus: GpuPool;
  /** Called when the guest has resumed after a migration. */
  onResumed(): void;
}

export class GuestControl implements VmControl {
  /** The phase that the guest has named last. */
  currentPhase = 'start';
  /** Count of audits so far. */
  audits = 0;
  readonly #vm: ControlledVm;

  constructor(vm: ControlledVm) {
    this.#vm = vm;
  }

  phase(name: string): void {
    this.currentPhase = boundedText(name, PHASE_LIMIT);
    this.#vm.trace.record('guestPhase', NO_DEVICE, { name: this.currentPhase });
  }

  expectFault(device: number, iova: number): void {
    this.#vm.verdict.expectFault(device, iova);
  }

  audit(): number {
    this.audits++;
    let differences = 0;
    for (const device of this.#vm.devices) {
      if (!device.alive) continue;
      for (const { iova, size, held, expected } of device.space.audit()) {
        differences++;
        const text = (gpa: number | undefined) => (gpa === undefined ? 'nothing' : hex(gpa));
        this.#vm.trace.violation(
          device.index,
          'missed-invalidation',
          `${device.name} IOVA ${hex(iova)} +${hex(size)}: container maps ${text(held)}, ` +
            `the guest's tables say ${text(expected)}`,
        );
      }
    }
    return differences;
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
