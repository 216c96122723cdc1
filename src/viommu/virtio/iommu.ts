/**
 * virtio-iommu (virtio 1.3 section 5.13) behind a virtio MMIO transport: queues, faults, bypass, reset.
 *
 * Mappings arrive as requests, so there are no tables to walk and no stale entries. When the answer to a request is
 * written, each device's container equals its domain (R6).
 */
import { yieldTurn } from '#host';
import * as virtio from '../../abi/virtio.ts';
import * as format from '../../abi/virtio-iommu.ts';
import type { Gpa, Iova } from '../../memory/address.ts';
import { PERM_READ, PERM_RW, PERM_WRITE } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { type Completion, whenDone } from '../../platform/completion.ts';
import type { Chain } from '../../virtio/chain.ts';
import { BROKEN, type DeviceQueue } from '../../virtio/device-queue.ts';
import { MmioTransport } from '../../virtio/mmio-transport.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import { CommandSerial, PENDING_COMMAND_LIMIT } from '../command-serial.ts';
import type { Quirks } from '../quirks.ts';
import type { DmaFaultRecord, TranslateResult, VIommu } from '../viommu.ts';
import { type ConfigFile, createConfig, type VirtioIommuLimits } from './config.ts';
import { type Domain, MAPPING_LIMIT } from './domain.ts';
import { Endpoints } from './endpoints.ts';
import { BEHAVIOURS, type Behaviour } from './quirks.ts';
import { type Answer, execute, type RequestContext, type ReservedRegion } from './requests.ts';
import { restoreUnit, saveUnit, type VirtioIommuParts } from './state.ts';

/** Bytes of the register page: transport registers and configuration space. */
const VIRTIO_IOMMU_REGISTER_BYTES = 0x1000;
/** Maximum entries of the request queue and of the event queue. */
const QUEUE_ENTRIES = 256;
/**
 * Requests after which a guest's queue yields to other guests. The limit is above the queue's size, so that one kick of
 * an idle guest is served in one turn.
 */
const REQUESTS_PER_TURN = 512;
/** Visited mappings after which a guest's queue yields to other guests. */
export const TURN_WORK_LIMIT = 2 ** 16;
/** Bytes of PROBE's properties, as in QEMU. */
export const DEFAULT_PROBE_SIZE = 512;
/** Range of the local APICs on q35. Writes to it are interrupts. */
export const MSI_REGION: ReservedRegion = {
  type: format.RESV_MEM_T_MSI,
  start: 0xfee00000n,
  end: 0xfeefffffn,
};

export interface VirtioIommuOptions extends Partial<VirtioIommuLimits> {
  readonly ram: GuestRam;
  /** Value of `bypass` after a system reset; default false. */
  readonly bootBypass?: boolean;
  readonly quirks?: Quirks;
  readonly reserved?: readonly ReservedRegion[];
  /** Requester IDs of functions that are endpoints but make no DMA here. */
  readonly functions?: readonly number[];
  /** Limit of the mappings of all domains; default MAPPING_LIMIT. */
  readonly mappingLimit?: number;
  /** Called when the transport raises its interrupt line. */
  readonly raiseInterrupt?: () => void;
  /** Called for every refused access, even if the driver has posted no event buffer. */
  readonly onFault?: (record: DmaFaultRecord) => void;
}

export interface VirtioIommuCounters {
  faults: number;
  requests: number;
  /** Faults for which the driver had posted no buffer. */
  droppedEvents: number;
  /** Writes of `bypass` dropped because PENDING_COMMAND_LIMIT commands were waiting. */
  droppedCommands: number;
}

/** {@link TranslateResult} with 64-bit addresses. */
export type WideTranslateResult =
  | { readonly ok: true; readonly gpa: bigint; readonly perm: number }
  | { readonly ok: false; readonly reason: number; readonly text: string };

/** Result of the request queue when there is nothing to run. */
const DONE = 'done';

const FAULT_TEXTS = ['unknown endpoint', 'endpoint in no domain', 'no mapping permits it'];

export class VirtioIommu implements VIommu {
  readonly name = 'virtio';
  readonly registerBytes = VIRTIO_IOMMU_REGISTER_BYTES;
  readonly counters: VirtioIommuCounters = { faults: 0, requests: 0, droppedEvents: 0, droppedCommands: 0 };
  readonly #behaviour: Behaviour;
  readonly #limits: VirtioIommuLimits;
  readonly #reserved: readonly ReservedRegion[];
  readonly #bootBypass: boolean;
  readonly #onFault: (record: DmaFaultRecord) => void;
  readonly #endpoints: Endpoints;
  readonly #config: ConfigFile;
  readonly #transport: MmioTransport;
  readonly #context: RequestContext;
  readonly #parts: VirtioIommuParts;
  readonly #serial = new CommandSerial();
  /** The current request. Allocating an array and a view for each request would cost more than the request. */
  readonly #request = new DataView(new ArrayBuffer(format.PROBE_BYTES));
  readonly #requestBytes = new Uint8Array(this.#request.buffer);
  #bypass: boolean;
  #runScheduled = false;
  #scheduledRun: Completion;
  #caused: Completion;

  /** @throws RangeError for an invalid granule or address width */
  constructor(options: VirtioIommuOptions) {
    const { granule = 4096, awBits = 48, domains = [0, 2 ** 32 - 1] as const } = options;
    this.#limits = { granule, awBits, domains, probeSize: options.probeSize ?? DEFAULT_PROBE_SIZE };
    this.#behaviour = BEHAVIOURS[options.quirks ?? 'spec'];
    this.#reserved = options.reserved ?? [MSI_REGION];
    this.#bootBypass = options.bootBypass ?? false;
    this.#bypass = this.#bootBypass;
    this.#onFault = options.onFault ?? (() => {});
    this.#endpoints = new Endpoints(this.#behaviour, () => this.#bypass, options.functions ?? []);
    this.#config = createConfig(this.#limits);
    this.#showBypass();
    this.#config.onWrite('BYPASS', (value) => this.#writeBypass(Number(value)));
    this.#transport = new MmioTransport(options.ram, this.#device(), options.raiseInterrupt);
    this.#context = {
      behaviour: this.#behaviour,
      limits: this.#limits,
      reserved: this.#reserved,
      endpoints: this.#endpoints,
      mappingLimit: options.mappingLimit ?? MAPPING_LIMIT,
      negotiated: (feature) => (this.#transport.features & feature) !== 0n,
    };
    const quirks = options.quirks ?? 'spec';
    this.#parts = { transport: this.#transport, config: this.#config, context: this.#context, quirks };
  }

  attach(space: DeviceAddressSpace): Completion {
    return this.#serial.run(() => this.#endpoints.plug(space));
  }

  detach(requesterId: number): void {
    this.#endpoints.unplug(requesterId);
  }

  readRegister(offset: number, size: number): bigint {
    return this.#transport.read(offset, size);
  }

  writeRegister(offset: number, size: number, value: bigint): Completion {
    return this.#transport.write(offset, size, value);
  }

  quiesce(work: () => void): Completion {
    return this.#serial.run(() => {
      work();
      return undefined;
    });
  }

  /** @throws Error while a request, a write of `bypass` or a reset is in progress */
  save(): Uint8Array {
    if (this.#serial.busy) throw new Error('virtio-iommu: a request, bypass or a reset is under way');
    return saveUnit(this.#parts);
  }

  /** @throws StateError; Error if a device is attached already */
  restore(state: Uint8Array): void {
    const { plugged } = this.#endpoints;
    if (plugged > 0) throw new Error(`virtio-iommu: ${plugged} devices are attached before restore`);
    this.#bypass = restoreUnit(state, this.#parts);
  }

  /** Returns an endpoint's domain, or undefined if it is in none. */
  domainOf(requesterId: number): Domain | undefined {
    return this.#endpoints.domainOf(requesterId);
  }

  /** Resets device, `bypass`, endpoints and domains to power-on state. Complete when no device uses the old state. */
  systemReset(): Completion {
    const reset = this.#transport.write(virtio.STATUS_REG, 4, 0n);
    return whenDone(reset, () =>
      this.#serial.run(() => {
        this.#bypass = this.#bootBypass;
        this.#showBypass();
        return this.#endpoints.clear();
      }),
    );
  }

  translate(requesterId: number, iova: Iova, write: boolean): TranslateResult {
    const result = this.translateWide(requesterId, BigInt(iova), write);
    return result.ok ? { ok: true, gpa: Number(result.gpa) as Gpa, perm: result.perm } : result;
  }

  /** {@link translate} for any 64-bit address. A fault goes to the event queue. */
  translateWide(requesterId: number, iova: bigint, write: boolean): WideTranslateResult {
    const domain = this.#endpoints.domainOf(requesterId);
    const known = this.#endpoints.known(requesterId);
    const bypassed = domain ? domain.bypass : this.#bypass;
    const msi = (domain || (known && this.#behaviour.msiWithoutDomain)) && this.#reservedType(iova);
    if (bypassed || msi === format.RESV_MEM_T_MSI) return { ok: true, gpa: iova, perm: PERM_RW };
    const flag = format.FAULT_F_ADDRESS;
    if (!domain) {
      const unknown = this.#behaviour.unknownUntilAttached && !known;
      return this.#fault(
        unknown ? format.FAULT_UNKNOWN : format.FAULT_DOMAIN,
        flag,
        requesterId,
        iova,
        write,
      );
    }
    const mapping = msi === undefined ? this.#mappingFor(domain, iova) : undefined;
    if (!mapping) return this.#fault(format.FAULT_MAPPING, flag, requesterId, iova, write);
    if ((mapping.flags & (write ? PERM_WRITE : PERM_READ)) === 0) {
      const access = write ? format.FAULT_F_WRITE : format.FAULT_F_READ;
      return this.#fault(format.FAULT_MAPPING, flag | access, requesterId, iova, write);
    }
    const gpa = BigInt.asUintN(64, iova - mapping.start + mapping.phys);
    return { ok: true, gpa: this.#wholePage(gpa, iova), perm: mapping.flags & PERM_RW };
  }

  #mappingFor(domain: Domain, iova: bigint) {
    const found = domain.at(iova);
    return found || !this.#behaviour.wholePages ? found : domain.at(iova + 1n);
  }

  /** Returns the page of the translation with the offset of the access, as QEMU's IOTLB entry does. */
  #wholePage(gpa: bigint, iova: bigint): bigint {
    if (!this.#behaviour.wholePages) return gpa;
    const offset = BigInt(this.#limits.granule - 1);
    return (gpa & ~offset) | (iova & offset);
  }

  #reservedType(iova: bigint): number | undefined {
    return this.#reserved.find(({ start, end }) => iova >= start && iova <= end)?.type;
  }

  #fault(reason: number, flags: number, endpoint: number, iova: bigint, write: boolean): WideTranslateResult {
    const text = FAULT_TEXTS[reason] as string;
    this.counters.faults++;
    this.#report(reason, flags, endpoint, iova);
    this.#onFault({ requesterId: endpoint, iova: Number(iova) as Iova, write, reason, text });
    return { ok: false, reason, text };
  }

  /** Reports a fault (5.13.6.9). Without a posted buffer the event is lost. */
  #report(reason: number, flags: number, endpoint: number, address: bigint): void {
    const queue = this.#transport.queues[format.EVENT_QUEUE] as DeviceQueue;
    const chain = this.#transport.live ? queue.pop() : undefined;
    if (!chain) {
      this.counters.droppedEvents++;
      return;
    }
    if (chain === BROKEN || chain.writableBytes < format.EVENT_BYTES) {
      this.#transport.needsReset();
      return;
    }
    const event = new DataView(new ArrayBuffer(format.EVENT_BYTES));
    event.setUint8(0, reason);
    event.setUint32(4, flags, true);
    event.setUint32(8, endpoint, true);
    event.setBigUint64(16, address, true);
    chain.write(0, new Uint8Array(event.buffer));
    this.#giveBack(queue, chain, format.EVENT_BYTES);
  }

  #giveBack(queue: DeviceQueue, chain: Chain, length: number): void {
    if (queue.push(chain.head, length)) this.#transport.interrupt(virtio.INTERRUPT_USED);
  }

  #device() {
    return {
      deviceId: format.VIRTIO_IOMMU_DEVICE_ID,
      features: format.OFFERED_FEATURES,
      queueSizes: [QUEUE_ENTRIES, QUEUE_ENTRIES],
      config: {
        read: (offset: number, size: number) => this.#config.read(offset, size),
        write: (offset: number, size: number, value: bigint) => this.#writeConfig(offset, size, value),
      },
      notified: (queue: number) => (queue === format.REQUEST_QUEUE ? this.#schedule() : undefined),
      reset: () => this.#reset(),
    };
  }

  #reset(): Completion {
    if (!this.#behaviour.resetDetaches) return this.#serial.run(() => undefined);
    return this.#serial.run(() => this.#endpoints.clear());
  }

  #writeConfig(offset: number, size: number, value: bigint): Completion {
    this.#caused = undefined;
    this.#config.write(offset, size, value);
    return this.#caused;
  }

  #showBypass(): void {
    this.#config.set('BYPASS', this.#bypass ? 1n : 0n);
  }

  /** Section 5.13.4.2. Reads return the new value when no device uses the old address space any more. */
  #writeBypass(value: number): void {
    this.#showBypass();
    if (value === Number(this.#bypass) || (this.#transport.status & virtio.STATUS_FEATURES_OK) === 0) return;
    if (value > 1 || !this.#context.negotiated(format.F_BYPASS_CONFIG)) {
      this.#transport.needsReset();
      return;
    }
    if (this.#serial.waiting >= PENDING_COMMAND_LIMIT) {
      this.counters.droppedCommands++;
      return;
    }
    this.#caused = this.#serial.run(() => {
      this.#bypass = value === 1;
      return whenDone(this.#endpoints.refreshUnattached(), () => this.#showBypass());
    });
  }

  /** Schedules one run of the request queue after the commands in progress. */
  #schedule(): Completion {
    if (this.#runScheduled) return this.#scheduledRun;
    this.#runScheduled = true;
    this.#scheduledRun = this.#serial.run(() => {
      this.#runScheduled = false;
      return this.#serve();
    });
    return this.#scheduledRun;
  }

  #serve(): Completion {
    this.#endpoints.meter.work = 0;
    for (let left = REQUESTS_PER_TURN; this.#inTurn(left); left--) {
      const work = this.#next();
      if (work === DONE) return undefined;
      if (work) return this.#servePending(work);
    }
    return this.#servePending(yieldTurn());
  }

  async #servePending(first: Promise<void>): Promise<void> {
    await first;
    for (;;) {
      this.#endpoints.meter.work = 0;
      for (let left = REQUESTS_PER_TURN; this.#inTurn(left); left--) {
        const work = this.#next();
        if (work === DONE) return;
        if (work) await work;
      }
      await yieldTurn();
    }
  }

  #inTurn(left: number): boolean {
    return left > 0 && this.#endpoints.meter.work < TURN_WORK_LIMIT;
  }

  /** Runs one request. Its answer is written when all its effects are complete. */
  #next(): Completion | typeof DONE {
    const queue = this.#transport.queues[format.REQUEST_QUEUE] as DeviceQueue;
    const chain = this.#transport.live ? queue.pop() : undefined;
    if (!chain) return DONE;
    if (
      chain === BROKEN ||
      chain.readableBytes < format.HEAD_BYTES ||
      chain.writableBytes < format.TAIL_BYTES
    ) {
      this.#transport.needsReset();
      return DONE;
    }
    this.counters.requests++;
    const length = chain.read(this.#requestBytes);
    const answer = execute(this.#request, length, chain.writableBytes, this.#context);
    return whenDone(answer.work, () => this.#answer(queue, chain, answer));
  }

  #answer(queue: DeviceQueue, chain: Chain, { pieces, length }: Answer): void {
    for (const { offset, bytes } of pieces) chain.write(offset, bytes);
    this.#giveBack(queue, chain, length);
  }
}
