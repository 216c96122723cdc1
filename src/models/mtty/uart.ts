/**
 * One 8250 port of the mtty sample driver: what is sent comes back.
 *
 * The driver's FIFO compares its two ends to see whether it is empty, so that a full one looks empty too; recorded,
 * and kept.
 */
const FIFO_SIZE = 16;

/** Registers by offset in the BAR. */
const Reg = { data: 0, ier: 1, fcr: 2, lcr: 3, mcr: 4, lsr: 5, msr: 6, scr: 7 } as const;
const REGISTERS = 8;

const IER_RECEIVED = 1;
const IER_EMPTY = 2;
const IER_LINE = 4;
const IER_MASK = 0x0f;
const IIR_NONE = 1;
const IIR_EMPTY = 2;
const IIR_RECEIVED = 4;
const IIR_LINE = 6;
const IIR_16550 = 0xc0;
const FCR_ENABLE = 1;
const FCR_CLEAR = 6;
const LCR_DLAB = 0x80;
const MCR_FLOW = 0x20;
const LSR_READY = 1;
const LSR_OVERRUN = 2;
const LSR_EMPTY = 0x60;
/** Carrier and data set ready, with their change bit, always. */
const MSR_CONNECTED = 0xa2;
const MSR_CLEAR_TO_SEND = 0x11;

/** All that a port remembers. */
export interface UartState {
  /** Bytes by offset, and the ring of what was received. */
  readonly registers: Uint8Array;
  readonly fifo: Uint8Array;
  readonly head: number;
  readonly tail: number;
  readonly count: number;
  /** Bytes that the FIFO takes: 1 or all. */
  readonly room: number;
  readonly trigger: number;
  readonly overrun: boolean;
  readonly divisor: number;
}

/** The largest of each number in a port's state; 0 is the smallest, of `room` 1. */
export const UART_STATE_MAX = {
  head: FIFO_SIZE - 1,
  tail: FIFO_SIZE - 1,
  count: FIFO_SIZE,
  room: FIFO_SIZE,
  trigger: 1,
  divisor: 0xffff,
} as const;
export const UART_REGISTERS = REGISTERS;
export const UART_FIFO_BYTES = FIFO_SIZE;

export class Uart {
  readonly #registers = new Uint8Array(REGISTERS);
  readonly #fifo = new Uint8Array(FIFO_SIZE);
  readonly #interrupt: () => void;
  #head = 0;
  #tail = 0;
  #count = 0;
  #room = FIFO_SIZE;
  /** 0 until the FIFO control register is first written. */
  #trigger = 0;
  #overrun = false;
  #divisor = 0;

  constructor(interrupt: () => void) {
    this.#interrupt = interrupt;
  }

  /** The byte at a register; 0 where there is none. */
  read(offset: number): number {
    return this.#reads[offset]?.() ?? 0;
  }

  write(offset: number, value: number): void {
    this.#writes[offset]?.(value);
  }

  save(): UartState {
    return {
      registers: this.#registers.slice(),
      fifo: this.#fifo.slice(),
      head: this.#head,
      tail: this.#tail,
      count: this.#count,
      room: this.#room,
      trigger: this.#trigger,
      overrun: this.#overrun,
      divisor: this.#divisor,
    };
  }

  /** Becomes what `state` says. No interrupt is raised. */
  restore(state: UartState): void {
    this.#registers.set(state.registers);
    this.#fifo.set(state.fifo);
    this.#head = state.head;
    this.#tail = state.tail;
    this.#count = state.count;
    this.#room = state.room;
    this.#trigger = state.trigger;
    this.#overrun = state.overrun;
    this.#divisor = state.divisor;
  }

  get #dlab(): boolean {
    return (this.#registers[Reg.lcr]! & LCR_DLAB) !== 0;
  }

  get #ier(): number {
    return this.#registers[Reg.ier]!;
  }

  get #looksEmpty(): boolean {
    return this.#head === this.#tail;
  }

  readonly #reads: Readonly<Record<number, () => number>> = {
    [Reg.data]: () => (this.#dlab ? this.#divisor & 0xff : this.#receive()),
    [Reg.ier]: () => (this.#dlab ? this.#divisor >> 8 : this.#ier & IER_MASK),
    [Reg.fcr]: () => this.#identification(),
    [Reg.lcr]: () => this.#registers[Reg.lcr]!,
    [Reg.mcr]: () => this.#registers[Reg.mcr]!,
    [Reg.lsr]: () => (this.#looksEmpty ? LSR_EMPTY : LSR_READY) | (this.#overrun ? LSR_OVERRUN : 0),
    [Reg.msr]: () => {
      const held = (this.#registers[Reg.mcr]! & MCR_FLOW) !== 0 && this.#count >= this.#room;
      return MSR_CONNECTED | (held ? 0 : MSR_CLEAR_TO_SEND);
    },
    [Reg.scr]: () => this.#registers[Reg.scr]!,
  };

  readonly #writes: Readonly<Record<number, (value: number) => void>> = {
    [Reg.data]: (value) => {
      if (this.#dlab) this.#divisor |= value;
      else this.#send(value);
    },
    [Reg.ier]: (value) => {
      if (this.#dlab) this.#divisor |= value << 8;
      else {
        this.#registers[Reg.ier] = value;
        if ((value & IER_EMPTY) !== 0 && this.#looksEmpty) this.#interrupt();
      }
    },
    [Reg.fcr]: (value) => {
      if ((value & FCR_CLEAR) !== 0) [this.#head, this.#tail, this.#count] = [0, 0, 0];
      this.#trigger = 1;
      this.#room = (value & FCR_ENABLE) !== 0 ? FIFO_SIZE : 1;
    },
    [Reg.lcr]: (value) => {
      if ((value & LCR_DLAB) !== 0) this.#divisor = 0;
      this.#registers[Reg.lcr] = value;
    },
    [Reg.mcr]: (value) => {
      this.#registers[Reg.mcr] = value;
    },
    [Reg.scr]: (value) => {
      this.#registers[Reg.scr] = value;
    },
  };

  #send(value: number): void {
    if (this.#count >= this.#room) {
      this.#overrun = true;
      if ((this.#ier & IER_LINE) !== 0) this.#interrupt();
      return;
    }
    this.#fifo[this.#head] = value;
    this.#head = (this.#head + 1) % FIFO_SIZE;
    this.#count++;
    this.#overrun = false;
    if ((this.#ier & IER_RECEIVED) !== 0 && this.#count === this.#trigger) this.#interrupt();
  }

  #receive(): number {
    let value = 0;
    if (!this.#looksEmpty) {
      value = this.#fifo[this.#tail]!;
      this.#tail = (this.#tail + 1) % FIFO_SIZE;
      this.#count--;
    }
    if (this.#looksEmpty && (this.#ier & IER_EMPTY) !== 0) this.#interrupt();
    return value;
  }

  #identification(): number {
    let cause = 0;
    if ((this.#ier & IER_LINE) !== 0 && this.#overrun) cause |= IIR_LINE;
    if ((this.#ier & IER_RECEIVED) !== 0 && this.#count >= this.#trigger) cause |= IIR_RECEIVED;
    if ((this.#ier & IER_EMPTY) !== 0 && this.#looksEmpty) cause |= IIR_EMPTY;
    return IIR_16550 | (cause === 0 ? IIR_NONE : cause);
  }
}
