/**
 * Interrupt remapping: a device's interrupt message becomes that of the entry it names, or is blocked with a fault.
 * Specification section 5.1.
 *
 * Entries are cached until an invalidation names them, as hardware may. Entries that are not present are not cached.
 */

import * as vtd from '../../abi/vtd.ts';
import * as ir from '../../abi/vtd-interrupts.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Quirks } from '../quirks.ts';
import type { InterruptAnswer, InterruptMessage } from '../viommu.ts';
import type { FaultLog } from './faults.ts';
import type { Invalidation } from './invalidation.ts';
import type { IntelCapabilities } from './registers.ts';

/** Maximum count of cached entries. A full cache is emptied. */
const CACHE_LIMIT = 1024;
/** Requester ID by which QEMU records messages of plain DMA and of the I/O APIC. It checks no source of theirs. */
const NO_REQUESTER = 0xffff;

/** An entry as four words. */
type Irte = readonly [number, number, number, number];

/** A refused message. `fpd`: its entry disables the recording of the fault. */
interface Refused {
  readonly reason: number;
  readonly index: number;
  readonly fpd: boolean;
}

export interface InterruptCounters {
  remapped: number;
  passed: number;
  blocked: number;
  /** Entries dropped by invalidations. */
  invalidated: number;
}

export class InterruptRemapping {
  readonly counters: InterruptCounters = { remapped: 0, passed: 0, blocked: 0, invalidated: 0 };
  readonly #ram: GuestRam;
  readonly #faults: FaultLog;
  readonly #asQemu: boolean;
  readonly #addressMask: bigint;
  readonly #cache = new Map<number, Irte>();
  #latched = 0n;
  #table = 0;
  /** Entries of the table; 0 before it is set. */
  #entries = 0;
  #extended = false;
  readonly #isOffered: boolean;
  readonly #hasExtended: boolean;
  #enabled = false;
  /** Messages in compatibility format pass. */
  #compatible = false;

  constructor(ram: GuestRam, faults: FaultLog, quirks: Quirks, { awBits, intremap, eim }: IntelCapabilities) {
    this.#ram = ram;
    this.#faults = faults;
    this.#asQemu = quirks === 'qemu';
    this.#isOffered = intremap ?? true;
    this.#hasExtended = (eim ?? false) || quirks === 'qemu';
    this.#addressMask = ir.IRTA_ADDRESS_MASK & ((1n << BigInt(awBits)) - 1n);
  }

  /** True while messages do not pass as they are: GSTS.IRES. */
  get enabled(): boolean {
    return this.#enabled;
  }

  /** IRTA's value at the last SIRTP, initially 0. */
  get latched(): bigint {
    return this.#latched;
  }

  /** Status bits that the commands of this unit set. */
  get statusBits(): number {
    if (!this.#isOffered) return this.#asQemu ? vtd.GCMD_SIRTP : 0;
    return vtd.GCMD_SIRTP | vtd.GCMD_IRE | (this.#asQemu ? 0 : vtd.GCMD_CFI);
  }

  /**
   * Performs the interrupt commands of a write of GCMD: the table first, then IRE and CFI.
   * @param status GSTS before
   * @param irta value of IRTA
   * @returns GSTS after
   */
  command(command: number, status: number, irta: bigint): number {
    // QEMU acknowledges SIRTP without IR, and ignores CFI.
    const possible = this.statusBits;
    if ((command & possible & vtd.GCMD_SIRTP) !== 0) this.#setTable(irta);
    const kept = status & (~possible | vtd.GCMD_SIRTP);
    const after = (kept | (command & possible)) >>> 0;
    this.#follow(after);
    return after;
  }

  /** Restores the table in use and the status of another unit. */
  restore(latched: bigint, status: number): void {
    if ((status & vtd.GCMD_SIRTP) !== 0) this.#setTable(latched);
    this.#follow(status);
  }

  #follow(status: number): void {
    this.#enabled = (status & vtd.GCMD_IRE) !== 0;
    this.#compatible = (status & vtd.GCMD_CFI) !== 0;
  }

  /** Sets the table from IRTA's value, and forgets the entries of the old one. */
  #setTable(irta: bigint): void {
    this.#latched = irta;
    this.#table = Number(irta & this.#addressMask);
    this.#entries = 2 ** (Number(irta & ir.IRTA_S_MASK) + 1);
    this.#extended = this.#hasExtended && (irta & ir.IRTA_EIME) !== 0n;
    this.#cache.clear();
  }

  /** Drops the cached entries that the request names. */
  invalidate(request: Invalidation): void {
    const before = this.#cache.size;
    if (request.kind === 'interrupt-global') this.#cache.clear();
    else if (request.kind === 'interrupt-index')
      for (const index of [...this.#cache.keys()])
        if (index >= request.start && index < request.end) this.#cache.delete(index);
    this.counters.invalidated += before - this.#cache.size;
  }

  /** Remaps one message with an address of 0xfeexxxxx. A blocked one records a fault. */
  remap(requesterId: number, address: number, data: number): InterruptAnswer {
    const isRemappable = (address & ir.MESSAGE_REMAPPABLE) !== 0;
    if (!this.#enabled) return this.#pass(address, data);
    if (!isRemappable) {
      // QEMU lets messages in compatibility format pass always.
      if (this.#asQemu || (this.#compatible && !this.#extended)) return this.#pass(address, data);
      return this.#block(requesterId, refused(vtd.FAULT.COMPATIBILITY_BLOCKED, 0));
    }
    const found = this.#lookUp(requesterId, address >>> 0, data >>> 0);
    if ('reason' in found) return this.#block(requesterId, found);
    this.counters.remapped++;
    return { kind: 'delivered', remapped: true, ...this.#decode(found) };
  }

  /** Returns the entry that a message names, or why the message is refused. */
  #lookUp(requesterId: number, address: number, data: number): Irte | Refused {
    const hasSubhandle = (address & ir.MESSAGE_SHV) !== 0;
    const isDataBad = hasSubhandle && data >>> 16 !== 0;
    if (isDataBad && !this.#asQemu) return refused(vtd.FAULT.MESSAGE_RESERVED, 0);
    const high = (address & ir.MESSAGE_HANDLE_15) !== 0 ? 0x8000 : 0;
    const handle = high + ((address >>> ir.MESSAGE_HANDLE_SHIFT) & ir.MESSAGE_HANDLE_MASK);
    const sum = handle + (hasSubhandle ? data & 0xffff : 0);
    const index = sum & 0xffff;
    // QEMU computes the index modulo 2^16.
    if (index >= this.#entries || (sum > 0xffff && !this.#asQemu))
      return refused(vtd.FAULT.INTERRUPT_INDEX, index);
    const irte = this.#cache.get(index) ?? this.#read(index);
    if (!irte) return refused(vtd.FAULT.INTERRUPT_TABLE_UNREADABLE, index);
    const reason = this.#check(requesterId, irte);
    if (reason !== 0) return refused(reason, index, (irte[0] & ir.IRTE_FPD) !== 0);
    if (isDataBad) return refused(vtd.FAULT.MESSAGE_RESERVED, 0);
    this.#remember(index, irte);
    return irte;
  }

  #read(index: number): Irte | undefined {
    const at = this.#table + index * ir.IRTE_BYTES;
    if (!this.#ram.contains(at, ir.IRTE_BYTES)) return undefined;
    const word = (i: number) => this.#ram.read32(at + 4 * i);
    return [word(0), word(1), word(2), word(3)];
  }

  #remember(index: number, irte: Irte): void {
    if (this.#cache.size >= CACHE_LIMIT) this.#cache.clear();
    this.#cache.set(index, irte);
  }

  /** Returns the fault reason of an entry for a source, or 0. */
  #check(requesterId: number, [w0, w1, w2, w3]: Irte): number {
    if ((w0 & ir.IRTE_P) === 0) return vtd.FAULT.IRTE_NOT_PRESENT;
    let reserved = (w0 & ir.IRTE_RESERVED_0) | (w2 & ir.IRTE_RESERVED_2) | w3;
    const svt = (w2 >>> ir.IRTE_SVT_SHIFT) & 3;
    if (!this.#asQemu) {
      // Posting is not offered, and SVT 3 is reserved. QEMU takes IM for remapped format, and ignores the other bits.
      reserved |= w0 & ir.IRTE_IM;
      if (!this.#extended) reserved |= w1 & ir.IRTE_XAPIC_RESERVED;
      if (svt > ir.SVT_BUS) reserved |= 1;
    }
    if (reserved !== 0) return vtd.FAULT.IRTE_RESERVED;
    const isAdmitted =
      this.#asQemu && requesterId === NO_REQUESTER ? true : this.#admits(requesterId, w2, svt);
    return isAdmitted ? 0 : vtd.FAULT.INTERRUPT_SOURCE;
  }

  #admits(requesterId: number, w2: number, svt: number): boolean {
    const sid = w2 & 0xffff;
    switch (svt) {
      case ir.SVT_NONE:
        return true;
      case ir.SVT_SOURCE: {
        const mask = ir.SQ_MASKS[(w2 >>> ir.IRTE_SQ_SHIFT) & 3] as number;
        return ((requesterId ^ sid) & mask) === 0;
      }
      case ir.SVT_BUS: {
        const bus = requesterId >>> 8;
        const range = [sid >>> 8, sid & 0xff] as const;
        // QEMU takes the first bus for the last one.
        const [first, last] = this.#asQemu ? [range[1], range[0]] : range;
        return bus >= first && bus <= last;
      }
      default:
        return false;
    }
  }

  #decode([w0, w1]: Irte): InterruptMessage {
    return {
      dest: this.#extended ? w1 : (w1 >>> ir.IRTE_XAPIC_DEST_SHIFT) & 0xff,
      destMode: (w0 >>> ir.IRTE_DM_SHIFT) & 1,
      redirHint: (w0 >>> ir.IRTE_RH_SHIFT) & 1,
      vector: (w0 >>> ir.IRTE_VECTOR_SHIFT) & 0xff,
      deliveryMode: (w0 >>> ir.IRTE_DLM_SHIFT) & 7,
      triggerMode: (w0 >>> ir.IRTE_TM_SHIFT) & 1,
    };
  }

  #pass(address: number, data: number): InterruptAnswer {
    this.counters.passed++;
    return { kind: 'delivered', remapped: false, ...compatibilityMessage(address, data) };
  }

  #block(requesterId: number, { reason, index, fpd }: Refused): InterruptAnswer {
    this.counters.blocked++;
    const isHidden = fpd && vtd.isQualifiedFault(reason);
    const recorded = !isHidden && this.#faults.recordInterrupt(requesterId, index, reason);
    return { kind: 'blocked', reason, index, recorded, text: vtd.faultText(reason) };
  }
}

const refused = (reason: number, index: number, fpd = false): Refused => ({ reason, index, fpd });

/** Decodes a message in compatibility format. */
const compatibilityMessage = (address: number, data: number): InterruptMessage => ({
  dest: (address >>> ir.COMPATIBILITY_DEST_SHIFT) & 0xff,
  destMode: (address >>> 2) & 1,
  redirHint: (address >>> 3) & 1,
  vector: data & 0xff,
  deliveryMode: (data >>> 8) & 7,
  triggerMode: (data >>> 15) & 1,
});
