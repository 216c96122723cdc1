/**
 * Intel VT-d remapping unit in legacy and scalable mode: commands, and what a device's access comes to.
 *
 * A device that translates here directly has an IOTLB in front of the guest's tables (iotlb.ts). For one that does its
 * DMA through a container, what hardware would have cached is what the container holds: it changes only at the
 * invalidations a driver must make. With CAP.CM = 0 the specification asks for none when an entry becomes present, so
 * a container would miss it: such a device needs caching mode, as in QEMU, which refuses VFIO devices without it.
 * Contexts are read every time, except where QEMU keeps them (qemu-caches.ts).
 */
import { yieldTurn } from '#host';
import * as vtd from '../../abi/vtd.ts';
import { type Iova, offsetBy, PERM_READ, PERM_RW, PERM_WRITE, toGpa } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { type Completion, whenDone } from '../../platform/completion.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import { CommandSerial, PENDING_COMMAND_LIMIT } from '../command-serial.ts';
import type { Quirks } from '../quirks.ts';
import type { DmaFaultRecord, TranslateResult, VIommu } from '../viommu.ts';
import { AttachedDevices, type Resolution } from './attached-devices.ts';
import { ContextLookup, type DeviceTranslation } from './context-lookup.ts';
import { CompletionEvent, FaultLog, type RaiseMsi } from './faults.ts';
import { contextInvalidation, type Invalidation, iotlbInvalidation } from './invalidation.ts';
import { InvalidationQueue } from './invalidation-queue.ts';
import { type CachedLeaf, Iotlb, type IotlbCounters } from './iotlb.ts';
import { type DomainTables, WALK_ENTRY_LIMIT } from './page-tables.ts';
import { QemuCaches } from './qemu-caches.ts';
import {
  createRegisters,
  type IntelCapabilities,
  REGISTER_BYTES,
  readVisible,
  type VtdRegisterFile,
} from './registers.ts';
import { restoreUnit, saveUnit, type VtdParts } from './state.ts';

/** A guest's queue gives way to others after this much work: table entries looked at … */
export const TURN_WORK_LIMIT = 2 ** 20;
/** … each descriptor counting as this many. */
const DESCRIPTOR_WORK = 512;

export interface IntelIommuOptions extends IntelCapabilities {
  readonly ram: GuestRam;
  /** Whom to follow where QEMU and the specification differ; default `spec`. */
  readonly quirks?: Quirks;
  /** Sends the unit's own interrupts: fault and invalidation completion. */
  readonly raiseMsi?: RaiseMsi;
  /** Called for every refused access, also when the register file has no room or FPD hides it. */
  readonly onFault?: (record: DmaFaultRecord) => void;
}

export interface IntelCounters {
  faults: number;
  invalidations: number;
  /** Walks that ended at WALK_ENTRY_LIMIT. */
  truncatedWalks: number;
  /** Register commands dropped because PENDING_COMMAND_LIMIT were waiting. */
  droppedCommands: number;
}

export class IntelIommu implements VIommu {
  readonly name = 'intel';
  readonly registerBytes = REGISTER_BYTES;
  readonly counters: IntelCounters = { faults: 0, invalidations: 0, truncatedWalks: 0, droppedCommands: 0 };
  readonly #registers: VtdRegisterFile;
  readonly #routes: ContextLookup;
  readonly #awBits: number;
  readonly #caches: QemuCaches | undefined;
  readonly #iotlb = new Iotlb();
  readonly #dmaTranslation: boolean;
  readonly #intremap: boolean;
  readonly #onFault: (record: DmaFaultRecord) => void;
  readonly #faults: FaultLog;
  readonly #queue: InvalidationQueue;
  readonly #devices: AttachedDevices;
  readonly #parts: VtdParts;
  readonly #serial = new CommandSerial();
  #translating = false;
  #queueScheduled = false;
  #scheduledRun: Completion;
  /** Since the queue last gave way. */
  #work = 0;
  /** What the register write in progress has caused. */
  #caused: Completion;

  constructor(options: IntelIommuOptions) {
    const raiseMsi = options.raiseMsi ?? (() => {});
    this.#registers = createRegisters(options);
    const quirks = options.quirks ?? 'spec';
    this.#caches = quirks === 'qemu' ? new QemuCaches() : undefined;
    this.#awBits = options.awBits;
    this.#routes = new ContextLookup(options.ram, options, quirks, (entries) => {
      this.#work += entries;
      if (entries > WALK_ENTRY_LIMIT) this.counters.truncatedWalks++;
    });
    this.#dmaTranslation = options.dmaTranslation ?? true;
    this.#intremap = options.intremap ?? true;
    this.#onFault = options.onFault ?? (() => {});
    this.#faults = new FaultLog(this.#registers, quirks, raiseMsi, () => {
      // QEMU fetches again only at the next write of the tail.
      if (quirks === 'spec') this.#scheduleQueue();
    });
    const completion = new CompletionEvent(this.#registers, raiseMsi);
    this.#queue = new InvalidationQueue(options.ram, this.#registers, quirks, {
      apply: (request) => this.#apply(request),
      pause: () => this.#pause(),
      waitInterrupt: () => completion.signal(),
      error: () => this.#faults.invalidationQueueError(),
    });
    this.#devices = new AttachedDevices(
      (requesterId) => this.#resolve(requesterId),
      () => quirks === 'spec' && !this.#routes.scalable,
    );
    this.#parts = {
      registers: this.#registers,
      routes: this.#routes,
      queue: this.#queue,
      capabilities: options,
      quirks,
    };
    this.#registers.onWrite('GCMD', (value) => this.#globalCommand(Number(value)));
    this.#registers.onWrite('CCMD', (value) => this.#contextCommand(value));
    this.#registers.onWrite('IOTLB', (value) => this.#iotlbCommand(value));
    this.#registers.onWrite('IQT', () => {
      this.#queue.tailWritten();
      this.#scheduleQueue();
    });
  }

  attach(space: DeviceAddressSpace): Completion {
    return this.#serial.run(() => this.#devices.attach(space));
  }

  detach(requesterId: number): void {
    this.#devices.detach(requesterId);
  }

  /** Hits and misses of devices that translate here directly. */
  get iotlbCounters(): Readonly<IotlbCounters> {
    return this.#iotlb.counters;
  }

  /** The domain id under which a device's context is cached; 0 without one, undefined if it is not attached. */
  domainOf(requesterId: number): number | undefined {
    return this.#devices.domainOf(requesterId);
  }

  readRegister(offset: number, size: number): bigint {
    const latched = this.#caches ? this.#queue.latchedAddress : undefined;
    return readVisible(this.#registers, offset, size, latched);
  }

  writeRegister(offset: number, size: number, value: bigint): Completion {
    const outer = this.#caused;
    this.#caused = undefined;
    this.#registers.write(offset, size, value);
    const caused = this.#caused;
    this.#caused = outer;
    return caused;
  }

  /** @throws Error while a register command or the queue is under way */
  save(): Uint8Array {
    if (this.#serial.busy) throw new Error('VT-d: a register command or the invalidation queue is under way');
    return saveUnit(this.#parts);
  }

  /** @throws StateError; Error if a device is attached already */
  restore(state: Uint8Array): void {
    if (this.#devices.size > 0)
      throw new Error(`VT-d: ${this.#devices.size} devices are attached before restore`);
    this.#translating = restoreUnit(state, this.#parts);
  }

  translate(requesterId: number, iova: Iova, write: boolean): TranslateResult {
    // A write there is an interrupt request; what a read gives is undefined, QEMU returns zeros without a fault.
    const interrupt = iova >= vtd.INTERRUPT_RANGE_START && iova < vtd.INTERRUPT_RANGE_END;
    if (interrupt || !this.#translating) return identity(iova);
    if (this.#caches?.passesThrough(requesterId)) return identity(iova);
    const route = this.#routes.lookUp(requesterId, this.#caches?.hasContext(requesterId));
    if (!route.ok) return this.#fault(requesterId, iova, write, route.reason, route.fpd);
    this.#caches?.rememberContext(requesterId);
    return route.tables
      ? this.#translateBy(route, requesterId, iova, write)
      : this.#passThrough(route, requesterId, iova, write);
  }

  #translateBy(route: DeviceTranslation, requesterId: number, iova: Iova, write: boolean): TranslateResult {
    const tables = route.tables as DomainTables;
    const cached = this.#cached(route.domainId, tables, requesterId, iova, write);
    const leaf = cached ?? tables.translate(iova, write);
    if (typeof leaf === 'number') return this.#fault(requesterId, iova, write, leaf, route.fpd);
    // QEMU refuses by what it has cached without a record.
    if ((leaf.perm & (write ? PERM_WRITE : PERM_READ)) === 0)
      return this.#refuse(requesterId, iova, write, write ? vtd.FAULT.WRITE : vtd.FAULT.READ);
    if (!cached)
      this.#iotlb.insert({
        ...leaf,
        requesterId,
        domainId: route.domainId,
        stage: tables.stage,
        written: write,
      });
    return { ok: true, gpa: offsetBy(leaf.gpa, iova - leaf.iova), perm: leaf.perm };
  }

  /** What the IOTLB has for an access. By the specification only what the access may use as it is: else a new walk. */
  #cached(
    domainId: number,
    tables: DomainTables,
    requesterId: number,
    iova: number,
    write: boolean,
  ): CachedLeaf | undefined {
    const leaf = this.#iotlb.at(requesterId, iova);
    const permitted = leaf && (leaf.perm & (write ? PERM_WRITE : PERM_READ)) !== 0;
    const marked = leaf && (!write || leaf.written || leaf.stage === 2);
    const current =
      leaf && leaf.domainId === domainId && leaf.stage === tables.stage && iova < 2 ** tables.width;
    const usable = this.#caches || (permitted && marked && current) ? leaf : undefined;
    this.#iotlb.counters[usable ? 'hits' : 'misses']++;
    return usable;
  }

  /** QEMU, once it has put a device onto system memory, no longer sees the addresses that it uses. */
  #passThrough(route: DeviceTranslation, requesterId: number, iova: Iova, write: boolean): TranslateResult {
    this.#caches?.rememberPassThrough(requesterId);
    if (this.#caches || iova < 2 ** this.#awBits) return identity(iova);
    return this.#fault(requesterId, iova, write, vtd.FAULT.ADDRESS_BEYOND_MGAW, route.fpd);
  }

  #fault(requesterId: number, iova: Iova, write: boolean, reason: number, fpd: boolean): TranslateResult {
    if (!(fpd && vtd.isQualifiedFault(reason))) this.#faults.record(requesterId, iova, write, reason);
    return this.#refuse(requesterId, iova, write, reason);
  }

  #refuse(requesterId: number, iova: Iova, write: boolean, reason: number): TranslateResult {
    const text = vtd.faultText(reason);
    this.counters.faults++;
    this.#onFault({ requesterId, iova, write, reason, text });
    return { ok: false, reason, text };
  }

  #resolve(requesterId: number): Resolution {
    if (!this.#translating) return { kind: 'system', domainId: 0 };
    const route = this.#routes.lookUp(requesterId);
    if (!route.ok) return { kind: 'blocked', domainId: 0 };
    const { domainId, tables } = route;
    return tables ? { kind: 'iommu', domainId, tables } : { kind: 'system', domainId };
  }

  #apply(request: Invalidation): Completion {
    this.counters.invalidations++;
    this.#caches?.apply(request);
    this.#iotlb.invalidate(request);
    return this.#devices.apply(request);
  }

  #forgetAll(): void {
    this.#caches?.clear();
    this.#iotlb.clear();
  }

  /** Runs a command in its turn and lets the register write that caused it know its end. */
  #submit(command: () => Completion): void {
    if (this.#serial.waiting >= PENDING_COMMAND_LIMIT) this.counters.droppedCommands++;
    else this.#caused = this.#serial.run(command);
  }

  /** Section 11.4.4.1. Commands in one write take effect in the order SRTP, TE, QIE, interrupt remapping. */
  #globalCommand(command: number): void {
    const root = this.#registers.get('RTADDR');
    // RTPS reads 0 until the new root is in use.
    if ((command & vtd.GCMD_SRTP) !== 0) this.#setStatus(vtd.GCMD_SRTP, false);
    this.#submit(() => {
      const enable = (command & vtd.GCMD_TE) !== 0 && this.#dmaTranslation;
      const setRoot = (command & vtd.GCMD_SRTP) !== 0;
      const changed = enable !== this.#translating;
      if (setRoot) this.#routes.setRoot(root);
      this.#translating = enable;
      if (setRoot || changed) this.#forgetAll();
      // CAP.ESRTPS: a new root also drops all that is cached below the old one.
      const switched = changed || (setRoot && enable) ? this.#devices.refreshAll(setRoot) : undefined;
      return whenDone(switched, () => this.#finishGlobalCommand(command, enable));
    });
  }

  #finishGlobalCommand(command: number, translating: boolean): Completion {
    this.#setStatus(vtd.GCMD_TE, translating);
    if ((command & vtd.GCMD_SRTP) !== 0) this.#setStatus(vtd.GCMD_SRTP, true);
    if (this.#intremap) {
      if ((command & vtd.GCMD_SIRTP) !== 0) this.#setStatus(vtd.GCMD_SIRTP, true);
      this.#setStatus(vtd.GCMD_IRE, (command & vtd.GCMD_IRE) !== 0);
    }
    const queued = (command & vtd.GCMD_QIE) !== 0;
    if (queued === this.#queue.enabled || (!queued && this.#queue.disableRefused)) return undefined;
    if (queued) this.#queue.enable();
    else this.#queue.disable();
    this.#setStatus(vtd.GCMD_QIE, queued);
    // A tail written before QIE, as some guests do, is served now.
    return this.#runQueue();
  }

  #setStatus(bit: number, on: boolean): void {
    const status = this.#registers.get32('GSTS');
    this.#registers.set('GSTS', BigInt((on ? status | bit : status & ~bit) >>> 0));
  }

  /** Section 11.4.6.1. With the queue enabled the register is not to be used: the request is reported as ignored. */
  #contextCommand(value: bigint): void {
    const { CCMD } = vtd;
    if ((value & CCMD.ICC) === 0n) return;
    const granularity = Number(value >> CCMD.CIRG_SHIFT) & 3;
    const requesterId = Number((value >> CCMD.SID_SHIFT) & 0xffffn);
    const functionMask = Number((value >> CCMD.FM_SHIFT) & 3n);
    const request = contextInvalidation(granularity, Number(value & 0xffffn), requesterId, functionMask);
    this.#submitInvalidation(request, (done) => {
      // QEMU does what is asked of a domain for all of them.
      const performed = this.#caches && granularity === vtd.CC_DOMAIN ? vtd.CC_GLOBAL : granularity;
      const actual = BigInt(done ? performed : 0) << CCMD.CAIG_SHIFT;
      const kept = this.#registers.get('CCMD') & ~(CCMD.ICC | (3n << CCMD.CAIG_SHIFT));
      this.#registers.set('CCMD', kept | actual);
    });
  }

  /** Section 11.4.6.2; the address comes from IVA. */
  #iotlbCommand(value: bigint): void {
    const { IOTLB } = vtd;
    if ((value & IOTLB.IVT) === 0n) return;
    const granularity = Number(value >> IOTLB.IIRG_SHIFT) & 3;
    const domainId = Number((value >> IOTLB.DID_SHIFT) & 0xffffn);
    const iva = this.#registers.get('IVA');
    const request = iotlbInvalidation(
      granularity,
      domainId,
      Number(iva & ~0xfffn),
      Number(iva & vtd.IVA_AM_MASK),
    );
    this.#submitInvalidation(request, (done) => {
      const actual = BigInt(done ? granularity : 0) << IOTLB.IAIG_SHIFT;
      const kept = this.#registers.get('IOTLB') & ~(IOTLB.IVT | (3n << IOTLB.IAIG_SHIFT));
      this.#registers.set('IOTLB', kept | actual);
    });
  }

  #submitInvalidation(request: Invalidation | undefined, finish: (done: boolean) => void): void {
    this.#submit(() => {
      const accepted = request !== undefined && !this.#queue.enabled;
      return whenDone(accepted ? this.#apply(request) : undefined, () => {
        // QEMU leaves ICC and IVT as they are when it refuses.
        if (accepted || !this.#caches || !this.#queue.enabled) finish(accepted);
        return undefined;
      });
    });
  }

  /** Has the queue looked at, once, after what is in progress. */
  #scheduleQueue(): void {
    if (!this.#queueScheduled) {
      if (!this.#queue.ready) return;
      this.#queueScheduled = true;
      this.#scheduledRun = this.#serial.run(() => {
        this.#queueScheduled = false;
        return this.#runQueue();
      });
    }
    this.#caused = this.#scheduledRun;
  }

  #pause(): Completion {
    this.#work += DESCRIPTOR_WORK;
    if (this.#work < TURN_WORK_LIMIT) return undefined;
    this.#work = 0;
    return yieldTurn();
  }

  #runQueue(): Completion {
    this.#work = 0;
    // One run is bounded by the queue's size; a guest that kept adding gets another turn behind other commands.
    return whenDone(this.#queue.run(), () => {
      this.#scheduleQueue();
      return undefined;
    });
  }
}

const identity = (iova: Iova): TranslateResult => ({ ok: true, gpa: toGpa(iova), perm: PERM_RW });
