/**
 * AMD-Vi: register commands, and the translation of device accesses (AMD document 48882).
 *
 * `translate` reads the guest's tables at each access. A device's container takes the place of the hardware's caches and
 * changes only at the invalidations that a driver must make. The capability block has NpCache, so a driver also
 * invalidates when an entry becomes present.
 */
import { yieldTurn } from '#host';
import * as amdvi from '../../abi/amdvi.ts';
import { type Iova, offsetBy, PERM_RW, toGpa } from '../../memory/address.ts';
import { allOnes } from '../../memory/bus-access.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { type Completion, whenDone } from '../../platform/completion.ts';
import type { DeviceAddressSpace } from '../address-space.ts';
import { CommandSerial, PENDING_COMMAND_LIMIT } from '../command-serial.ts';
import { isInterruptAddress } from '../interrupt-range.ts';
import type { Quirks } from '../quirks.ts';
import type { DmaFaultRecord, TranslateResult, VIommu } from '../viommu.ts';
import { AttachedDevices, type Resolution } from './attached-devices.ts';
import { CommandBuffer } from './command-buffer.ts';
import type { Invalidation } from './commands.ts';
import { type DeviceEntry, DeviceTable } from './device-table.ts';
import { type AmdViEvent, EventLog } from './event-log.ts';
import { type Fault, notPresent } from './faults.ts';
import { WALK_ENTRY_LIMIT } from './page-tables.ts';
import { CONFIG_BYTES, PciFunction } from './pci-function.ts';
import { type AmdViCapabilities, type AmdViRegisterFile, createRegisters, setStatus } from './registers.ts';
import { type AmdViParts, restoreUnit, saveUnit } from './state.ts';

const { CONTROL, STATUS, EVENT } = amdvi;

/** Work after which a guest's command buffer yields to other guests, counted in table entries read. */
const TURN_WORK_LIMIT = 2 ** 20;
/** Work of one command, in table entries. */
const COMMAND_WORK = 512;

const { CONFIG_OFFSET } = amdvi;

export interface AmdViOptions extends AmdViCapabilities {
  readonly ram: GuestRam;
  /** Default `spec`. */
  readonly quirks?: Quirks;
  /** QEMU's dma-remap: false leaves every device untranslated; default true. */
  readonly dmaRemap?: boolean;
  /** Sends the unit's own interrupts. */
  readonly raiseMsi?: (address: number, data: number) => void;
  /** Called for every refused access, also when the log has no room or the entry suppresses the event. */
  readonly onFault?: (record: DmaFaultRecord) => void;
}

export interface AmdViCounters {
  faults: number;
  invalidations: number;
  /** Times that all devices were looked up anew: IommuEn, or the exclusion range. */
  switches: number;
  /** Walks that ended at WALK_ENTRY_LIMIT. */
  truncatedWalks: number;
  /** Register commands dropped because PENDING_COMMAND_LIMIT were waiting. */
  droppedCommands: number;
}

export class AmdViIommu implements VIommu {
  readonly name = 'amd';
  readonly registerBytes: number = CONFIG_OFFSET + CONFIG_BYTES;
  readonly counters: AmdViCounters = {
    faults: 0,
    invalidations: 0,
    switches: 0,
    truncatedWalks: 0,
    droppedCommands: 0,
  };
  /** The PCI function of the IOMMU. */
  readonly pci = new PciFunction();
  readonly #registers: AmdViRegisterFile;
  readonly #asQemu: boolean;
  readonly #dmaRemap: boolean;
  readonly #xtsup: boolean;
  readonly #raiseMsi: (address: number, data: number) => void;
  readonly #onFault: (record: DmaFaultRecord) => void;
  readonly #table: DeviceTable;
  readonly #log: EventLog;
  readonly #buffer: CommandBuffer;
  readonly #devices = new AttachedDevices((requesterId) => this.#resolve(requesterId));
  readonly #serial = new CommandSerial();
  /** QEMU: devices whose entry INVALIDATE_DEVTAB_ENTRY has found to be translated. */
  readonly #translated = new Set<number>();
  /** Devices with SE whose first event is logged. */
  readonly #logged = new Set<number>();
  #enabled = false;
  #runScheduled = false;
  #scheduledRun: Completion;
  /** Table entries read since the command buffer last yielded. */
  #work = 0;
  /** Completion of the work that the register write in progress has caused. */
  #caused: Completion;
  /** True if the register write in progress sets a base: QEMU ignores the low half alone. */
  #latches = true;

  constructor(options: AmdViOptions) {
    const { ram, quirks = 'spec' } = options;
    this.#asQemu = quirks === 'qemu';
    this.#dmaRemap = options.dmaRemap ?? true;
    this.#xtsup = options.xtsup ?? false;
    this.#raiseMsi = options.raiseMsi ?? (() => {});
    this.#onFault = options.onFault ?? (() => {});
    const registers = createRegisters(options, quirks);
    this.#registers = registers;
    this.#table = new DeviceTable(ram, registers, options, quirks, (entries) => this.#walked(entries));
    this.#log = new EventLog(ram, registers, quirks, () => this.#interrupt());
    // Before the actions of head and tail below: they start a run.
    this.#buffer = new CommandBuffer(ram, registers, quirks, {
      apply: (request) => this.#apply(request),
      pause: () => this.#pause(),
      waitInterrupt: () => this.#completionInterrupt(),
      illegal: (gpa, opcode) => this.#illegalCommand(gpa, opcode),
      unreadable: (gpa) => this.#log.append({ code: EVENT.COMMAND_HARDWARE_ERROR, flags: 0, address: gpa }),
    });
    this.#onWrites(registers);
  }

  #onWrites(registers: AmdViRegisterFile): void {
    registers.onWrite('DeviceTable', (value) => {
      if (this.#latches) this.#table.setPlace(value);
    });
    registers.onWrite('CommandBase', (value) => {
      if (this.#latches)
        this.#submit(() => {
          this.#buffer.setPlace(value);
          return undefined;
        });
    });
    registers.onWrite('EventBase', (value) => this.#log.setPlace(value));
    registers.onWrite('Control', (value) => this.#controlWritten(value));
    for (const name of ['ExclusionBase', 'ExclusionLimit'] as const)
      registers.onWrite(name, () => {
        if (this.#enabled) this.#submit(() => this.#refreshAll());
      });
  }

  attach(space: DeviceAddressSpace): Completion {
    return this.#serial.run(() => this.#devices.attach(space));
  }

  detach(requesterId: number): void {
    this.#devices.detach(requesterId);
  }

  /** Reads a register, or behind the registers the PCI configuration space. */
  readRegister(offset: number, size: number): bigint {
    if (offset >= CONFIG_OFFSET) return this.pci.registers.read(offset - CONFIG_OFFSET, size);
    // Registers are accessed with 16, 32 or 64 bits.
    return size === 1 ? allOnes(size) : this.#registers.read(offset, size);
  }

  writeRegister(offset: number, size: number, value: bigint): Completion {
    if (offset >= CONFIG_OFFSET) {
      this.pci.registers.write(offset - CONFIG_OFFSET, size, value);
      return undefined;
    }
    if (size === 1) return undefined;
    const outer = this.#caused;
    this.#caused = undefined;
    this.#latches = !this.#asQemu || offset % 8 !== 0 || size === 8;
    this.#registers.write(offset, size, value);
    // Head or tail may have changed.
    if (offset >= amdvi.COMMAND_HEAD_REG && offset < amdvi.COMMAND_TAIL_REG + 8) this.#scheduleRun();
    const caused = this.#caused;
    this.#caused = outer;
    return caused;
  }

  /** @throws Error while a register command or the command buffer is in progress */
  save(): Uint8Array {
    if (this.#serial.busy) throw new Error('AMD-Vi: a register command or the command buffer is under way');
    return saveUnit(this.#parts);
  }

  /** @throws StateError; Error if a device is attached already */
  restore(state: Uint8Array): void {
    if (this.#devices.size > 0)
      throw new Error(`AMD-Vi: ${this.#devices.size} devices are attached before restore`);
    this.#enabled = restoreUnit(state, this.#parts);
  }

  get #parts(): AmdViParts {
    return {
      quirks: this.#asQemu ? 'qemu' : 'spec',
      registers: this.#registers,
      pci: this.pci,
      table: this.#table,
      log: this.#log,
      buffer: this.#buffer,
      translated: this.#translated,
      logged: this.#logged,
    };
  }

  quiesce(work: () => void): Completion {
    return this.#serial.run(() => {
      work();
      return undefined;
    });
  }

  translate(requesterId: number, iova: Iova, write: boolean): TranslateResult {
    // A write to the range is an interrupt request. A read is undefined; QEMU returns zeros without a fault.
    if (isInterruptAddress(iova) || !this.#isTranslated(requesterId)) return identity(iova);
    const entry = this.#table.lookUp(requesterId);
    if (!entry.ok) return this.#refuse(requesterId, iova, write, entry, entry.fault(write));
    if (!entry.tables) return identity(iova);
    const found = entry.tables.translate(iova, write);
    if ('code' in found) return this.#refuse(requesterId, iova, write, entry, found);
    return { ok: true, gpa: offsetBy(found.gpa, iova - found.iova), perm: found.perm };
  }

  #isTranslated(requesterId: number): boolean {
    if (!this.#enabled || !this.#dmaRemap) return false;
    return !this.#asQemu || this.#translated.has(requesterId);
  }

  #resolve(requesterId: number): Resolution {
    if (!this.#isTranslated(requesterId)) return { kind: 'system', domainId: 0 };
    const entry = this.#table.lookUp(requesterId);
    const { domainId } = entry;
    if (!entry.ok) return { kind: 'blocked', domainId };
    return entry.tables ? { kind: 'iommu', domainId, tables: entry.tables } : { kind: 'system', domainId };
  }

  #refuse(
    requesterId: number,
    iova: Iova,
    write: boolean,
    entry: DeviceEntry,
    fault: Fault,
  ): TranslateResult {
    this.counters.faults++;
    const isPageFault = fault.code === EVENT.IO_PAGE_FAULT;
    // QEMU blocks without a record where the entry itself blocks.
    const isSilent = isPageFault && (this.#asQemu ? !entry.ok : this.#suppresses(requesterId, entry));
    if (!isSilent) this.#logFault(requesterId, iova, write, entry, fault);
    if (fault.code !== EVENT.ILLEGAL_DEV_TABLE_ENTRY && (entry.ok || !isPageFault))
      this.pci.signalTargetAbort();
    if (this.#asQemu && fault.code === EVENT.PAGE_TAB_HARDWARE_ERROR)
      this.#logFault(requesterId, iova, write, entry, notPresent(write));
    const { code, text } = fault;
    this.#onFault({ requesterId, iova, write, reason: code, text });
    return { ok: false, reason: code, text };
  }

  /** True if the entry suppresses the event of a page fault. With SE the first one since its invalidation is logged. */
  #suppresses(requesterId: number, { suppress }: DeviceEntry): boolean {
    if (suppress !== 'later') return suppress === 'all';
    const isLater = this.#logged.has(requesterId);
    this.#logged.add(requesterId);
    return isLater;
  }

  #logFault(deviceId: number, iova: number, write: boolean, entry: DeviceEntry, fault: Fault): void {
    const { code, flags, address = iova } = fault;
    if (this.#asQemu) this.#log.append(qemuEvent(code, deviceId, write));
    else this.#log.append({ code, deviceId, domainId: domainOf(code, entry), flags, address });
  }

  #apply(request: Invalidation): Completion {
    this.counters.invalidations++;
    if (request.kind === 'device') this.#forgetDevice(request.requesterId);
    if (request.kind === 'all') this.#logged.clear();
    return this.#devices.apply(request);
  }

  #forgetDevice(requesterId: number): void {
    this.#logged.delete(requesterId);
    if (!this.#asQemu) return;
    // QEMU chooses now whether to look the device up, and reports a bad entry at once.
    const entry = this.#table.lookUp(requesterId);
    if (entry.ok && !entry.tables) this.#translated.delete(requesterId);
    else this.#translated.add(requesterId);
    const fault = entry.ok ? undefined : entry.fault(false);
    if (!fault || fault.code === EVENT.IO_PAGE_FAULT) return;
    this.#log.append(qemuEvent(fault.code, requesterId, false));
    if (fault.code === EVENT.DEV_TAB_HARDWARE_ERROR) this.pci.signalTargetAbort();
  }

  #illegalCommand(gpa: number, opcode: number): void {
    // QEMU has the opcode in bits 51:48, and no address.
    const flags = this.#asQemu ? opcode << 16 : 0;
    this.#log.append({ code: EVENT.ILLEGAL_COMMAND_ERROR, flags, address: gpa });
  }

  #completionInterrupt(): void {
    setStatus(this.#registers, STATUS.COM_WAIT_INT, true);
    // QEMU ignores ComWaitIntEn.
    if (this.#asQemu || (this.#registers.get('Control') & CONTROL.COM_WAIT_INT_EN) !== 0n) this.#interrupt();
  }

  /** Sends the unit's interrupt: its MSI, or the general interrupt register's with IntCapXTEn. */
  #interrupt(): void {
    const control = this.#registers.get('Control');
    const { message } = this.pci;
    if (this.#xtsup && (control & CONTROL.INT_CAP_XT_EN) !== 0n) this.#generalInterrupt();
    else if (message) this.#raiseMsi(...message);
  }

  /** Section 3.4.13: vector in bits 39:32, destination in bits 31:8. */
  #generalInterrupt(): void {
    const value = this.#registers.get('GeneralInterrupt');
    const destination = Number((value >> 8n) & 0xffn);
    this.#raiseMsi(amdvi.INTERRUPT_RANGE_START + destination * 4096, Number((value >> 32n) & 0xffn));
  }

  /** Runs a command in its turn. The register write that caused it completes with it. */
  #submit(command: () => Completion): void {
    if (this.#serial.waiting >= PENDING_COMMAND_LIMIT) this.counters.droppedCommands++;
    else this.#caused = this.#serial.run(command);
  }

  #refreshAll(): Completion {
    this.counters.switches++;
    return this.#devices.refreshAll();
  }

  /** Switches devices by IommuEn. The run bits of the status register follow when the switch is complete. */
  #controlWritten(control: bigint): void {
    this.#submit(() => {
      const enable = (control & CONTROL.IOMMU_EN) !== 0n;
      const changed = enable !== this.#enabled;
      this.#enabled = enable;
      return whenDone(changed ? this.#refreshAll() : undefined, () => {
        this.#log.controlWritten(enable && (control & CONTROL.EVENT_LOG_EN) !== 0n);
        this.#buffer.controlWritten(enable && (control & CONTROL.CMD_BUF_EN) !== 0n);
        return this.#run();
      });
    });
  }

  /** Schedules one run of the command buffer after the commands in progress. */
  #scheduleRun(): void {
    if (!this.#runScheduled) {
      if (!this.#buffer.ready) return;
      this.#runScheduled = true;
      this.#scheduledRun = this.#serial.run(() => {
        this.#runScheduled = false;
        return this.#run();
      });
    }
    this.#caused = this.#scheduledRun;
  }

  #run(): Completion {
    this.#work = 0;
    // A run is bounded by the buffer's size. If the guest kept adding, the next run queues behind other commands.
    return whenDone(this.#buffer.run(), () => this.#scheduleRun());
  }

  #walked(entries: number): void {
    this.#work += entries;
    if (entries > WALK_ENTRY_LIMIT) this.counters.truncatedWalks++;
  }

  #pause(): Completion {
    this.#work += COMMAND_WORK;
    if (this.#work < TURN_WORK_LIMIT) return undefined;
    this.#work = 0;
    return yieldTurn();
  }
}

const identity = (iova: Iova): TranslateResult => ({ ok: true, gpa: toGpa(iova), perm: PERM_RW });

/** Only page faults and unreadable page tables concern a domain. */
const domainOf = (code: number, { domainId }: DeviceEntry): number =>
  code === EVENT.IO_PAGE_FAULT || code === EVENT.PAGE_TAB_HARDWARE_ERROR ? domainId : 0;

/** QEMU's event: a page fault has I and GN or NX for the direction; it and an unreadable page table lack the bus. */
function qemuEvent(code: number, requesterId: number, write: boolean): AmdViEvent {
  const isPageFault = code === EVENT.IO_PAGE_FAULT;
  const deviceId = isPageFault || code === EVENT.PAGE_TAB_HARDWARE_ERROR ? requesterId & 0xff : requesterId;
  const direction = write ? amdvi.EVENT_NX : amdvi.EVENT_GN;
  return { code, deviceId, flags: isPageFault ? amdvi.EVENT_I | direction : 0, address: 0 };
}
