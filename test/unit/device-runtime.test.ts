import { expect } from 'chai';
import { describe, it } from 'mocha';
import { VGPU_IDENTITY } from '../../src/abi/vgpu/vgpu.ts';
import { DeviceLink, RING_CONTROL } from '../../src/channel/device-link.ts';
import type { DeviceContext, DeviceModel } from '../../src/device/model.ts';
import { DeviceRuntime } from '../../src/device/runtime.ts';
import { type Iova, PAGE_SIZE } from '../../src/memory/address.ts';
import {
  COMMAND_BUS_MASTER,
  COMMAND_MEMORY_SPACE,
  ConfigSpace,
  MSI_CAPABILITY,
  MSI_CONTROL_ENABLE,
} from '../../src/pci/config-space.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { bodyToJson, decodeFrame, encodeFrame, type Frame } from '../../src/proto/codec.ts';
import { RegisterFile } from '../../src/registers/register-file.ts';
import { interposed } from '../fixtures/interleave.ts';
import { deviceTask, HEADER } from '../fixtures/migrating-runtime.ts';

/** A model that only records the unpin requests. */
class Idle implements DeviceModel {
  readonly config = new ConfigSpace(VGPU_IDENTITY);
  readonly bars = {
    0: new RegisterFile<string>(64, [{ name: 'Scratch', offset: 0, size: 4, rw: 0xffff_ffffn }]),
  };
  readonly asked: number[] = [];
  closed = false;
  step() {
    return 'idle' as const;
  }
  dmaUnmap(iova: Iova): void {
    this.asked.push(iova);
  }
  close(): void {
    this.closed = true;
  }
}

function rig() {
  const link = new DeviceLink();
  const writer = new PinTableWriter(4);
  const model = new Idle();
  let context: DeviceContext | undefined;
  const runtime = new DeviceRuntime(deviceTask(link, writer, 'idle'), { ring: () => {} }, (given) => {
    context = given;
    return model;
  });
  const frames = (): Frame[] => {
    const list: Frame[] = [];
    for (let bytes = link.fromDevice.shift(); bytes; bytes = link.fromDevice.shift())
      list.push(decodeFrame(bytes));
    return list;
  };
  return { link, runtime, model, frames, context: () => context as DeviceContext };
}

/** Runs turns until the device sleeps. */
async function turnsUntilSleep(runtime: DeviceRuntime): Promise<void> {
  let slept = false;
  await interposed(
    'wait',
    () => {
      slept = true;
    },
    () => {
      for (let turn = 0; turn < 100 && !slept; turn++) runtime.turn(0);
    },
  );
  expect(slept, 'an idle device sleeps').to.equal(true);
}

describe('DeviceRuntime', () => {
  it('serves every pending control frame before it sleeps', async () => {
    const { link, runtime, model, frames } = rig();
    const asked = Array.from({ length: 150 }, (_, i) => i * PAGE_SIZE);
    for (const iova of asked) {
      expect(link.toDevice.push(encodeFrame(HEADER, 'dmaUnmap', { iova, size: PAGE_SIZE }))).to.equal(true);
      link.doorbell.ring(RING_CONTROL);
    }
    await turnsUntilSleep(runtime);
    expect(model.asked).to.deep.equal(asked);
    expect(frames().filter((frame) => frame.kind === 'dmaUnmapDone')).to.have.length(150);
  });

  it('serves every posted write before it sleeps', async () => {
    const { link, runtime, model } = rig();
    model.config.registers.write(4, 2, BigInt(COMMAND_MEMORY_SPACE));
    const port = link.mmioPort();
    for (let i = 1; i <= 200; i++) port.write(0, 0, 4, BigInt(i));
    await turnsUntilSleep(runtime);
    expect(model.bars[0].get32('Scratch')).to.equal(200);
  });

  it('blocks BAR 0 until memory space is enabled', async () => {
    const { link, runtime, model } = rig();
    const port = link.mmioPort();
    port.write(0, 0, 4, 7n);
    const read = port.read(0, 0, 4);
    await Promise.resolve();
    await turnsUntilSleep(runtime);
    expect(await read).to.equal(0xffff_ffffn);
    expect(model.bars[0].get32('Scratch')).to.equal(0);
  });

  it('delivers interrupts only while MSI and bus mastering are enabled', () => {
    const { link, model, context } = rig();
    const { registers } = model.config;
    const raise = () => {
      context().interrupt(0);
      return link.interrupts(0);
    };
    expect(raise()).to.equal(0);
    registers.write(MSI_CAPABILITY + 2, 2, BigInt(MSI_CONTROL_ENABLE));
    expect(raise()).to.equal(0);
    registers.write(4, 2, BigInt(COMMAND_BUS_MASTER));
    expect(raise()).to.equal(1);
    registers.write(MSI_CAPABILITY + 2, 2, 0n);
    expect(raise()).to.equal(1);
  });

  it('waits after each fault until the coordinator has recorded it', async () => {
    const { link, model, context } = rig();
    model.config.registers.write(4, 2, BigInt(COMMAND_BUS_MASTER));
    let waits = 0;
    await interposed(
      'wait',
      () => {
        waits++;
        link.acknowledgeFault();
      },
      () => {
        for (let i = 0; i < 3; i++) context().dma.read(0x5000 as Iova, new Uint8Array(4));
      },
    );
    expect(waits).to.equal(3);
  });

  it('sends some violations of a kind, and the count of the others at its end', () => {
    const { link, runtime, frames, context } = rig();
    for (let i = 0; i < 20; i++) context().interrupt(-1);
    link.toDevice.push(encodeFrame(HEADER, 'deviceStop', {}));
    runtime.run(3);
    const repeats = frames().flatMap(({ kind, body }) => (kind === 'violation' ? [body.repeats] : []));
    expect(repeats).to.deep.equal([...new Array(repeats.length - 1).fill(0), 20 - (repeats.length - 1)]);
    expect(repeats.length).to.be.below(12);
  });

  it('reports faults at once, and sends a report when it is stopped', () => {
    const { link, runtime, model, frames, context } = rig();
    model.config.registers.write(4, 2, BigInt(COMMAND_BUS_MASTER));
    expect(context().dma.read(0x5000 as Iova, new Uint8Array(4))).to.not.equal(0);
    link.toDevice.push(encodeFrame(HEADER, 'deviceStop', {}));
    runtime.run(3);
    const seen = frames();
    expect(seen.map((frame) => frame.kind)).to.deep.equal(['dmaFault', 'deviceReady', 'deviceReport']);
    expect(bodyToJson(seen[0] as Frame)).to.deep.equal({ iova: 0x5000, write: false, denied: false });
    expect(bodyToJson(seen[2] as Frame)).to.include({ faults: 1, stalls: 0, pins: 0 });
    expect(model.closed).to.equal(true);
  });
});
