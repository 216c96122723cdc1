/**
 * The guest's driver for AMD-Vi. It is written from the specification alone: it accesses registers through a port, and has
 * tables, command buffer and event log in guest RAM.
 *
 * Translation is switched by IommuEn. While it is off, no command is executed and none is needed: nothing is cached.
 */

import { nowUs, sleep, yieldTurn } from '#host';
import * as amdvi from '../../../abi/amdvi.ts';
import { hex } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import { bdfText } from '../../../pci/config-space.ts';
import { InFlight } from '../../in-flight.ts';
import { Mutex, SharedMutex } from '../../mutex.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import { alignedPieces } from '../aligned-pieces.ts';
import type { CommandRingState, Descriptor } from '../command-ring.ts';
import type { GuestFault, GuestIommu, GuestIommuCapabilities, UnmapRange } from '../guest-iommu.ts';
import { type DomainHost, PagedDomain, type PagedDomainState } from '../paged-domain.ts';
import {
  CommandQueue,
  INVALIDATE_ALL,
  invalidateDevice,
  invalidateDomain,
  invalidatePages,
} from './command-queue.ts';
import { type DeviceTableState, GuestDeviceTable } from './device-table.ts';
import { type EventLogState, GuestEventLog } from './event-log.ts';
import { AmdPageTableEditor, type AmdTablesState } from './page-table-editor.ts';

const { CONTROL, STATUS, FEATURE, CAPABILITY } = amdvi;

/** Default time limit for an invalidation or a switch. */
const DEFAULT_TIMEOUT_MS = 60_000;
/** Limit of page-selective commands; beyond it one for the whole domain is cheaper. */
const PAGE_SELECTIVE_LIMIT = 16;
/** Largest page-selective invalidation: 2^36 pages are the whole address space of 48 bits. */
const LARGEST_MASK = 35;
/** Limit of commands in one submission at the start of translation. */
const DEVICES_AT_ONCE = 32;
/** Count of levels of a domain's page tables: 48 bits, as many as the capability block announces. */
const LEVELS = 4;
/** Domain ID of every pass-through device. */
const PASS_THROUGH_DOMAIN = 1;
const FIRST_DOMAIN = 2;
const DOMAIN_LIMIT = 2 ** 16;
/** Count of polls of the status register that only yield; later polls sleep. */
const QUICK_POLLS = 64;

/** Thrown for a request that the driver or the hardware does not support. */
export class AmdViDriverError extends Error {
  override name = 'AmdViDriverError';
}

/** Thrown when the run bits of the status register do not follow the control register in time. */
export class SwitchTimeout extends Error {
  constructor(what: string, timeoutMs: number, status: bigint) {
    super(`${what} not completed within ${timeoutMs} ms (status ${hex(status)})`);
    this.name = 'SwitchTimeout';
  }
}

/** A domain of the AMD-Vi driver. */
export type AmdViDomain = PagedDomain<AmdTablesState>;

/** Options of a driver. */
export interface AmdViDriverOptions {
  /** Time limit for an invalidation or a switch. Default: 60000. */
  readonly timeoutMs?: number;
}

/** Capabilities of the hardware. */
export interface AmdViCapabilities extends GuestIommuCapabilities {
  /** NpCache: entries must also be invalidated when they become present. */
  readonly cachingMode: boolean;
}

/** State of a driver beside guest RAM and registers. */
export interface AmdViDriverState {
  readonly options: AmdViDriverOptions;
  readonly capabilities: AmdViCapabilities;
  readonly enabled: boolean;
  readonly commands: CommandRingState;
  readonly events: EventLogState;
  readonly table: DeviceTableState;
  readonly domains: readonly PagedDomainState<AmdTablesState>[];
  /** Domain IDs by requester ID: PASS_THROUGH_DOMAIN, or one of `domains`. */
  readonly attachments: readonly (readonly [requesterId: number, domainId: number])[];
  readonly freeIds: readonly number[];
  readonly nextId: number;
}

/** Driver for one AMD-Vi unit. */
export class AmdViDriver implements GuestIommu {
  readonly #port: RegisterPort;
  readonly #ram: GuestRam;
  readonly #pages: PageAllocator;
  readonly #options: AmdViDriverOptions;
  readonly #timeoutMs: number;
  readonly #commands: CommandQueue;
  readonly #events: GuestEventLog;
  readonly #table: GuestDeviceTable;
  /** By ID. */
  readonly #domains = new Map<number, AmdViDomain>();
  /** Domain IDs by requester ID. */
  readonly #attachments = new Map<number, number>();
  readonly #inFlight = new InFlight();
  /** Submissions are shared work, switches exclusive: a command buffer that stops executes nothing more. */
  readonly #running = new SharedMutex();
  readonly #changes = new Mutex();
  readonly #freeIds: number[] = [];
  #nextId = FIRST_DOMAIN;
  #enabled = false;
  #capabilities: AmdViCapabilities | undefined;

  /**
   * Allocates the device table and four pages. The driver must be started by {@link start}.
   * @param requesterIds the devices behind the unit
   * @param saved state of a started driver; then no page is allocated
   * @throws PageAllocatorExhausted
   */
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    requesterIds: readonly number[],
    options: AmdViDriverOptions = {},
    saved?: AmdViDriverState,
  ) {
    this.#port = port;
    this.#ram = ram;
    this.#pages = pages;
    this.#options = options;
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#table = new GuestDeviceTable(ram, pages, Math.max(0, ...requesterIds), saved?.table);
    this.#commands = new CommandQueue(port, ram, pages, this.#timeoutMs, saved?.commands);
    this.#events = new GuestEventLog(port, ram, pages, saved?.events);
    if (saved) this.#load(saved);
  }

  /** Restores a driver from its {@link save}. Registers and RAM are restored already. */
  static restore(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    saved: AmdViDriverState,
  ): AmdViDriver {
    return new AmdViDriver(port, ram, pages, [], saved.options, saved);
  }

  /** Returns the state of the driver. @throws InFlightError, AmdViDriverError before {@link start} */
  save(): AmdViDriverState {
    const { capabilities } = this;
    this.#inFlight.expectNone('the AMD-Vi driver');
    return {
      options: this.#options,
      capabilities,
      enabled: this.#enabled,
      commands: this.#commands.save(),
      events: this.#events.save(),
      table: this.#table.save(),
      domains: [...this.#domains.values()].map((domain) => domain.save()),
      attachments: [...this.#attachments],
      freeIds: [...this.#freeIds],
      nextId: this.#nextId,
    };
  }

  #load(saved: AmdViDriverState): void {
    this.#capabilities = saved.capabilities;
    this.#enabled = saved.enabled;
    for (const domain of saved.domains) this.#addDomain(domain.id, domain.tables);
    for (const [requesterId, domainId] of saved.attachments) this.#attachments.set(requesterId, domainId);
    this.#freeIds.push(...saved.freeIds);
    this.#nextId = saved.nextId;
  }

  /**
   * Reads the capabilities, disables what an earlier driver has enabled, and sets the device table, the command buffer
   * and the event log.
   * @throws AmdViDriverError, SwitchTimeout
   */
  async start(): Promise<void> {
    this.#capabilities = await this.#readCapabilities();
    await this.#control('disabling the IOMMU', 0n, 0n);
    await this.#port.write(amdvi.DEVICE_TABLE_REG, 8, this.#table.register);
    await this.#commands.install();
    await this.#events.install();
  }

  /** @throws AmdViDriverError before {@link start} */
  get capabilities(): AmdViCapabilities {
    if (!this.#capabilities) throw new AmdViDriverError('the AMD-Vi driver was not started');
    return this.#capabilities;
  }

  /** Creates an empty domain. @throws AmdViDriverError if all domain IDs are in use, PageAllocatorExhausted */
  createDomain(): AmdViDomain {
    const reused = this.#freeIds.at(-1);
    const id = reused ?? this.#nextId;
    if (id >= DOMAIN_LIMIT) throw new AmdViDriverError(`all ${DOMAIN_LIMIT} domain IDs are in use`);
    const domain = this.#addDomain(id);
    if (reused === undefined) this.#nextId++;
    else this.#freeIds.pop();
    return domain;
  }

  domain(id: number): AmdViDomain | undefined {
    return this.#domains.get(id);
  }

  #addDomain(id: number, saved?: AmdTablesState): AmdViDomain {
    const host: DomainHost<AmdTablesState> = {
      pages: this.#pages,
      cachingMode: this.capabilities.cachingMode,
      inFlight: this.#inFlight,
      invalidate: (changed, ranges) => this.submitInvalidation(changed, ranges),
    };
    const tables = new AmdPageTableEditor(this.#ram, this.#pages, LEVELS, saved);
    const domain = new PagedDomain(id, host, tables);
    this.#domains.set(id, domain);
    return domain;
  }

  /** Destroys a domain. @throws AmdViDriverError if a device is attached to it, InvalidationTimeout */
  destroyDomain(domain: AmdViDomain): Promise<void> {
    return this.#change('destroyDomain', async () => {
      for (const [requesterId, id] of this.#attachments)
        if (id === domain.id)
          throw new AmdViDriverError(`domain ${domain.id} is used by ${bdfText(requesterId)}`);
      await this.#submit([invalidateDomain(domain.id)], `invalidation of domain ${domain.id}`);
      domain.dismantle();
      this.#domains.delete(domain.id);
      this.#freeIds.push(domain.id);
    });
  }

  /**
   * Moves a device into a domain. Resolves when the device uses the new tables.
   * @throws AmdViDriverError for a device beyond the device table, InvalidationTimeout
   */
  attach(requesterId: number, domain: AmdViDomain): Promise<void> {
    return this.#setEntry(requesterId, domain.id, domain.root);
  }

  setPassThrough(requesterId: number): Promise<void> {
    return this.#setEntry(requesterId, PASS_THROUGH_DOMAIN, undefined);
  }

  /** Blocks a device. Resolves when the device cannot reach any memory. @throws InvalidationTimeout */
  detach(requesterId: number): Promise<void> {
    return this.#change('detach', async () => {
      const id = this.#attachments.get(requesterId);
      if (id === undefined) return;
      this.#table.clear(requesterId);
      await this.#invalidateDevice(requesterId, [id]);
      this.#attachments.delete(requesterId);
    });
  }

  /** Enables translation; resolves when every device uses its entry. @throws SwitchTimeout, InvalidationTimeout */
  enableTranslation(): Promise<void> {
    return this.#switch('enableTranslation', async () => {
      if (this.#enabled) return;
      const control = CONTROL.IOMMU_EN | CONTROL.CMD_BUF_EN | CONTROL.EVENT_LOG_EN;
      await this.#control('enabling the IOMMU', control, STATUS.CMD_BUF_RUN | STATUS.EVENT_LOG_RUN);
      this.#enabled = true;
      await this.#flushAll();
    });
  }

  /** Disables translation; resolves when every device sees system memory. @throws SwitchTimeout */
  disableTranslation(): Promise<void> {
    return this.#switch('disableTranslation', async () => {
      if (!this.#enabled) return;
      await this.#control('disabling the IOMMU', 0n, 0n);
      this.#enabled = false;
    });
  }

  readFaults(): Promise<GuestFault | undefined> {
    return this.#inFlight.run('readFaults', () => this.#events.drain());
  }

  /**
   * Invalidates pages after a map or an unmap; resolves when the hardware has completed it.
   * @throws InvalidationTimeout
   */
  protected submitInvalidation({ id }: AmdViDomain, ranges: readonly UnmapRange[]): Promise<void> {
    const pieces = alignedPieces(ranges, LARGEST_MASK, PAGE_SELECTIVE_LIMIT);
    const commands = pieces?.map(({ iova, mask }) => invalidatePages(id, iova, mask));
    return this.#submit(commands ?? [invalidateDomain(id)], `invalidation of domain ${id}`);
  }

  /** Submits commands. While the IOMMU is disabled there is nothing to invalidate. */
  #submit(commands: readonly Descriptor[], what: string): Promise<void> {
    return this.#running.runShared(async () => {
      if (this.#enabled) await this.#commands.submit(commands, what);
    });
  }

  /** Invalidates everything that was cached before the IOMMU was enabled, as Linux does. */
  async #flushAll(): Promise<void> {
    const devices = [...this.#attachments.keys()];
    for (let at = 0; at < devices.length; at += DEVICES_AT_ONCE)
      await this.#commands.submit(
        devices.slice(at, at + DEVICES_AT_ONCE).map(invalidateDevice),
        'invalidation of device table entries',
      );
    await this.#commands.submit([INVALIDATE_ALL], 'invalidation of everything');
  }

  #setEntry(requesterId: number, domainId: number, root: number | undefined): Promise<void> {
    return this.#change('attach', async () => {
      if (!this.#table.has(requesterId))
        throw new AmdViDriverError(`the device table has no entry for ${bdfText(requesterId)}`);
      const before = this.#attachments.get(requesterId);
      this.#table.set(requesterId, { domainId, levels: LEVELS, root });
      this.#attachments.set(requesterId, domainId);
      await this.#invalidateDevice(requesterId, before === undefined ? [domainId] : [before, domainId]);
    });
  }

  async #invalidateDevice(requesterId: number, domains: readonly number[]): Promise<void> {
    const commands = [invalidateDevice(requesterId), ...[...new Set(domains)].map(invalidateDomain)];
    await this.#submit(commands, `invalidation of the entry of ${bdfText(requesterId)}`);
  }

  #change(what: string, work: () => Promise<void>): Promise<void> {
    return this.#inFlight.run(what, () => this.#changes.run(work));
  }

  #switch(what: string, work: () => Promise<void>): Promise<void> {
    return this.#inFlight.run(what, () => this.#running.runExclusive(work));
  }

  /** @throws AmdViDriverError if the hardware lacks what the driver needs */
  async #readCapabilities(): Promise<AmdViCapabilities> {
    const features = await this.#port.read(amdvi.EXTENDED_FEATURE_REG, 8);
    const levels = (features >> FEATURE.HATS_SHIFT) & FEATURE.HATS_MASK;
    if (levels === FEATURE.HATS_NONE)
      throw new AmdViDriverError('the hardware does not translate DMA (EFR.HATS is 3)');
    if ((features & FEATURE.INVALIDATE_ALL) === 0n)
      throw new AmdViDriverError('the hardware has no INVALIDATE_IOMMU_ALL (EFR.IA)');
    const header = Number(await this.#port.read(amdvi.CONFIG_OFFSET + CAPABILITY.HEADER, 4));
    if ((header & 0xff) !== CAPABILITY.ID)
      throw new AmdViDriverError(`capability ${hex(header & 0xff)} is not an IOMMU's`);
    return { passThrough: true, faultRecords: true, cachingMode: (header & CAPABILITY.NP_CACHE) !== 0 };
  }

  /** Writes the control register and polls until the run bits follow: then the switch is complete. */
  async #control(what: string, control: bigint, running: bigint): Promise<void> {
    await this.#port.write(amdvi.CONTROL_REG, 8, control);
    const deadline = nowUs() + this.#timeoutMs * 1000;
    for (let polls = 0; ; polls++) {
      const status = await this.#port.read(amdvi.STATUS_REG, 8);
      if ((status & (STATUS.CMD_BUF_RUN | STATUS.EVENT_LOG_RUN)) === running) return;
      if (nowUs() > deadline) throw new SwitchTimeout(what, this.#timeoutMs, status);
      await (polls < QUICK_POLLS ? yieldTurn() : sleep(1));
    }
  }
}
