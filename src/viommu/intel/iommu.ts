/**
 * Intel VT-d remapping unit, legacy mode: commands, and what a device's access comes to.
 *
 * There is no IOTLB: `translate` walks the guest's tables every time. What hardware would have cached is instead what
 * the devices' containers hold, and changes there only at the invalidations a driver must make. With CAP.CM = 0 the
 * specification asks for none when an entry becomes present, so a container would miss it: a device that does its
 * DMA through a container needs caching mode, as in QEMU, which refuses VFIO devices without it.
 */
import { yieldTurn } from '#host';
import { type Gpa, type Iova, PERM_RW } from '../../address/address.ts';
import type { GuestRam } from '../../host/guest-ram.ts';
import * as vtd from '../../pci/vtd-format.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import type { Completion } from '../notifier.ts';
import type { DmaFaultRecord, TranslateResult, VIommu } from '../viommu.ts';
import { AttachedDevices, type Resolution } from './attached-devices.ts';
import { after, CommandSerial, PENDING_COMMAND_LIMIT } from './command-serial.ts';
import { CompletionEvent, FaultLog, type RaiseMsi } from './faults.ts';
import { contextInvalidation, type Invalidation, iotlbInvalidation } from './invalidation.ts';
import { InvalidationQueue } from './invalidation-queue.ts';
import {
  createRegisters,
  type IntelCapabilities,
  REGISTER_BYTES,
  readVisible,
  type VtdRegisterFile,
} from './registers.ts';
import { type ContextFormat, lookUpContext } from './root-context.ts';
import { SecondLevelFormat, SecondLevelTables, WALK_ENTRY_LIMIT } from './second-level.ts';

/** A guest's queue gives way to others after this much work: table entries looked at … */
export const TURN_WORK_LIMIT = 2 ** 20;
/** … each descriptor counting as this many. */
const DESCRIPTOR_WORK = 512;

export interface IntelIommuOptions extends IntelCapabilities {
  readonly ram: GuestRam;
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
  readonly #ram: GuestRam;
  readonly #registers: VtdRegisterFile;
  readonly #contextFormat: ContextFormat;
  readonly #tableFormat: SecondLevelFormat;
  readonly #dmaTranslation: boolean;
  readonly #intremap: boolean;
  readonly #onFault: (record: DmaFaultRecord) => void;
  readonly #faults: FaultLog;
  readonly #queue: InvalidationQueue;
  readonly #devices: AttachedDevices;
  readonly #serial = new CommandSerial();
  #translating = false;
  #root = 0;
  #queueScheduled = false;
  #scheduledRun: Completion;
  /** Since the queue last gave way. */
  #work = 0;
  /** What the register write in progress has caused. */
  #caused: Completion;

  constructor(options: IntelIommuOptions) {
    const raiseMsi = options.raiseMsi ?? (() => {});
    this.#ram = options.ram;
    this.#registers = createRegisters(options);
    this.#contextFormat = { awBits: options.awBits, deviceIotlb: options.deviceIotlb ?? false };
    this.#tableFormat = new SecondLevelFormat(options);
    this.#dmaTranslation = options.dmaTranslation ?? true;
    this.#intremap = options.intremap ?? true;
    this.#onFault = options.onFault ?? (() => {});
    this.#faults = new FaultLog(this.#registers, raiseMsi, () => this.#scheduleQueue());
    const completion = new CompletionEvent(this.#registers, raiseMsi);
    this.#queue = new InvalidationQueue(this.#ram, this.#registers, {
      apply: (request) => this.#apply(request),
      pause: () => this.#pause(),
      waitInterrupt: () => completion.signal(),
      error: () => this.#faults.invalidationQueueError(),
    });
    this.#devices = new AttachedDevices((requesterId) => this.#resolve(requesterId));
    this.#registers.onWrite('GCMD', (value) => this.#globalCommand(Number(value)));
    this.#registers.onWrite('CCMD', (value) => this.#contextCommand(value));
    this.#registers.onWrite('IOTLB', (value) => this.#iotlbCommand(value));
    this.#registers.onWrite('IQT', () => this.#scheduleQueue());
  }

  attach(space: DeviceAddressSpace): Completion {
    return this.#serial.run(() => this.#devices.attach(space));
  }

  detach(requesterId: number): void {
    this.#devices.detach(requesterId);
  }

  /** The domain id under which a device's context is cached; 0 without one, undefined if it is not attached. */
  domainOf(requesterId: number): number | undefined {
    return this.#devices.domainOf(requesterId);
  }

  readRegister(offset: number, size: number): bigint {
    return readVisible(this.#registers, offset, size);
  }

  writeRegister(offset: number, size: number, value: bigint): Completion {
    const outer = this.#caused;
    this.#caused = undefined;
    this.#registers.write(offset, size, value);
    const caused = this.#caused;
    this.#caused = outer;
    return caused;
  }

  translate(requesterId: number, iova: Iova, write: boolean): TranslateResult {
    // A write there is an interrupt request; what a read gives is undefined, QEMU returns zeros without a fault.
    const interrupt = iova >= vtd.INTERRUPT_RANGE_START && iova < vtd.INTERRUPT_RANGE_END;
    if (interrupt || !this.#translating) return identity(iova);
    const context = lookUpContext(this.#ram, this.#root, requesterId, this.#contextFormat);
    if (!context.ok) return this.#fault(requesterId, iova, write, context.reason, context.fpd);
    if (context.passThrough) {
      if (iova < 2 ** this.#contextFormat.awBits) return identity(iova);
      return this.#fault(requesterId, iova, write, vtd.FAULT.ADDRESS_BEYOND_MGAW, context.fpd);
    }
    const leaf = this.#tables(context.tables, context.levels).translate(iova, write);
    if (typeof leaf === 'number') return this.#fault(requesterId, iova, write, leaf, context.fpd);
    return { ok: true, gpa: (leaf.gpa + (iova - leaf.iova)) as Gpa, perm: leaf.perm };
  }

  #fault(requesterId: number, iova: Iova, write: boolean, reason: number, fpd: boolean): TranslateResult {
    const text = vtd.faultText(reason);
    this.counters.faults++;
    if (!(fpd && vtd.isQualifiedFault(reason))) this.#faults.record(requesterId, iova, write, reason);
    this.#onFault({ requesterId, iova, write, reason, text });
    return { ok: false, reason, text };
  }

  #tables(root: number, levels: number): SecondLevelTables {
    return new SecondLevelTables(this.#ram, root, levels, this.#tableFormat, (entries) => {
      this.#work += entries;
      if (entries > WALK_ENTRY_LIMIT) this.counters.truncatedWalks++;
    });
  }

  #resolve(requesterId: number): Resolution {
    if (!this.#translating) return { kind: 'system', domainId: 0 };
    const context = lookUpContext(this.#ram, this.#root, requesterId, this.#contextFormat);
    if (!context.ok) return { kind: 'blocked', domainId: 0 };
    const { domainId } = context;
    if (context.passThrough) return { kind: 'system', domainId };
    return { kind: 'iommu', domainId, tables: this.#tables(context.tables, context.levels) };
  }

  #apply(request: Invalidation): Completion {
    this.counters.invalidations++;
    return this.#devices.apply(request);
  }

  /** Runs a command in its turn and lets the register write that caused it know its end. */
  #submit(command: () => Completion): void {
    if (this.#serial.waiting >= PENDING_COMMAND_LIMIT) this.counters.droppedCommands++;
    else this.#caused = this.#serial.run(command);
  }

  /** Section 11.4.4.1. Commands in one write take effect in the order SRTP, TE, QIE, interrupt remapping. */
  #globalCommand(command: number): void {
    const root = Number(this.#registers.get('RTADDR') & ~0xfffn);
    // RTPS reads 0 until the new root is in use.
    if ((command & vtd.GCMD_SRTP) !== 0) this.#setStatus(vtd.GCMD_SRTP, false);
    this.#submit(() => {
      const enable = (command & vtd.GCMD_TE) !== 0 && this.#dmaTranslation;
      const setRoot = (command & vtd.GCMD_SRTP) !== 0;
      const changed = enable !== this.#translating;
      if (setRoot) this.#root = root;
      this.#translating = enable;
      // CAP.ESRTPS: a new root also drops all that is cached below the old one.
      const switched = changed || (setRoot && enable) ? this.#devices.refreshAll(setRoot) : undefined;
      return after(switched, () => this.#finishGlobalCommand(command, enable));
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
    if (queued === this.#queue.enabled) return undefined;
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
      const actual = BigInt(done ? granularity : 0) << CCMD.CAIG_SHIFT;
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
      return after(accepted ? this.#apply(request) : undefined, () => {
        finish(accepted);
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
    return after(this.#queue.run(), () => {
      this.#scheduleQueue();
      return undefined;
    });
  }
}

const identity = (iova: Iova): TranslateResult => ({ ok: true, gpa: iova as number as Gpa, perm: PERM_RW });
