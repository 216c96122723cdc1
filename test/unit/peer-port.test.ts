import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DeviceLink, DeviceState } from '../../src/channel/device-link.ts';
import type { BarPlace } from '../../src/channel/peer-block.ts';
import { PeerPort } from '../../src/channel/peer-port.ts';
import { interposed } from '../fixtures/interleave.ts';

const BASE = 0x8100_0000;
const BYTES = 64;
/** Wait of a requester whose target does not serve. Only such a wait lasts as long. */
const WAIT_MS = 500;

interface Access extends BarPlace {
  readonly write: number[] | undefined;
}

/** Three devices with BARs at multiples of 64 KiB, in the thread of the test. */
function rig() {
  const links = [0, 1, 2].map(() => new DeviceLink());
  const ports = links.map(
    (_, index) =>
      new PeerPort(
        index,
        links.map(({ sab }) => sab),
        WAIT_MS,
      ),
  );
  const address = (index: number) => BASE + index * 0x1_0000;
  for (const [index, port] of ports.entries()) {
    links[index]?.setState(DeviceState.ready);
    port.own.setBar(0, address(index), BYTES);
  }
  const accesses: Access[][] = ports.map(() => []);
  const serve = (index: number) =>
    (ports[index] as PeerPort).serve({
      peerAccess: (place, isWrite, bytes) => {
        accesses[index]?.push({ ...place, write: isWrite ? [...bytes] : undefined });
        if (!isWrite) bytes.fill(0x40 + index);
      },
    });
  return { links, ports: ports as [PeerPort, PeerPort, PeerPort], address, accesses, serve };
}

const bytesOf = (...values: number[]) => Uint8Array.from(values);

describe('DMA between devices', () => {
  it('is served by the device that decodes the address', async () => {
    const { ports, address, accesses, serve } = rig();
    const read = new Uint8Array(4);
    const { result } = await interposed(
      'wait',
      () => serve(2),
      () => [
        ports[0].access(true, address(2) + 8, bytesOf(1, 2, 3, 4)),
        ports[0].access(false, address(2) + 60, read),
      ],
    );
    expect(result).to.deep.equal(['done', 'done']);
    expect(accesses[2]).to.deep.equal([
      { bar: 0, offset: 8, write: [1, 2, 3, 4] },
      { bar: 0, offset: 60, write: undefined },
    ]);
    expect([...read]).to.deep.equal([0x42, 0x42, 0x42, 0x42]);
  });

  it('is refused where no other device decodes all of it', () => {
    const { links, ports, address } = rig();
    const [port, other] = ports;
    const refused = [
      port.access(true, BASE - 4, bytesOf(1, 2, 3, 4)),
      port.access(true, address(1) + 62, bytesOf(1, 2, 3, 4)),
      port.access(true, address(0), bytesOf(1)),
    ];
    other.own.setBar(0, 0, BYTES);
    refused.push(port.access(false, address(1), new Uint8Array(1)));
    links[2]?.setState(DeviceState.failed);
    refused.push(port.access(false, address(2), new Uint8Array(1)));
    expect(refused).to.deep.equal(Array(5).fill('refused'));
  });

  it('is refused by a device whose BAR has moved meanwhile', async () => {
    const { ports, address, accesses, serve } = rig();
    const moved = () => {
      ports[1].own.setBar(0, BASE + 0x100_0000, BYTES);
      serve(1);
    };
    const { result } = await interposed('wait', moved, () => ports[0].access(true, address(1), bytesOf(1)));
    expect([result, accesses[1]]).to.deep.equal(['refused', []]);
  });

  it('is withdrawn when the target does not serve it in time', () => {
    const { ports, address, accesses, serve } = rig();
    expect(ports[0].access(true, address(1), bytesOf(1))).to.equal('busy');
    expect([serve(1), accesses[1]]).to.deep.equal([true, []]);
  });

  it('gives way to a device with a lower number, so that two devices do not wait for each other', async () => {
    const { ports, address, accesses, serve } = rig();
    const outcomes: unknown[] = [];
    let nested = false;
    const ask = () => {
      if (nested) serve(1);
      else {
        nested = true;
        // Device 0 asks while device 1 waits for it. It waits for device 1, which has then returned to its loop.
        ports[0].own.post(1, { isWrite: true, address: address(1), bytes: bytesOf(7) });
        ports[1].own.ask(0);
      }
    };
    await interposed('wait', ask, () => outcomes.push(ports[1].access(true, address(0), bytesOf(9))));
    expect(outcomes).to.deep.equal(['busy']);
    serve(1);
    serve(0);
    expect([accesses[1], accesses[0]]).to.deep.equal([[{ bar: 0, offset: 0, write: [7] }], []]);
  });

  it('does not give way to a device with a higher number', async () => {
    const { ports, address, accesses, serve } = rig();
    let asked = false;
    const ask = () => {
      if (asked) serve(1);
      asked = true;
      ports[0].own.ask(2);
    };
    const { result } = await interposed('wait', ask, () => ports[0].access(true, address(1), bytesOf(9)));
    expect([result, accesses[1]?.length]).to.deep.equal(['done', 1]);
  });

  it('is given up when the target hangs in it, and the slot is used again after its end', async () => {
    const { links, ports, address, accesses, serve } = rig();
    const slot = ports[0].own;
    const taken: ReturnType<typeof slot.take>[] = [];
    const take = () => {
      if (taken.length === 0) taken.push(slot.take(1));
    };
    const { result } = await interposed('wait', take, () => ports[0].access(false, address(1), bytesOf(9)));
    expect([result, taken[0]?.address]).to.deep.equal(['busy', address(1)]);
    expect(ports[0].access(true, address(2), bytesOf(1)), 'the slot is in use').to.equal('busy');
    slot.reply(true, { isWrite: false, address: address(1), bytes: bytesOf(1) });
    const use = () =>
      interposed(
        'wait',
        () => serve(2),
        () => ports[0].access(true, address(2), bytesOf(5)),
      );
    expect((await use()).result).to.equal('done');

    taken.length = 0;
    await interposed('wait', take, () => ports[0].access(true, address(1), bytesOf(9)));
    links[1]?.setState(DeviceState.failed);
    expect((await use()).result, 'the target has ended').to.equal('done');
    expect(accesses[2]).to.have.length(2);
  });
});
