/**
 * The interrupts of a served device: event counters by interrupt type and number, and their masks.
 *
 * The VMM gates interrupts as a host kernel does: a message is sent if the client has set its event counter. A line
 * interrupt (INTx) masks itself when it triggers. A masked interrupt stays pending until it is unmasked.
 */
import { VfioError } from '../vfio/errors.ts';

/** Indices of the interrupt types of a PCI device, as in `linux/vfio.h`. */
const Irq = { INTX: 0, MSI: 1, MSIX: 2, ERR: 3, REQ: 4 } as const;
export const IRQ_TYPES = 5;

const IRQ_FLAG_EVENTFD = 1;
const IRQ_FLAG_MASKABLE = 2;
const IRQ_FLAG_AUTOMASKED = 4;
const IRQ_FLAG_NORESIZE = 8;

const DATA_NONE = 1;
const DATA_BOOL = 2;
const DATA_EVENTFD = 4;
const ACTION_MASK = 8;
const ACTION_UNMASK = 16;
const ACTION_TRIGGER = 32;
const DATA_TYPES = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
const ACTIONS = ACTION_MASK | ACTION_UNMASK | ACTION_TRIGGER;

/** The bytes that add 1 to an event counter. */
export const EVENT_ONE: Uint8Array = new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]);

/** A SET_IRQS request. */
export interface IrqRequest {
  readonly flags: number;
  readonly index: number;
  readonly start: number;
  readonly count: number;
  readonly bools: Uint8Array;
}

interface IrqSlot {
  fd: number;
  masked: boolean;
  pending: boolean;
}

/** Calls on event counters. */
interface EventCalls {
  /** Adds 1 to an event counter. Does not block. */
  signal(fd: number): void;
  close(fd: number): void;
  /** Returns true for an event counter. */
  isEvent(fd: number): boolean;
}

/** The interrupts of one device. */
export class IrqSet {
  readonly counters = { raised: 0, signalled: 0, lost: 0 };
  readonly #types: readonly (readonly IrqSlot[])[];
  readonly #calls: EventCalls;

  /** @param counts interrupts of each type */
  constructor(counts: readonly number[], calls: EventCalls) {
    this.#calls = calls;
    this.#types = Array.from({ length: IRQ_TYPES }, (_, index) =>
      Array.from({ length: counts[index] ?? 0 }, () => ({ fd: -1, masked: false, pending: false })),
    );
  }

  count(index: number): number {
    return this.#types[index]?.length ?? 0;
  }

  /** Returns the VFIO_IRQ_INFO flags of a type. */
  flags(index: number): number {
    if (index === Irq.INTX) return IRQ_FLAG_EVENTFD | IRQ_FLAG_MASKABLE | IRQ_FLAG_AUTOMASKED;
    return IRQ_FLAG_EVENTFD | IRQ_FLAG_NORESIZE;
  }

  /** Count of event counters that are set. */
  get assigned(): number {
    return this.#types.flat().filter(({ fd }) => fd >= 0).length;
  }

  /**
   * Performs SET_IRQS. Takes the descriptors that it keeps: their entries become -1.
   * @throws VfioError EINVAL for a request that the specification does not allow
   */
  set(request: IrqRequest, fds: number[]): void {
    const slots = this.#check(request, fds);
    const { flags, index, count } = request;
    if (count === 0) this.#disable(this.#types[index] ?? []);
    else if ((flags & DATA_TYPES) !== DATA_EVENTFD) {
      for (const [i, slot] of slots.entries())
        if ((flags & DATA_NONE) !== 0 || request.bools[i] !== 0) this.#act(slot, index, flags & ACTIONS);
    } else if (fds.length === 0) this.#disable(slots);
    else
      for (const [i, slot] of slots.entries()) {
        this.#disable([slot]);
        slot.fd = fds[i] as number;
        fds[i] = -1;
      }
  }

  /** Raises a device's interrupt by MSI-X, MSI or its line, whichever the client has set up. */
  raise(vector: number): void {
    this.counters.raised++;
    const msix = this.#types[Irq.MSIX] as readonly IrqSlot[];
    const msi = this.#types[Irq.MSI] as readonly IrqSlot[];
    if (msix.some(({ fd }) => fd >= 0)) this.#trigger(msix[vector], Irq.MSIX);
    else {
      // With fewer messages than vectors, the vectors share them.
      const enabled = msi.findLastIndex(({ fd }) => fd >= 0) + 1;
      if (enabled > 0) this.#trigger(msi[vector % enabled], Irq.MSI);
      else this.#trigger(this.#types[Irq.INTX]?.[0], Irq.INTX);
    }
  }

  /** Drops every event counter and mask: the client has gone. */
  clear(): void {
    for (const slots of this.#types) this.#disable(slots);
  }

  #check(request: IrqRequest, fds: readonly number[]): readonly IrqSlot[] {
    const { flags, index, start, count, bools } = request;
    const data = flags & DATA_TYPES;
    const action = flags & ACTIONS;
    const refuse = (what: string): never => {
      throw new VfioError('EINVAL', `SET_IRQS with ${what}`);
    };
    const slots = this.#types[index] ?? refuse(`index ${index}; accepted: 0 to ${IRQ_TYPES - 1}`);
    if (!isOne(data) || !isOne(action) || (flags & ~(DATA_TYPES | ACTIONS)) !== 0) refuse(`flags ${flags}`);
    if (count === 0 ? start !== 0 : start + count > slots.length)
      refuse(`interrupts ${start} +${count}; there are ${slots.length}`);
    if (count === 0 && (data !== DATA_NONE || action !== ACTION_TRIGGER))
      refuse(`count 0 and flags ${flags}`);
    if (data === DATA_BOOL && bools.length !== count)
      refuse(`${bools.length} bytes of data for ${count} interrupts`);
    if (fds.length > 0 && (data !== DATA_EVENTFD || fds.length !== count))
      refuse(`${fds.length} descriptors for ${count} interrupts`);
    if (data === DATA_EVENTFD && action !== ACTION_TRIGGER) refuse('an event counter for a mask');
    if (index >= Irq.ERR && action !== ACTION_TRIGGER) refuse('a mask of an error or release request');
    if (fds.some((fd) => !this.#calls.isEvent(fd))) refuse('a descriptor that is no event counter');
    return slots.slice(start, start + count);
  }

  #act(slot: IrqSlot, index: number, action: number): void {
    if (action === ACTION_TRIGGER) this.#trigger(slot, index);
    else if (action === ACTION_MASK) slot.masked = true;
    else {
      slot.masked = false;
      if (slot.pending) this.#trigger(slot, index);
    }
  }

  #trigger(slot: IrqSlot | undefined, index: number): void {
    if (!slot || slot.fd < 0) {
      this.counters.lost++;
      return;
    }
    slot.pending = slot.masked;
    if (slot.masked) return;
    if (index === Irq.INTX) slot.masked = true;
    this.counters.signalled++;
    this.#calls.signal(slot.fd);
  }

  #disable(slots: readonly IrqSlot[]): void {
    for (const slot of slots) {
      if (slot.fd >= 0) this.#calls.close(slot.fd);
      [slot.fd, slot.masked, slot.pending] = [-1, false, false];
    }
  }
}

const isOne = (bits: number): boolean => bits !== 0 && (bits & (bits - 1)) === 0;
