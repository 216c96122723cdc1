/**
 * The kernel's `mtty` sample as a device: one or two 8250 ports, each behind an I/O BAR, which loop back every byte.
 *
 * Unlike the sample's card it has an MSI capability, because this emulator interrupts its guests by MSI only.
 */

import { MTTY_PORT_BYTES, mttyIdentity } from '../../abi/mtty.ts';
import type { BarRegion } from '../../device/bar-region.ts';
import type { DeviceContext, DeviceModel, ModelState, StepResult } from '../../device/model.ts';
import type { StateReader, StateValues } from '../../device/sdk/index.ts';
import { ConfigSpace } from '../../pci/config-space.ts';
import { UART_FIFO_BYTES, UART_REGISTERS, UART_STATE_MAX, Uart } from './uart.ts';

/** The vector of both ports. As with a shared line, a driver reads the cause from each port. */
const VECTOR = 0;

/** A port's registers are bytes. A wider access reaches only the register at its offset. */
class Port implements BarRegion {
  readonly size = MTTY_PORT_BYTES;
  readonly #uart: Uart;

  constructor(interrupt: () => void) {
    this.#uart = new Uart(interrupt);
  }

  read(offset: number): bigint {
    return BigInt(this.#uart.read(offset));
  }

  write(offset: number, _size: number, value: bigint): void {
    this.#uart.write(offset, Number(value & 0xffn));
  }

  /** Prefixes the names: `port0 head` and so on. */
  save(port: string): StateValues {
    return Object.fromEntries(
      Object.entries(this.#uart.save()).map(([name, value]) => [`${port} ${name}`, value]),
    );
  }

  restore(port: string, saved: StateReader): void {
    const number = (name: keyof typeof UART_STATE_MAX, min = 0) =>
      saved.integer(`${port} ${name}`, UART_STATE_MAX[name], min);
    this.#uart.restore({
      registers: saved.bytes(`${port} registers`, UART_REGISTERS),
      fifo: saved.bytes(`${port} fifo`, UART_FIFO_BYTES),
      head: number('head'),
      tail: number('tail'),
      count: number('count'),
      room: number('room', 1),
      trigger: number('trigger'),
      overrun: saved.boolean(`${port} overrun`),
      divisor: number('divisor'),
    });
  }
}

export class Mtty implements DeviceModel {
  readonly config: ConfigSpace;
  readonly bars: DeviceModel['bars'];

  readonly #ports: readonly Port[];

  readonly state: ModelState = {
    version: 1,
    save: () => Object.assign({}, ...this.#ports.map((port, index) => port.save(`port${index}`))),
    restore: (saved) => {
      for (const [index, port] of this.#ports.entries()) port.restore(`port${index}`, saved);
    },
  };

  constructor(context: DeviceContext, ports: number) {
    this.config = new ConfigSpace(mttyIdentity(ports, 1));
    const interrupt = () => {
      context.metrics.add('serial interrupts');
      context.interrupt(VECTOR);
    };
    this.#ports = Array.from({ length: ports }, () => new Port(interrupt));
    this.bars = Object.fromEntries(this.#ports.entries());
  }

  /** All work is done when a register is accessed. */
  step(): StepResult {
    return 'idle';
  }

  dmaUnmap(): void {}

  close(): void {}
}
