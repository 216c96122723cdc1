/**
 * The guest's driver for VT-d in legacy or scalable mode. It is written from the specification alone: it accesses
 * registers through a port, and has tables and queue in guest RAM.
 */

import { nowUs, sleep, yieldTurn } from '#host';
import * as vtd from '../../../abi/vtd.ts';
import { hex } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import { bdfText } from '../../../pci/config-space.ts';
import { InFlight } from '../../in-flight.ts';
import { Mutex } from '../../mutex.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import { alignedPieces } from '../aligned-pieces.ts';
import type { CommandRingState, Descriptor } from '../command-ring.ts';
import type { GuestFault, GuestIommu, UnmapRange } from '../guest-iommu.ts';
import { type DomainHost, PagedDomain, type PagedDomainState } from '../paged-domain.ts';
import type { DeviceTables, DeviceTablesState } from './context-tables.ts';
import { CONTEXT_GLOBAL, IOTLB_GLOBAL, PASID_CACHE_GLOBAL } from './descriptors.ts';
import { VtdQueue } from './invalidation-queue.ts';
import {
  MODES,
  type ModeParts,
  readCapabilities,
  type VtdCapabilities,
  VtdDriverError,
  type VtdMode,
} from './modes.ts';
import { PageTableEditor, type PageTablesState } from './page-table-editor.ts';

export { type VtdCapabilities, VtdDriverError, type VtdMode } from './modes.ts';

/** A domain of the VT-d driver. */
export type VtdDomain = PagedDomain<PageTablesState>;

/** Default time limit for an invalidation or a global command. */
const DEFAULT_TIMEOUT_MS = 60_000;
/** Limit of page-selective descriptors; beyond it one domain-selective descriptor is cheaper. */
const PAGE_SELECTIVE_LIMIT = 16;
/** Domain ID of every pass-through device; 0 is reserved under caching mode. */
const PASS_THROUGH_DOMAIN = 1;
const FIRST_DOMAIN = 2;
const DOMAIN_LIMIT = 2 ** 16;
/** Count of polls of a status register that only yield; later polls sleep. */
const QUICK_POLLS = 64;

/** Thrown when the status bit of a global command does not change in time. */
export class CommandTimeout extends Error {
  constructor(what: string, timeoutMs: number, status: number) {
    super(`${what} not completed within ${timeoutMs} ms (GSTS ${hex(status)})`);
    this.name = 'CommandTimeout';
  }
}

/** Options of a driver. */
export interface VtdDriverOptions {
  /** Time limit for an invalidation or a global command. Default: 60000. */
  readonly timeoutMs?: number;
  /** Default: `legacy`. */
  readonly mode?: VtdMode;
  /** Count of levels of the domains' page tables. Default: the maximum of the hardware. */
  readonly levels?: 3 | 4;
}

/** State of a driver beside guest RAM and registers. */
export interface VtdDriverState {
  readonly options: VtdDriverOptions;
  readonly capabilities: VtdCapabilities;
  readonly queue: CommandRingState;
  readonly tables: DeviceTablesState;
  readonly domains: readonly PagedDomainState<PageTablesState>[];
  /** Domain IDs by requester ID: PASS_THROUGH_DOMAIN, or one of `domains`. */
  readonly attachments: readonly (readonly [requesterId: number, domainId: number])[];
  readonly freeIds: readonly number[];
  readonly nextId: number;
}

interface Attachment {
  readonly domainId: number;
  readonly domain: VtdDomain | undefined;
}

/** Driver for one VT-d unit. */
export class VtdDriver implements GuestIommu {
  readonly #port: RegisterPort;
  readonly #ram: GuestRam;
  readonly #pages: PageAllocator;
  readonly #options: VtdDriverOptions;
  readonly #timeoutMs: number;
  readonly #queue: VtdQueue;
  readonly #mode: ModeParts;
  readonly #tables: DeviceTables;
  /** By ID. */
  readonly #domains = new Map<number, VtdDomain>();
  readonly #attachments = new Map<number, Attachment>();
  readonly #inFlight = new InFlight();
  readonly #commands = new Mutex();
  readonly #contexts = new Mutex();
  readonly #freeIds: number[] = [];
  #nextId = FIRST_DOMAIN;
  #capabilities: VtdCapabilities | undefined;

  /**
   * Allocates three pages. The driver must be started by {@link start}.
   * @param saved state of a started driver; then no page is allocated
   * @throws PageAllocatorExhausted
   */
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    options: VtdDriverOptions = {},
    saved?: VtdDriverState,
  ) {
    this.#port = port;
    this.#ram = ram;
    this.#pages = pages;
    this.#options = options;
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#mode = MODES[options.mode ?? 'legacy'];
    this.#tables = this.#mode.tables(ram, pages, saved?.tables);
    this.#queue = new VtdQueue(port, ram, pages, this.#timeoutMs, this.#mode.scalable, saved?.queue);
    if (saved) this.#load(saved);
  }

  /** Restores a driver from its {@link save}. Registers and RAM are restored already. */
  static restore(port: RegisterPort, ram: GuestRam, pages: PageAllocator, saved: VtdDriverState): VtdDriver {
    return new VtdDriver(port, ram, pages, saved.options, saved);
  }

  /** Returns the state of the driver. @throws InFlightError, VtdDriverError before {@link start} */
  save(): VtdDriverState {
    const { capabilities } = this;
    this.#inFlight.expectNone('the VT-d driver');
    return {
      options: this.#options,
      capabilities,
      queue: this.#queue.save(),
      tables: this.#tables.save(),
      domains: [...this.#domains.values()].map((domain) => domain.save()),
      attachments: [...this.#attachments].map(([requesterId, { domainId }]) => [requesterId, domainId]),
      freeIds: [...this.#freeIds],
      nextId: this.#nextId,
    };
  }

  #load(saved: VtdDriverState): void {
    this.#capabilities = saved.capabilities;
    for (const domain of saved.domains) this.#addDomain(domain.id, domain.tables);
    for (const [requesterId, domainId] of saved.attachments)
      this.#attachments.set(requesterId, { domainId, domain: this.#domains.get(domainId) });
    this.#freeIds.push(...saved.freeIds);
    this.#nextId = saved.nextId;
  }

  /** Resolves to a started driver; translation is disabled. @throws PageAllocatorExhausted, else as {@link start} */
  static async create(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    options: VtdDriverOptions = {},
  ): Promise<VtdDriver> {
    const driver = new VtdDriver(port, ram, pages, options);
    await driver.start();
    return driver;
  }

  /**
   * Reads the capabilities, disables what an earlier driver has enabled, sets the root table, enables the
   * invalidation queue and invalidates all caches.
   * @throws VtdDriverError, CommandTimeout, InvalidationTimeout
   */
  async start(): Promise<void> {
    this.#capabilities = await readCapabilities(
      this.#port,
      this.#options.mode ?? 'legacy',
      this.#options.levels,
    );
    await this.disableTranslation();
    await this.#command('disabling queued invalidation', vtd.GCMD_QIE, false);
    await this.#port.write(vtd.RTADDR_REG, 8, this.#tables.rootPointer);
    await this.#command('setting the root table', vtd.GCMD_SRTP, true);
    await this.#queue.install();
    await this.#command('enabling queued invalidation', vtd.GCMD_QIE, true);
    await this.#queue.submit([CONTEXT_GLOBAL], 'global context-cache invalidation');
    if (this.#mode.scalable)
      await this.#queue.submit([PASID_CACHE_GLOBAL], 'global PASID-cache invalidation');
    await this.#queue.submit([IOTLB_GLOBAL], 'global IOTLB invalidation');
  }

  /** @throws VtdDriverError before {@link start} */
  get capabilities(): VtdCapabilities {
    if (!this.#capabilities) throw new VtdDriverError('the VT-d driver was not started');
    return this.#capabilities;
  }

  /** Creates an empty domain. @throws VtdDriverError if all domain IDs are in use, PageAllocatorExhausted */
  createDomain(): VtdDomain {
    const reused = this.#freeIds.at(-1);
    const id = reused ?? this.#nextId;
    if (id >= DOMAIN_LIMIT) throw new VtdDriverError(`all ${DOMAIN_LIMIT} domain IDs are in use`);
    const domain = this.#addDomain(id);
    if (reused === undefined) this.#nextId++;
    else this.#freeIds.pop();
    return domain;
  }

  /** Returns the domain with this ID; undefined if there is no such domain. */
  domain(id: number): VtdDomain | undefined {
    return this.#domains.get(id);
  }

  #addDomain(id: number, saved?: PageTablesState): VtdDomain {
    const { levels, largestLeaf, cachingMode } = this.capabilities;
    const pages = this.#pages;
    const host: DomainHost<PageTablesState> = {
      pages,
      cachingMode,
      inFlight: this.#inFlight,
      invalidate: (changed, ranges) => this.submitInvalidation(changed, ranges),
    };
    const { encoding } = this.#mode;
    const tables = new PageTableEditor(this.#ram, pages, levels, largestLeaf, encoding, saved);
    const domain = new PagedDomain(id, host, tables);
    this.#domains.set(id, domain);
    return domain;
  }

  /** Destroys a domain. @throws VtdDriverError if a device is attached to it, InvalidationTimeout */
  destroyDomain(domain: VtdDomain): Promise<void> {
    return this.#changeTables('destroyDomain', async () => {
      for (const [requesterId, { domain: used }] of this.#attachments)
        if (used === domain)
          throw new VtdDriverError(`domain ${domain.id} is used by ${bdfText(requesterId)}`);
      await this.#queue.submit(
        [this.#mode.iotlb.domain(domain.id)],
        `IOTLB invalidation of domain ${domain.id}`,
      );
      domain.dismantle();
      this.#domains.delete(domain.id);
      this.#freeIds.push(domain.id);
    });
  }

  /**
   * Moves a device into a domain. Resolves when the device uses the new tables.
   * @param requesterId bus << 8 | device << 3 | function
   * @throws InvalidationTimeout, PageAllocatorExhausted
   */
  attach(requesterId: number, domain: VtdDomain): Promise<void> {
    return this.#setTables(requesterId, { domainId: domain.id, domain });
  }

  /**
   * Lets a device see system memory while others are translated.
   * @throws VtdDriverError without ECAP.PT, InvalidationTimeout, PageAllocatorExhausted
   */
  async setPassThrough(requesterId: number): Promise<void> {
    if (!this.capabilities.passThrough)
      throw new VtdDriverError('the hardware has no pass-through (ECAP.PT)');
    await this.#setTables(requesterId, { domainId: PASS_THROUGH_DOMAIN, domain: undefined });
  }

  /** Blocks a device. Resolves when the device cannot reach any memory. @throws InvalidationTimeout */
  detach(requesterId: number): Promise<void> {
    return this.#changeTables('detach', () => this.#clearTables(requesterId));
  }

  /** Enables translation; resolves when every device uses the tables of its domain. @throws CommandTimeout */
  enableTranslation(): Promise<void> {
    return this.#command('enabling translation', vtd.GCMD_TE, true);
  }

  /** Disables translation; resolves when every device sees system memory. @throws CommandTimeout */
  disableTranslation(): Promise<void> {
    return this.#command('disabling translation', vtd.GCMD_TE, false);
  }

  /** Reads and clears the recorded fault and the fault status; resolves to undefined if no fault is recorded. */
  readFaults(): Promise<GuestFault | undefined> {
    return this.#inFlight.run('readFaults', () => this.#readFaults());
  }

  async #readFaults(): Promise<GuestFault | undefined> {
    const { FRCD } = vtd;
    const at = this.capabilities.faultOffset;
    const high = await this.#port.read(at + 8, 8);
    let fault: GuestFault | undefined;
    if ((high & FRCD.F) !== 0n) {
      fault = {
        requesterId: Number(high & FRCD.SID_MASK),
        iova: Number(await this.#port.read(at, 8)),
        write: (high & FRCD.T) === 0n,
        reason: Number((high >> FRCD.REASON_SHIFT) & FRCD.REASON_MASK),
      };
      await this.#port.write(at + 12, 4, BigInt(vtd.FRCD_F_DWORD));
    }
    await this.#port.write(vtd.FSTS_REG, 4, BigInt(vtd.FSTS_PFO));
    return fault;
  }

  /**
   * Submits the invalidation of pages after a map or an unmap; resolves when the hardware has completed it. All page
   * invalidations go through this method, so that fault injection can override it.
   * @throws InvalidationTimeout
   */
  protected submitInvalidation(domain: VtdDomain, ranges: readonly UnmapRange[]): Promise<void> {
    const descriptors = this.#pageDescriptors(domain.id, ranges) ?? [this.#mode.iotlb.domain(domain.id)];
    return this.#queue.submit(descriptors, `IOTLB invalidation of domain ${domain.id}`);
  }

  /**
   * Returns page-selective descriptors for ranges; undefined if they would be too many. Each covers a naturally
   * aligned power of two of pages.
   */
  #pageDescriptors(domainId: number, ranges: readonly UnmapRange[]): Descriptor[] | undefined {
    const { maxAddressMask } = this.capabilities;
    if (maxAddressMask < 0) return undefined;
    const pieces = alignedPieces(ranges, maxAddressMask, PAGE_SELECTIVE_LIMIT);
    return pieces?.map(({ iova, mask }) => this.#mode.iotlb.pages(domainId, iova, mask));
  }

  #changeTables(what: string, work: () => Promise<void>): Promise<void> {
    return this.#inFlight.run(what, () => this.#contexts.run(work));
  }

  /**
   * Writes a device's entry. Cached entries are tagged with the old domain ID (0 for "not present", section 6.1), so
   * the invalidation names the old ID.
   */
  #setTables(requesterId: number, attachment: Attachment): Promise<void> {
    const { levels } = this.capabilities;
    return this.#changeTables('attach', async () => {
      const { domainId, domain } = attachment;
      const cached = this.#attachments.get(requesterId)?.domainId ?? 0;
      const target = { domainId, levels, root: domain?.root };
      const descriptors = this.#tables.set(requesterId, target, cached);
      this.#attachments.set(requesterId, attachment);
      await this.#invalidateDevice(requesterId, descriptors, [cached, domainId]);
    });
  }

  async #clearTables(requesterId: number): Promise<void> {
    const attachment = this.#attachments.get(requesterId);
    if (!attachment) return;
    const descriptors = this.#tables.clear(requesterId, attachment.domainId);
    await this.#invalidateDevice(requesterId, descriptors, [attachment.domainId]);
    this.#attachments.delete(requesterId);
  }

  /** Invalidates a device's entries by `descriptors`, then the IOTLB of each domain in `domains`. */
  async #invalidateDevice(
    requesterId: number,
    descriptors: readonly Descriptor[],
    domains: readonly number[],
  ): Promise<void> {
    const used = [...new Set(domains)].filter((id) => id !== 0);
    const all = [...descriptors, ...used.map((id) => this.#mode.iotlb.domain(id))];
    await this.#queue.submit(all, `context-cache invalidation of ${bdfText(requesterId)}`);
  }

  /** Sets or clears one bit of GCMD and polls GSTS until it changes. */
  #command(what: string, bit: number, on: boolean): Promise<void> {
    return this.#inFlight.run(what, () => this.#commands.run(() => this.#setCommandBit(what, bit, on)));
  }

  async #setCommandBit(what: string, bit: number, on: boolean): Promise<void> {
    const status = (await this.#status()) & ~vtd.GSTS_ONE_SHOT;
    const command = (on ? status | bit : status & ~bit) >>> 0;
    await this.#port.write(vtd.GCMD_REG, 4, BigInt(command));
    const deadline = nowUs() + this.#timeoutMs * 1000;
    for (let polls = 0; ; polls++) {
      const now = await this.#status();
      if (((now & bit) !== 0) === on) return;
      if (nowUs() > deadline) throw new CommandTimeout(what, this.#timeoutMs, now);
      await (polls < QUICK_POLLS ? yieldTurn() : sleep(1));
    }
  }

  async #status(): Promise<number> {
    return Number(await this.#port.read(vtd.GSTS_REG, 4));
  }
}
