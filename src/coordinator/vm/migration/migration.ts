/**
 * A VM's migrations, as its guest asks for them: one at a time, from the first check to its end.
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

/** The VM, and what this needs of it beside what is sent. */
export interface MigratableVm extends OutgoingVm, FrameSocketOwner {}

export class VmMigration {
  readonly #vm: MigratableVm;
  readonly #host: HostSocket | undefined;
  #settings: MigrationSettings | undefined;
  #outgoing: Outgoing | undefined;
  /** The VM runs elsewhere: how it got there. */
  moved: MigrationStats | undefined;
  /** It has been handed over and not taken on: why. */
  lost = '';

  /** Without `host` no VM migrates. */
  constructor(vm: MigratableVm, host: HostSocket | undefined) {
    this.#vm = vm;
    this.#host = host;
  }

  /** @throws MigrationError if the VM cannot be moved; nothing has happened then */
  begin(settings: MigrationSettings): RamLogHandle {
    const host = this.#host;
    if (!host) throw new MigrationError('this run has one host; accepted: the setting hosts of 2 and more');
    if (this.#settings) throw new MigrationError('the VM is migrating already');
    checkSettings(settings, host.hosts);
    if (this.#targetOf(settings, host) === host.process)
      throw new MigrationError(`to: ${host.process} is where the VM is; accepted: another host`);
    const { iommu, devices, ram } = this.#vm;
    if (!iommu.save) throw new MigrationError(`the vIOMMU '${iommu.name}' cannot be migrated`);
    const lost = devices.find((device) => !device.alive);
    if (lost) throw new MigrationError(`${lost.name} is lost: ${lost.failure}`);
    this.#settings = settings;
    return ram.startLog();
  }

  /** @throws MigrationError and others; {@link abort} must follow */
  async copy(): Promise<void> {
    const [settings, host] = [this.#settings, this.#host];
    if (!settings || !host) throw new MigrationError('no migration has begun');
    const to = this.#targetOf(settings, host);
    const socket = await host.connect(to, this.#vm);
    this.#outgoing = new Outgoing(this.#vm, settings, { from: host.process, to, socket });
    await this.#outgoing.copy();
  }

  /** @throws MigrationError and others; {@link abort} must follow */
  async handOver(state: string, pausedUs: number): Promise<MigrationStats> {
    if (!this.#outgoing) throw new MigrationError('no migration has begun');
    this.moved = await this.#outgoing.handOver(state, pausedUs);
    return this.moved;
  }

  /** The VM stays, if it is still here to stay. */
  async abort(reason: string): Promise<void> {
    const outgoing = this.#outgoing;
    this.#outgoing = undefined;
    this.#settings = undefined;
    if (outgoing?.handedOver) this.lost = reason;
    else if (outgoing) await outgoing.abort(reason);
    else this.#vm.ram.stopLog();
  }

  /** The next host, if none is named. */
  #targetOf({ to }: MigrationSettings, { process, hosts }: HostSocket): number {
    return to ?? (process + 1) % hosts;
  }
}
