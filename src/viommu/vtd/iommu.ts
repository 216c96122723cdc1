/**
 * Intel VT-d remapping unit in legacy and scalable mode: register commands, and the translation of device accesses.
 *
 * A device without a container translates each access here, with an IOTLB in front of the guest's tables (iotlb.ts).
 * For a device with a container, the container takes the place of the hardware's caches. It changes only at the
 * invalidations that a driver must make. With CAP.CM = 0 the specification requires none when an entry becomes
 * present, so the container would miss the entry. Such a device therefore needs caching mode; QEMU too refuses VFIO
 * devices without it. Contexts are read at every access, except where QEMU caches them (qemu-caches.ts).
 */
import { yieldTurn } from '#host';
import * as vtd from '../../abi/vtd.ts';
import { type Iova, offsetBy, PERM_READ, PERM_RW, PERM_WRITE, toGpa } from '../../memory/address.ts';
import { type Completion, whenDone } from '../../platform/completion.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import { CommandSerial, PENDING_COMMAND_LIMIT } from '../command-serial.ts';
import type { DmaFaultRecord, InterruptAnswer, TranslateResult, VIommu } from '../viommu.ts';
import type { AttachedDevices, Resolution } from './attached-devices.ts';
import type { ContextLookup, DeviceTranslation } from './context-lookup.ts';
import type { FaultLog } from './faults.ts';
import type { InterruptCounters, InterruptRemapping } from './interrupt-remapping.ts';
import { contextInvalidation, type Invalidation, iotlbInvalidation } from './invalidation.ts';
import type { InvalidationQueue } from './invalidation-queue.ts';
import { type CachedLeaf, Iotlb, type IotlbCounters } from './iotlb.ts';
import { type DomainTables, WALK_ENTRY_LIMIT } from './page-tables.ts';
import { createParts, type VtdParts, type VtdPartsOptions } from './parts.ts';
import { QemuCaches } from './qemu-caches.ts';
import { REGISTER_BYTES, readVisible, type VtdRegisterFile } from './registers.ts';
import { restoreUnit, saveUnit } from './state.ts';

/** Work after which a guest's queue yields to other guests, counted in table entries read. */
const TURN_WORK_LIMIT = 2 ** 20;
/** Work of one descriptor, in table entries. */
const DESCRIPTOR_WORK = 512;

export interface IntelIommuOptions extends VtdPartsOptions {
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
  readonly #contexts: ContextLookup;
  readonly #awBits: number;
  readonly #caches: QemuCaches | undefined;
  readonly #iotlb = new Iotlb();
  readonly #dmaTranslation: boolean;
  readonly #interrupts: InterruptRemapping;
  readonly #onFault: (record: DmaFaultRecord) => void;
  readonly #faults: FaultLog;
  readonly #queue: InvalidationQueue;
  readonly #devices: AttachedDevices;
  readonly #parts: VtdParts;
  readonly #serial = new CommandSerial();
  #translating = false;
  #queueScheduled = false;
  #scheduledRun: Completion;
  /** Table entries read since the queue last yielded. */
  #work = 0;
  /** Completion of the work that the register write in progress has caused. */
  #caused: Completion;

  constructor(options: IntelIommuOptions) {
    this.#awBits = options.awBits;
    this.#dmaTranslation = options.dmaTranslation ?? true;
    this.#onFault = options.onFault ?? (() => {});
    this.#parts = createParts(options, {
      walked: (entries) => this.#walked(entries),
      resolve: (requesterId) => this.#resolve(requesterId),
      scheduleQueue: () => this.#scheduleQueue(),
      apply: (request) => this.#apply(request),
      pause: () => this.#pause(),
    });
    const { registers, contexts, faults, queue, devices, interrupts, quirks } = this.#parts;
    this.#interrupts = interrupts;
    this.#registers = registers;
    this.#contexts = contexts;
    this.#faults = faults;
    this.#queue = queue;
    this.#devices = devices;
    this.#caches = quirks === 'qemu' ? new QemuCaches() : undefined;
    registers.onWrite('GCMD', (value) => this.#globalCommand(Number(value)));
    registers.onWrite('CCMD', (value) => this.#contextCommand(value));
    registers.onWrite('IOTLB', (value) => this.#iotlbCommand(value));
    registers.onWrite('IQT', () => {
      queue.tailWritten();
      this.#scheduleQueue();
    });
  }

  attach(space: DeviceAddressSpace): Completion {
    return this.#serial.run(() => this.#devices.attach(space));
  }

  detach(requesterId: number): void {
    this.#devices.detach(requesterId);
  }

  /** Hits and misses of the devices without a container. */
  get iotlbCounters(): Readonly<IotlbCounters> {
    return this.#iotlb.counters;
  }

  /** Counts of interrupt messages. */
  get interruptCounters(): Readonly<InterruptCounters> {
    return this.#interrupts.counters;
  }

  get remapsInterrupts(): boolean {
    return this.#interrupts.enabled;
  }

  remapInterrupt(requesterId: number, address: number, data: number): InterruptAnswer {
    return this.#interrupts.remap(requesterId, address, data);
  }

  /** Domain id under which a device's context is cached: 0 if it has none, undefined if it is not attached. */
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

  quiesce(work: () => void): Completion {
    return this.#serial.run(() => {
      work();
      return undefined;
    });
  }

  /** @throws Error while a register command or the queue is in progress */
  save(): Uint8Array {
    if (this.#serial.busy) throw new Error('VT-d: a register command or the invalidation queue is under way');
    return saveUnit(this.#parts);
  }

  /** @throws StateError; Error if a device is attached already */
  restore(state: Uint8Array): void {
    if (this.#devices.size > 0)
      throw new Error(`VT-d: ${this.#devices.size} devices are attached before restore`);
    this.#translating = restoreUnit(state, this.#parts);
    this.#devices.remapInterrupts(this.#interrupts.enabled);
  }

  translate(requesterId: number, iova: Iova, write: boolean): TranslateResult {
    // A write to the range is an interrupt request. A read is undefined; QEMU returns zeros without a fault.
    const interrupt = iova >= vtd.INTERRUPT_RANGE_START && iova < vtd.INTERRUPT_RANGE_END;
    if (interrupt || !this.#translating) return identity(iova);
    if (this.#caches?.passesThrough(requesterId)) return identity(iova);
    const translation = this.#contexts.lookUp(requesterId, this.#caches?.hasContext(requesterId));
    if (!translation.ok) return this.#fault(requesterId, iova, write, translation.reason, translation.fpd);
    this.#caches?.rememberContext(requesterId);
    return translation.tables
      ? this.#translateBy(translation, requesterId, iova, write)
      : this.#passThrough(translation, requesterId, iova, write);
  }

  #translateBy(
    translation: DeviceTranslation,
    requesterId: number,
    iova: Iova,
    write: boolean,
  ): TranslateResult {
    const tables = translation.tables as DomainTables;
    const cached = this.#cached(translation.domainId, tables, requesterId, iova, write);
    const leaf = cached ?? tables.translate(iova, write);
    if (typeof leaf === 'number') return this.#fault(requesterId, iova, write, leaf, translation.fpd);
    // QEMU refuses an access by a cached translation without a fault record.
    if ((leaf.perm & (write ? PERM_WRITE : PERM_READ)) === 0)
      return this.#refuse(requesterId, iova, write, write ? vtd.FAULT.WRITE : vtd.FAULT.READ);
    if (!cached)
      this.#iotlb.insert({
        ...leaf,
        requesterId,
        domainId: translation.domainId,
        stage: tables.stage,
        written: write,
      });
    return { ok: true, gpa: offsetBy(leaf.gpa, iova - leaf.iova), perm: leaf.perm };
  }

  /**
   * Returns the cached leaf that serves an access. With `spec` only a leaf that permits the access and is current
   * counts; otherwise the tables are walked again.
   */
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

  /** Once QEMU has switched a device to system memory, it no longer checks the addresses that the device uses. */
  #passThrough(
    translation: DeviceTranslation,
    requesterId: number,
    iova: Iova,
    write: boolean,
  ): TranslateResult {
    this.#caches?.rememberPassThrough(requesterId);
    if (this.#caches || iova < 2 ** this.#awBits) return identity(iova);
    return this.#fault(requesterId, iova, write, vtd.FAULT.ADDRESS_BEYOND_MGAW, translation.fpd);
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
    const translation = this.#contexts.lookUp(requesterId);
    if (!translation.ok) return { kind: 'blocked', domainId: 0 };
    const { domainId, tables } = translation;
    return tables ? { kind: 'iommu', domainId, tables } : { kind: 'system', domainId };
  }

  #apply(request: Invalidation): Completion {
    this.counters.invalidations++;
    this.#caches?.apply(request);
    this.#iotlb.invalidate(request);
    this.#interrupts.invalidate(request);
    return this.#devices.apply(request);
  }

  #forgetAll(): void {
    this.#caches?.clear();
    this.#iotlb.clear();
  }

  /** Runs a command in its turn. The register write that caused it completes with it. */
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
      if (setRoot) this.#contexts.setRoot(root);
      this.#translating = enable;
      if (setRoot || changed) this.#forgetAll();
      // CAP.ESRTPS: a new root also invalidates everything cached below the old one.
      const switched = changed || (setRoot && enable) ? this.#devices.refreshAll(setRoot) : undefined;
      return whenDone(switched, () => this.#finishGlobalCommand(command, enable));
    });
  }

  #finishGlobalCommand(command: number, translating: boolean): Completion {
    this.#setStatus(vtd.GCMD_TE, translating);
    if ((command & vtd.GCMD_SRTP) !== 0) this.#setStatus(vtd.GCMD_SRTP, true);
    const status = this.#registers.get32('GSTS');
    const remapped = this.#interrupts.command(command, status, this.#registers.get('IRTA'));
    this.#devices.remapInterrupts(this.#interrupts.enabled);
    this.#registers.set('GSTS', BigInt(remapped));
    const queued = (command & vtd.GCMD_QIE) !== 0;
    if (queued === this.#queue.enabled || (!queued && this.#queue.disableRefused)) return undefined;
    if (queued) this.#queue.enable();
    else this.#queue.disable();
    this.#setStatus(vtd.GCMD_QIE, queued);
    // Some guests write the tail before QIE: fetch those descriptors now.
    return this.#runQueue();
  }

  #setStatus(bit: number, on: boolean): void {
    const status = this.#registers.get32('GSTS');
    this.#registers.set('GSTS', BigInt((on ? status | bit : status & ~bit) >>> 0));
  }

  /** Section 11.4.6.1. While the queue is enabled the register must not be used: the request is reported as ignored. */
  #contextCommand(value: bigint): void {
    const { CCMD } = vtd;
    if ((value & CCMD.ICC) === 0n) return;
    const granularity = Number(value >> CCMD.CIRG_SHIFT) & 3;
    const requesterId = Number((value >> CCMD.SID_SHIFT) & 0xffffn);
    const functionMask = Number((value >> CCMD.FM_SHIFT) & 3n);
    const request = contextInvalidation(granularity, Number(value & 0xffffn), requesterId, functionMask);
    this.#submitInvalidation(request, (done) => {
      // QEMU invalidates all domains when one is named.
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
        // QEMU leaves ICC and IVT set when it refuses.
        if (accepted || !this.#caches || !this.#queue.enabled) finish(accepted);
      });
    });
  }

  /** Schedules one queue run after the commands in progress. */
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

  #walked(entries: number): void {
    this.#work += entries;
    if (entries > WALK_ENTRY_LIMIT) this.counters.truncatedWalks++;
  }

  #pause(): Completion {
    this.#work += DESCRIPTOR_WORK;
    if (this.#work < TURN_WORK_LIMIT) return undefined;
    this.#work = 0;
    return yieldTurn();
  }

  #runQueue(): Completion {
    this.#work = 0;
    // A run is bounded by the queue's size. If the guest kept adding, the next run queues behind other commands.
    return whenDone(this.#queue.run(), () => this.#scheduleQueue());
  }
}

const identity = (iova: Iova): TranslateResult => ({ ok: true, gpa: toGpa(iova), perm: PERM_RW });
