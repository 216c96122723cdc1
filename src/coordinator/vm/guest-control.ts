/**
 * The calls that a guest makes to its VM's coordinator: progress, audits, GPU scheduling and its own migration.
 */
import { sleep } from '#host';
import type { Scheduling } from '../../gpu/policy.ts';
import type { VgpuStats } from '../../gpu/stats.ts';
import type { MigrationSettings, MigrationStats } from '../../guest/migration-settings.ts';
import { ANNOUNCE_MS, type VmControl } from '../../guest/protocol.ts';
import { hex } from '../../memory/address.ts';
import type { RamLogHandle } from '../../memory/ram-log.ts';
import type { MetricsMessage } from '../../metrics/wire.ts';
import { boundedText, PHASE_LIMIT } from '../../report/text.ts';
import type { Lacking } from '../../viommu/audit.ts';
import type { GpuPool } from '../gpu-pool.ts';
import type { LoadChannel } from './config.ts';
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
  /** Runs `work` when all that the guest has posted to its vIOMMU is complete, and before anything later. */
  quiesce(work: () => void): Promise<void>;
  readonly load: LoadChannel;
  readonly number: number;
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

  booted(): Promise<number> {
    return this.#vm.load.booted(this.#vm.number);
  }

  metrics(message: MetricsMessage): void {
    this.#vm.load.metrics(this.#vm.number, message);
  }

  expectFault(device: number, iova: number): void {
    this.#vm.verdict.expectFault(device, iova);
  }

  expectRemoval(device: number): void {
    this.#vm.verdict.expectRemoval(device);
  }

  async beginAudit(): Promise<number> {
    this.audits++;
    let suspects = 0;
    await this.#vm.quiesce(() => {
      for (const { space } of this.#alive()) suspects += space.beginAudit();
    });
    return suspects;
  }

  async endAudit(): Promise<number> {
    let differences = 0;
    await this.#vm.quiesce(() => {
      for (const device of this.#alive())
        differences += this.#accuse(device) + (device.space.lacking()?.count ?? 0);
    });
    return differences;
  }

  /** Audits a VM whose script has ended. Translations that no device can use any more are violations, too. */
  async lastAudit(): Promise<void> {
    if ((await this.beginAudit()) > 0) await sleep(ANNOUNCE_MS);
    await this.endAudit();
    for (const device of this.#alive()) {
      const lacking = device.space.lacking();
      if (lacking) this.#vm.trace.violation(device.index, 'not-mapped', notMappedText(device.name, lacking));
    }
  }

  *#alive(): Iterable<VmDevice> {
    for (const device of this.#vm.devices) if (device.alive) yield device;
  }

  /** Records the invalidations that the guest has missed for one device; returns their count. */
  #accuse({ index, name, space }: VmDevice): number {
    const missed = space.endAudit();
    for (const { iova, size, held, expected } of missed) {
      const text = (gpa: number | undefined) => (gpa === undefined ? 'nothing' : hex(gpa));
      this.#vm.trace.violation(
        index,
        'missed-invalidation',
        `${name} IOVA ${hex(iova)} +${hex(size)}: container maps ${text(held)}, ` +
          `the guest's tables say ${text(expected)}`,
      );
    }
    return missed.length;
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

const notMappedText = (name: string, { count, iova, size, reason }: Lacking): string =>
  `${name} lacks ${count} translations of the guest's tables, the first at IOVA ${hex(iova)} +${hex(size)}: ${reason}`;
