import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as uart from '../../src/abi/uart.ts';
import { Uart } from '../../src/models/mtty/uart.ts';

/** A port that takes one byte: a write of 0 to the FIFO control register disables the FIFO. */
function portOfOneByte(): Uart {
  const port = new Uart(() => {});
  port.write(uart.FCR, 0);
  return port;
}

const isOverrun = (port: Uart): boolean => (port.read(uart.LSR) & uart.LSR_OE) !== 0;

describe('the state of a serial port', () => {
  it('keeps how many bytes the FIFO accepts', () => {
    const moved = new Uart(() => {});
    moved.restore(portOfOneByte().save());
    moved.write(uart.TX, 1);
    expect(isOverrun(moved)).to.equal(false);
    moved.write(uart.TX, 2);
    expect(isOverrun(moved)).to.equal(true);
  });

  it('is that of the port it was saved from, whatever the new port did before', () => {
    const source = portOfOneByte();
    source.write(uart.TX, 7);
    const moved = new Uart(() => {});
    moved.write(uart.TX, 1);
    moved.write(uart.TX, 2);
    moved.restore(source.save());
    expect(moved.save()).to.deep.equal(source.save());
    expect(moved.read(uart.RX)).to.equal(7);
  });
});
