/**
 * Endpoints and their domains, with the rules of ATTACH and DETACH (virtio 1.3 sections 5.13.6.3 and 5.13.6.4).
 */
import * as format from '../../abi/virtio-iommu.ts';
import { all, type Completion } from '../../platform/completion.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import { Domain, type WorkMeter } from './domain.ts';
import type { Behaviour } from './quirks.ts';

/** Endpoints that a unit remembers. An ATTACH of one more is NOMEM. */
export const ENDPOINT_LIMIT = 2 ** 16;

/** A request's status, and the work that must complete before the driver may see it (R6). */
export interface Outcome {
  readonly status: number;
  readonly work?: Completion;
}

/** An endpoint that a driver has attached or tried to attach. */
interface Entry {
  domain: Domain | undefined;
}

export class Endpoints {
  /** The owner resets `work` to 0. */
  readonly meter: WorkMeter = { work: 0, mappings: 0 };
  readonly #behaviour: Behaviour;
  readonly #bypassed: () => boolean;
  /** Functions of the machine by requester ID; those without DMA have no address space here. */
  readonly #functions = new Map<number, DeviceAddressSpace | undefined>();
  readonly #entries = new Map<number, Entry>();
  readonly #domains = new Map<number, Domain>();

  /** @param bypassed returns true if endpoints in no domain see system memory: `bypass` of the configuration */
  constructor(behaviour: Behaviour, bypassed: () => boolean, functions: readonly number[]) {
    this.#behaviour = behaviour;
    this.#bypassed = bypassed;
    for (const id of functions) this.#functions.set(id, undefined);
  }

  /** Mappings in all domains. */
  get mappings(): number {
    return this.meter.mappings;
  }

  /** Ids of all functions, with DMA or without. */
  get functions(): number[] {
    return [...this.#functions.keys()];
  }

  /** Count of functions that are plugged in and have an address space. */
  get plugged(): number {
    return [...this.#functions.values()].filter((space) => space !== undefined).length;
  }

  /** Ids of the endpoints that a driver has tried to attach and that are now in no domain. */
  get unattached(): number[] {
    return [...this.#entries].filter(([, { domain }]) => !domain).map(([id]) => id);
  }

  /** Restores another unit's endpoints. Functions get their address spaces when they are plugged in. */
  restore(functions: readonly number[], unattached: readonly number[], domains: readonly Domain[]): void {
    this.#functions.clear();
    for (const id of functions) this.#functions.set(id, undefined);
    for (const id of unattached) this.#entries.set(id, { domain: undefined });
    for (const domain of domains) {
      this.#domains.set(domain.id, domain);
      for (const id of domain.endpoints) this.#entries.set(id, { domain });
    }
  }

  plug(space: DeviceAddressSpace): Completion {
    this.#functions.set(space.requesterId, space);
    return this.#refresh(space.requesterId);
  }

  /** Removes a function. Its domain is removed too if no endpoint is left in it. */
  unplug(requesterId: number): void {
    this.#leave(requesterId);
    this.#entries.delete(requesterId);
    this.#functions.delete(requesterId);
  }

  exists(id: number): boolean {
    return this.#functions.has(this.#behaviour.endpointsWrap ? id & 0xffff : id);
  }

  /** True if a driver has attached the endpoint or tried to. */
  known(id: number): boolean {
    return this.#entries.has(id);
  }

  domain(id: number): Domain | undefined {
    return this.#domains.get(id);
  }

  domains(): IterableIterator<Domain> {
    return this.#domains.values();
  }

  domainOf(endpoint: number): Domain | undefined {
    return this.#entries.get(endpoint)?.domain;
  }

  /** Attaches an endpoint that {@link exists}. */
  attach(endpoint: number, domainId: number, bypass: boolean): Outcome {
    if (!this.#entries.has(endpoint) && this.#entries.size >= ENDPOINT_LIMIT)
      return { status: format.S_NOMEM };
    const current = this.domainOf(endpoint);
    if (this.#behaviour.reattachKeeps && current?.id === domainId)
      return { status: current.bypass === bypass ? format.S_OK : format.S_INVAL };
    this.#leave(endpoint);
    const domain = this.#join(endpoint, domainId, bypass);
    const status = domain ? format.S_OK : format.S_INVAL;
    return { status, work: this.#refresh(endpoint) };
  }

  detach(endpoint: number, domainId: number): Outcome {
    if (!this.exists(endpoint)) return { status: format.S_NOENT };
    const entry = this.#entries.get(endpoint);
    if (!entry) return { status: format.S_NOENT };
    if (entry.domain?.id !== domainId) return { status: format.S_INVAL };
    this.#leave(endpoint);
    this.#entries.delete(endpoint);
    return { status: format.S_OK, work: this.#refresh(endpoint) };
  }

  /** Updates the domain's devices from its mappings in [start, end], both inclusive. */
  sync(domain: Domain, start: bigint, end: bigint): Completion {
    const works: Completion[] = [];
    for (const id of domain.endpoints)
      works.push(this.#functions.get(id)?.sync(Number(start), Number(end) + 1));
    return all(works);
  }

  /** Switches every endpoint in no domain according to the configuration's `bypass`, which has changed. */
  refreshUnattached(): Completion {
    return all([...this.#functions.keys()].filter((id) => !this.domainOf(id)).map((id) => this.#refresh(id)));
  }

  /** Removes every endpoint from its domain. */
  clear(): Completion {
    this.#entries.clear();
    this.#domains.clear();
    this.meter.mappings = 0;
    return all([...this.#functions.keys()].map((id) => this.#refresh(id)));
  }

  /** Removes the endpoint from its domain. A domain without endpoints is removed with its mappings. */
  #leave(endpoint: number): void {
    const entry = this.#entries.get(endpoint);
    if (!entry?.domain) return;
    entry.domain.endpoints.delete(endpoint);
    if (entry.domain.endpoints.size === 0) {
      this.#domains.delete(entry.domain.id);
      this.meter.mappings -= entry.domain.size;
    }
    entry.domain = undefined;
  }

  /** Adds the endpoint to a domain. Returns undefined, with the endpoint in no domain, if `bypass` does not match. */
  #join(endpoint: number, domainId: number, bypass: boolean): Domain | undefined {
    const existing = this.#domains.get(domainId);
    const domain = existing ?? new Domain(domainId, bypass, this.meter);
    const joined = domain.bypass === bypass ? domain : undefined;
    this.#entries.set(endpoint, { domain: joined });
    if (!joined) return undefined;
    if (!existing) this.#domains.set(domainId, joined);
    joined.endpoints.add(endpoint);
    return joined;
  }

  #refresh(endpoint: number): Completion {
    const space = this.#functions.get(endpoint);
    if (!space) return undefined;
    const domain = this.domainOf(endpoint);
    if (domain && !domain.bypass) return space.enterIommu(domain);
    return domain || this.#bypassed() ? space.enterSystem() : space.enterBlocked();
  }
}
