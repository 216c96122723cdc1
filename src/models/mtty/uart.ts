/**
 * One 8250 port of the mtty sample driver, which loops back every byte.
 *
 * The driver compares the two ends of its FIFO to detect an empty one, so that a full FIFO looks empty, too. This
 * model reproduces that.
 */
import * as uart from '../../abi/uart.ts';

const FIFO_SIZE = 16;

const REGISTERS = 8;

const IER_MASK = 0x0f;
const FCR_CLEAR = uart.FCR_CLEAR_RCVR | uart.FCR_CLEAR_XMIT;
const LSR_EMPTY = uart.LSR_THRE | uart.LSR_TEMT;
/** Carrier detect and data set ready, with the change bit of the latter, always set. */
const MSR_CONNECTED = uart.MSR_DCD | uart.MSR_DSR | uart.MSR_DDSR;
const MSR_CLEAR_TO_SEND = uart.MSR_CTS | uart.MSR_DCTS;

/** The whole state of a port. */
interface UartState {
  /** Registers by offset, and the ring of received bytes. */
  readonly registers: Uint8Array;
  readonly fifo: Uint8Array;
  readonly head: number;
  readonly tail: number;
  readonly count: number;
  /** Bytes that the FIFO accepts: 1 or all. */
  readonly room: number;
  readonly trigger: number;
  readonly overrun: boolean;
  readonly divisor: number;
}

/** The largest value of each number in a port's state. The smallest is 0, and 1 for `room`. */
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

  /** Returns the byte of a register; 0 where there is no register. */
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

  /** Restores a state. Raises no interrupt. */
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
    return (this.#registers[uart.LCR]! & uart.LCR_DLAB) !== 0;
  }

  get #ier(): number {
    return this.#registers[uart.IER]!;
  }

  get #looksEmpty(): boolean {
    return this.#head === this.#tail;
  }

  readonly #reads: Readonly<Record<number, () => number>> = {
    [uart.RX]: () => (this.#dlab ? this.#divisor & 0xff : this.#receive()),
    [uart.IER]: () => (this.#dlab ? this.#divisor >> 8 : this.#ier & IER_MASK),
    [uart.IIR]: () => this.#identification(),
    [uart.LCR]: () => this.#registers[uart.LCR]!,
    [uart.MCR]: () => this.#registers[uart.MCR]!,
    [uart.LSR]: () => (this.#looksEmpty ? LSR_EMPTY : uart.LSR_DR) | (this.#overrun ? uart.LSR_OE : 0),
    [uart.MSR]: () => {
      const held = (this.#registers[uart.MCR]! & uart.MCR_AFE) !== 0 && this.#count >= this.#room;
      return MSR_CONNECTED | (held ? 0 : MSR_CLEAR_TO_SEND);
    },
    [uart.SCR]: () => this.#registers[uart.SCR]!,
  };

  readonly #writes: Readonly<Record<number, (value: number) => void>> = {
    [uart.TX]: (value) => {
      if (this.#dlab) this.#divisor |= value;
      else this.#send(value);
    },
    [uart.IER]: (value) => {
      if (this.#dlab) this.#divisor |= value << 8;
      else {
        this.#registers[uart.IER] = value;
        if ((value & uart.IER_THRI) !== 0 && this.#looksEmpty) this.#interrupt();
      }
    },
    [uart.FCR]: (value) => {
      if ((value & FCR_CLEAR) !== 0) [this.#head, this.#tail, this.#count] = [0, 0, 0];
      this.#trigger = 1;
      this.#room = (value & uart.FCR_ENABLE_FIFO) !== 0 ? FIFO_SIZE : 1;
    },
    [uart.LCR]: (value) => {
      if ((value & uart.LCR_DLAB) !== 0) this.#divisor = 0;
      this.#registers[uart.LCR] = value;
    },
    [uart.MCR]: (value) => {
      this.#registers[uart.MCR] = value;
    },
    [uart.SCR]: (value) => {
      this.#registers[uart.SCR] = value;
    },
  };

  #send(value: number): void {
    if (this.#count >= this.#room) {
      this.#overrun = true;
      if ((this.#ier & uart.IER_RLSI) !== 0) this.#interrupt();
      return;
    }
    this.#fifo[this.#head] = value;
    this.#head = (this.#head + 1) % FIFO_SIZE;
    this.#count++;
    this.#overrun = false;
    if ((this.#ier & uart.IER_RDI) !== 0 && this.#count === this.#trigger) this.#interrupt();
  }

  #receive(): number {
    let value = 0;
    if (!this.#looksEmpty) {
      value = this.#fifo[this.#tail]!;
      this.#tail = (this.#tail + 1) % FIFO_SIZE;
      this.#count--;
    }
    if (this.#looksEmpty && (this.#ier & uart.IER_THRI) !== 0) this.#interrupt();
    return value;
  }

  #identification(): number {
    let cause = 0;
    if ((this.#ier & uart.IER_RLSI) !== 0 && this.#overrun) cause |= uart.IIR_RLSI;
    if ((this.#ier & uart.IER_RDI) !== 0 && this.#count >= this.#trigger) cause |= uart.IIR_RDI;
    if ((this.#ier & uart.IER_THRI) !== 0 && this.#looksEmpty) cause |= uart.IIR_THRI;
    return uart.IIR_FIFO_ENABLED_16550A | (cause === 0 ? uart.IIR_NO_INT : cause);
  }
}
