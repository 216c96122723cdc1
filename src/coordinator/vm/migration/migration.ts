/**
 * A VM's migrations to other hosts, requested by its guest, one at a time.
 */
import type { FrameSocketOwner } from '../../../channel/frame-socket.ts';
import {
  checkSettings,
  MigrationError,
  type MigrationSettings,
  type MigrationStats,
} from '../../../guest/migration-settings.ts';
import type { RamLogHandle } from '../../../memory/ram-log.ts';
import type { HostSocket } from './host-socket.ts';
import { Outgoing, type OutgoingVm } from './outgoing.ts';

/** The parts of a VM that its migration uses. */
export interface MigratableVm extends OutgoingVm, FrameSocketOwner {}

export class VmMigration {
  readonly #vm: MigratableVm;
  readonly #hostSocket: HostSocket | undefined;
  #settings: MigrationSettings | undefined;
  #outgoing: Outgoing | undefined;
  /** Loss of a device since the migration has begun. */
  #loss: MigrationError | undefined;
  /** Statistics of the migration after which the VM runs on another host; undefined while it runs here. */
  moved: MigrationStats | undefined;
  /** Why the VM was lost after the hand-over; empty if it was not. */
  lost = '';

  /** If `hostSocket` is undefined, every migration is refused. */
  constructor(vm: MigratableVm, hostSocket: HostSocket | undefined) {
    this.#vm = vm;
    this.#hostSocket = hostSocket;
  }

  /** Starts a migration. @throws MigrationError if the VM cannot migrate; it is then unchanged */
  begin(settings: MigrationSettings): RamLogHandle {
    const host = this.#hostSocket;
    if (!host)
      throw new MigrationError('this run has one host; accepted: the scenario setting hosts of 2 or more');
    if (this.#settings) throw new MigrationError('the VM is already migrating');
    checkSettings(settings, host.hostCount);
    if (this.#targetOf(settings, host) === host.process)
      throw new MigrationError(`to: ${host.process} is the VM's own host; accepted: another host`);
    const { iommu, devices, ram } = this.#vm;
    if (!iommu.save) throw new MigrationError(`the vIOMMU '${iommu.name}' cannot be migrated`);
    const leaving = devices.find((device) => device.leaving !== '' && device.failure === '');
    if (leaving) throw new MigrationError(`${leaving.name} is lost: ${leaving.leaving}`);
    this.#settings = settings;
    this.#loss = undefined;
    return ram.startLog();
  }

  /** Copies memory until the VM should pause. @throws MigrationError and others; {@link abort} must follow */
  async copy(): Promise<void> {
    const [settings, host] = [this.#settings, this.#hostSocket];
    if (!settings || !host) throw new MigrationError('no migration has begun');
    const to = this.#targetOf(settings, host);
    const isWanted = () => this.#settings === settings && !this.#loss;
    const socket = await host.connect(to, this.#vm, isWanted);
    if (!isWanted()) {
      socket.close();
      throw this.#loss ?? new MigrationError('the migration was aborted');
    }
    this.#outgoing = new Outgoing(this.#vm, settings, { from: host.process, to, socket });
    await this.#outgoing.copy();
  }

  /** True while the VM migrates, or once it has moved. */
  get isActive(): boolean {
    return this.#settings !== undefined;
  }

  /** True from the moment the other host may run the VM. */
  get handedOver(): boolean {
    return this.#outgoing?.handedOver === true;
  }

  /** Ends the migration at once, if it has not been handed over, because a device that it needs is lost. */
  deviceLost(device: string, reason: string): void {
    this.#loss ??= new MigrationError(`${device} is lost: ${reason}`);
    this.#outgoing?.fail(this.#loss);
  }

  /** Hands the paused VM over. @throws MigrationError and others; {@link abort} must follow */
  async handOver(state: string, pausedUs: number): Promise<MigrationStats> {
    if (!this.#outgoing) throw new MigrationError('no migration has begun');
    try {
      this.moved = await this.#outgoing.handOver(state, pausedUs);
      return this.moved;
    } catch (error) {
      if (this.handedOver) this.lost ||= error instanceof Error ? error.message : String(error);
      throw error;
    }
  }

  /** Aborts a migration in progress because the guest has ended. */
  async guestEnded(): Promise<void> {
    if (this.#settings && !this.moved && !this.handedOver) await this.abort('the guest has ended');
  }

  /** Ends a failed migration. The VM continues here, unless it has been handed over and is lost. */
  async abort(reason: string): Promise<void> {
    const outgoing = this.#outgoing;
    this.#outgoing = undefined;
    this.#settings = undefined;
    if (outgoing?.handedOver) this.lost ||= reason;
    else if (outgoing) await outgoing.abort(reason);
    else this.#vm.ram.stopLog();
  }

  /** Returns the number of the target host; by default the next one. */
  #targetOf({ to }: MigrationSettings, { process, hostCount }: HostSocket): number {
    return to ?? (process + 1) % hostCount;
  }
}
