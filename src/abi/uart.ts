/**
 * Registers of an 8250 UART, by offset, and their bits. Names are those of `linux/serial_reg.h` without `UART_`.
 */

/** Received byte (read) and byte to send (write); low byte of the divisor while DLAB is set. */
export const RX = 0;
export const TX = 0;
/** Interrupt enable; high byte of the divisor while DLAB is set. */
export const IER = 1;
/** Interrupt identification (read) and FIFO control (write). */
export const IIR = 2;
export const FCR = 2;
export const LCR = 3;
export const MCR = 4;
export const LSR = 5;
export const MSR = 6;
export const SCR = 7;

export const IER_RDI = 0x01;
export const IER_THRI = 0x02;
export const IER_RLSI = 0x04;

export const IIR_NO_INT = 0x01;
export const IIR_THRI = 0x02;
export const IIR_RDI = 0x04;
export const IIR_RLSI = 0x06;
/** Mask of the interrupt's cause. */
export const IIR_MASK = 0x0f;
/** FIFOs are enabled, as on a 16550A. */
export const IIR_FIFO_ENABLED_16550A = 0xc0;

export const FCR_ENABLE_FIFO = 0x01;
export const FCR_CLEAR_RCVR = 0x02;
export const FCR_CLEAR_XMIT = 0x04;

/** Divisor latch access bit. */
export const LCR_DLAB = 0x80;
/** Auto flow control. */
export const MCR_AFE = 0x20;

/** Data ready. */
export const LSR_DR = 0x01;
/** Overrun error. */
export const LSR_OE = 0x02;
/** Transmit holding register empty, and transmitter empty. */
export const LSR_THRE = 0x20;
export const LSR_TEMT = 0x40;

export const MSR_DCD = 0x80;
export const MSR_DSR = 0x20;
export const MSR_CTS = 0x10;
export const MSR_DDSR = 0x02;
export const MSR_DCTS = 0x01;
