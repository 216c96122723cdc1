/**
 * The guest's driver for virtio-iommu (virtio 1.3 section 5.13) behind the MMIO transport. The ID of an endpoint is
 * its requester ID.
 */

import { nowUs, sleep, yieldTurn } from '#host';
import * as virtio from '../../../abi/virtio.ts';
import * as format from '../../../abi/virtio-iommu.ts';
import { hex } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import { InFlight } from '../../in-flight.ts';
import { Mutex } from '../../mutex.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import {
  type VirtioDomainHost,
  VirtioIommuDomain,
  type VirtioIommuDomainState,
  VirtioIommuError,
} from './domain.ts';
import { VirtioQueue, type VirtioQueueState } from './queue.ts';
import { attachRequest, detachRequest, RequestQueue, type RequestQueueState } from './requests.ts';

export { VirtioIommuDomain, VirtioIommuError } from './domain.ts';
export { RequestTimeout } from './requests.ts';

/** Default time limit for a request, a reset or a change of `bypass`. */
const DEFAULT_TIMEOUT_MS = 60_000;
/** Count of buffers for fault reports; the device drops reports without a buffer. */
export const EVENT_BUFFERS = 64;
const EVENT_STEP = 32;
/** Count of polls of a register that only yield; later polls sleep. */
const QUICK_POLLS = 64;

interface VirtioIommuDriverOptions {
  /** Time limit for a request, a reset or a change of `bypass`. Default: 60000. */
  readonly timeoutMs?: number;
}

/** A fault report of the device. */
export interface VirtioIommuFault {
  /** FAULT_UNKNOWN, FAULT_DOMAIN or FAULT_MAPPING. */
  readonly reason: number;
  /** FAULT_F_*. */
  readonly flags: number;
  /** Requester ID. */
  readonly endpoint: number;
  /** IOVA. */
  readonly address: number;
}

/** State of a driver beside guest RAM and the device. */
export interface VirtioIommuDriverState {
  readonly timeoutMs: number;
  readonly requests: RequestQueueState;
  readonly events: VirtioQueueState;
  readonly eventBuffers: number;
  /** Feature bits, as a hexadecimal string. */
  readonly features: string;
  readonly granule: number;
  readonly nextId: number;
  readonly lastId: number;
  readonly freeIds: readonly number[];
  readonly domains: readonly VirtioIommuDomainState[];
}

/** Driver for a virtio-iommu, without a translation switch. */
export class VirtioIommuDriver {
  readonly #port: RegisterPort;
  readonly #ram: GuestRam;
  readonly #timeoutMs: number;
  readonly #requests: RequestQueue;
  readonly #events: VirtioQueue;
  readonly #eventBuffers: number;
  /** By ID. */
  readonly #domains = new Map<number, VirtioIommuDomain>();
  readonly #attachments = new Map<number, VirtioIommuDomain>();
  readonly #inFlight = new InFlight();
  readonly #changes = new Mutex();
  readonly #freeIds: number[] = [];
  #features = 0n;
  #granule = 0;
  #nextId = 0;
  #lastId = 0;

  /**
   * Allocates four pages. The driver must be started by {@link start}.
   * @param saved state of a started driver; then no page is allocated
   * @throws PageAllocatorExhausted
   */
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    options: VirtioIommuDriverOptions = {},
    saved?: VirtioIommuDriverState,
  ) {
    this.#port = port;
    this.#ram = ram;
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#requests = new RequestQueue(port, ram, pages, this.#timeoutMs, saved?.requests);
    this.#events = new VirtioQueue(port, ram, pages, format.EVENT_QUEUE, saved?.events);
    this.#eventBuffers = saved?.eventBuffers ?? pages.allocate();
    if (saved) this.#load(saved);
  }

  /** Restores a driver from its {@link save}. Device and RAM are restored already. */
  static restore(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    saved: VirtioIommuDriverState,
  ): VirtioIommuDriver {
    return new VirtioIommuDriver(port, ram, pages, saved, saved);
  }

  /** Returns the state of the driver. @throws InFlightError, VirtioIommuError before {@link start} */
  save(): VirtioIommuDriverState {
    this.#needStart();
    this.#inFlight.expectNone('the virtio-iommu driver');
    return {
      timeoutMs: this.#timeoutMs,
      requests: this.#requests.save(),
      events: this.#events.save(),
      eventBuffers: this.#eventBuffers,
      features: hex(this.#features),
      granule: this.#granule,
      nextId: this.#nextId,
      lastId: this.#lastId,
      freeIds: [...this.#freeIds],
      domains: [...this.#domains.values()].map((domain) => domain.save()),
    };
  }

  #load(saved: VirtioIommuDriverState): void {
    this.#features = BigInt(saved.features);
    this.#granule = saved.granule;
    this.#nextId = saved.nextId;
    this.#lastId = saved.lastId;
    this.#freeIds.push(...saved.freeIds);
    for (const state of saved.domains) {
      const domain = VirtioIommuDomain.restore(state, this.#host());
      this.#domains.set(domain.id, domain);
      for (const endpoint of domain.endpoints) this.#attachments.set(endpoint, domain);
    }
  }

  /**
   * Resolves to a started driver; no endpoint is in a domain.
   * @throws PageAllocatorExhausted, else as {@link start}
   */
  static async create(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    options: VirtioIommuDriverOptions = {},
  ): Promise<VirtioIommuDriver> {
    const driver = new VirtioIommuDriver(port, ram, pages, options);
    await driver.start();
    return driver;
  }

  /**
   * Resets and initializes the device (3.1.1).
   * @throws VirtioIommuError if it is no virtio-iommu or does not respond
   */
  async start(): Promise<void> {
    const [magic, id] = [await this.#read(virtio.MAGIC_REG), await this.#read(virtio.DEVICE_ID_REG)];
    if (BigInt(magic) !== virtio.MMIO_MAGIC || id !== format.VIRTIO_IOMMU_DEVICE_ID)
      throw new VirtioIommuError('there is no virtio-iommu at these registers');
    await this.#write(virtio.STATUS_REG, 0);
    await this.#until('reset', async () => (await this.#read(virtio.STATUS_REG)) === 0);
    const driver = virtio.STATUS_ACKNOWLEDGE | virtio.STATUS_DRIVER;
    await this.#write(virtio.STATUS_REG, driver);
    await this.#negotiate();
    await this.#write(virtio.STATUS_REG, driver | virtio.STATUS_FEATURES_OK);
    if (((await this.#read(virtio.STATUS_REG)) & virtio.STATUS_FEATURES_OK) === 0)
      throw new VirtioIommuError('the device does not accept its own features');
    await this.#readLimits();
    await this.#requests.install();
    await this.#events.install();
    await this.#write(virtio.STATUS_REG, driver | virtio.STATUS_FEATURES_OK | virtio.STATUS_DRIVER_OK);
    for (let i = 0; i < EVENT_BUFFERS; i++) this.#offerEvent(i);
    await this.#events.kick();
  }

  /** Creates an empty domain. @throws VirtioIommuError if all domain IDs are in use */
  createDomain(): VirtioIommuDomain {
    return this.#create(false);
  }

  /** Creates a domain whose devices see system memory. @throws VirtioIommuError without the feature or a free ID */
  createBypassDomain(): VirtioIommuDomain {
    this.#needBypass();
    return this.#create(true);
  }

  /** Destroys a domain. @throws VirtioIommuError if a device is in it */
  destroyDomain(domain: VirtioIommuDomain): Promise<void> {
    return this.#change('destroyDomain', async () => {
      if (domain.endpoints.size > 0)
        throw new VirtioIommuError(`domain ${domain.id} is used by ${[...domain.endpoints].join(', ')}`);
      this.#domains.delete(domain.id);
      this.#freeIds.push(domain.id);
    });
  }

  /**
   * Moves a device into a domain. Resolves when the device sees the domain's mappings. If the domain has no endpoint
   * yet, the device may fault meanwhile, because such a domain cannot be filled beforehand.
   * @param endpoint bus << 8 | device << 3 | function
   * @throws VirtioIommuError, RequestTimeout
   */
  attach(endpoint: number, domain: VirtioIommuDomain): Promise<void> {
    return this.#change('attach', async () => {
      const previous = this.#attachments.get(endpoint);
      if (previous === domain) return;
      const flags = domain.bypass ? format.ATTACH_F_BYPASS : 0;
      const enter = () => this.#request(attachRequest(domain.id, endpoint, flags), `ATTACH of ${endpoint}`);
      await (previous
        ? previous.dismiss(endpoint, () => domain.admit(endpoint, enter))
        : domain.admit(endpoint, enter));
      this.#attachments.set(endpoint, domain);
    });
  }

  /**
   * Removes a device from its domain. Resolves when the device sees system memory or nothing, by `bypass`.
   * @throws VirtioIommuError, RequestTimeout
   */
  detach(endpoint: number): Promise<void> {
    return this.#change('detach', async () => {
      const domain = this.#attachments.get(endpoint);
      if (!domain) return;
      await domain.dismiss(endpoint, () =>
        this.#request(detachRequest(domain.id, endpoint), `DETACH of ${endpoint}`),
      );
      this.#attachments.delete(endpoint);
    });
  }

  /**
   * Sets `bypass`: devices in no domain see system memory, or nothing. Resolves when this is in effect.
   * @throws VirtioIommuError without the feature, or if the device does not respond in time
   */
  setBypass(on: boolean): Promise<void> {
    this.#needBypass();
    return this.#change('setBypass', async () => {
      const register = virtio.CONFIG_REG + format.CONFIG_BYPASS;
      await this.#write(register, on ? 1 : 0);
      await this.#until('bypass', async () => ((await this.#read(register)) & 0xff) === (on ? 1 : 0));
    });
  }

  /** Resolves to the faults since the last call, oldest first; returns their buffers to the device. */
  readFaults(): Promise<VirtioIommuFault[]> {
    return this.#inFlight.run('readFaults', () => this.#readFaults());
  }

  /** Returns the domain with this ID; undefined if there is no such domain. */
  domain(id: number): VirtioIommuDomain | undefined {
    return this.#domains.get(id);
  }

  async #readFaults(): Promise<VirtioIommuFault[]> {
    const faults: VirtioIommuFault[] = [];
    for (let used = this.#events.take(); used; used = this.#events.take()) {
      const bytes = this.#ram.read(this.#eventBuffers + EVENT_STEP * used.head, format.EVENT_BYTES);
      const event = new DataView(bytes.buffer);
      faults.push({
        reason: event.getUint8(0),
        flags: event.getUint32(4, true),
        endpoint: event.getUint32(8, true),
        address: Number(event.getBigUint64(16, true)),
      });
      this.#offerEvent(used.head);
      if (faults.length === EVENT_BUFFERS) break;
    }
    if (faults.length > 0) await this.#events.kick();
    return faults;
  }

  #create(bypass: boolean): VirtioIommuDomain {
    this.#needStart();
    const id = this.#freeIds.pop() ?? this.#nextId++;
    if (id > this.#lastId) throw new VirtioIommuError('all domain IDs are in use');
    const domain = new VirtioIommuDomain(id, bypass, this.#host());
    this.#domains.set(id, domain);
    return domain;
  }

  #host(): VirtioDomainHost {
    return {
      granule: this.#granule,
      inFlight: this.#inFlight,
      submit: (requests, what) => this.#requests.submit(requests, what),
    };
  }

  #change(what: string, work: () => Promise<void>): Promise<void> {
    return this.#inFlight.run(what, () => this.#changes.run(work));
  }

  #needStart(): void {
    if (this.#granule === 0) throw new VirtioIommuError('the virtio-iommu driver was not started');
  }

  #needBypass(): void {
    if ((this.#features & format.F_BYPASS_CONFIG) === 0n)
      throw new VirtioIommuError('the device has no VIRTIO_IOMMU_F_BYPASS_CONFIG');
  }

  #offerEvent(index: number): void {
    this.#events.describe(index, this.#eventBuffers + EVENT_STEP * index, format.EVENT_BYTES, true);
    this.#events.offer(index);
  }

  async #request(request: Uint8Array, what: string): Promise<void> {
    const [status] = await this.#requests.submit([request], what);
    if (status !== format.S_OK) throw new VirtioIommuError(what, status);
  }

  async #negotiate(): Promise<void> {
    let offered = 0n;
    for (const half of [0, 1]) {
      await this.#write(virtio.DEVICE_FEATURES_SEL_REG, half);
      offered |= BigInt(await this.#read(virtio.DEVICE_FEATURES_REG)) << BigInt(32 * half);
    }
    this.#features = offered & format.IOMMU_FEATURES;
    const needed = virtio.F_VERSION_1 | format.F_MAP_UNMAP;
    if ((this.#features & needed) !== needed)
      throw new VirtioIommuError('the device lacks VIRTIO_F_VERSION_1 or VIRTIO_IOMMU_F_MAP_UNMAP');
    for (const half of [0, 1]) {
      await this.#write(virtio.DRIVER_FEATURES_SEL_REG, half);
      const bits = (this.#features >> BigInt(32 * half)) & 0xffffffffn;
      await this.#write(virtio.DRIVER_FEATURES_REG, Number(bits));
    }
  }

  async #readLimits(): Promise<void> {
    const field = async (offset: number) => await this.#read(virtio.CONFIG_REG + offset);
    const mask = await field(format.CONFIG_PAGE_SIZE_MASK);
    this.#granule = mask === 0 ? 2 ** 32 : (mask & -mask) >>> 0;
    this.#nextId = await field(format.CONFIG_DOMAIN_START);
    this.#lastId = await field(format.CONFIG_DOMAIN_END);
  }

  /** Polls until `followed` resolves to true. */
  async #until(what: string, followed: () => Promise<boolean>): Promise<void> {
    const deadline = nowUs() + this.#timeoutMs * 1000;
    for (let polls = 0; !(await followed()); polls++) {
      if (nowUs() > deadline)
        throw new VirtioIommuError(`${what} not completed within ${this.#timeoutMs} ms`);
      await (polls < QUICK_POLLS ? yieldTurn() : sleep(1));
    }
  }

  async #read(register: number): Promise<number> {
    return Number(await this.#port.read(register, 4));
  }

  #write(register: number, value: number): void | Promise<void> {
    return this.#port.write(register, 4, BigInt(value));
  }
}
