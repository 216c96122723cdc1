/**
 * The kernel's `mtty` sample as a device: one or two 8250 ports, each behind an I/O BAR. What is sent comes back.
 *
 * Unlike the sample's card this one has an MSI capability: by MSI alone this emulator's guests are interrupted.
 */
import type { BarRegion, DeviceContext, DeviceModel, StepResult } from '../../../src/device/model.ts';
import { ConfigSpace } from '../../../src/pci/config-space.ts';
import { MTTY_PORT_BYTES, mttyIdentity } from '../../../src/pci/mtty-interface.ts';
import { Uart } from '../../../src/pci/uart.ts';

/** The vector of both ports: a driver asks each for its cause, as with a shared line. */
const VECTOR = 0;

/** A port's registers are bytes: a wider access reaches the one that it begins at. */
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
}

export class Mtty implements DeviceModel {
  readonly config: ConfigSpace;
  readonly bars: DeviceModel['bars'];

  constructor(context: DeviceContext, ports: number) {
    this.config = new ConfigSpace(mttyIdentity(ports, 1));
    const interrupt = () => {
      context.metrics.add('serial interrupts');
      context.interrupt(VECTOR);
    };
    const first = new Port(interrupt);
    this.bars = ports > 1 ? { 0: first, 1: new Port(interrupt) } : { 0: first };
  }

  /** All it does it does at once, when a register is accessed. */
  step(): StepResult {
    return 'idle';
  }

  dmaUnmap(): void {}

  close(): void {}
}
