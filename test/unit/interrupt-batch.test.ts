import { expect } from 'chai';
import { describe, it } from 'mocha';
import { VGPU_IDENTITY } from '../../src/abi/vgpu/vgpu.ts';
import { DeviceLink, RING_CONTROL, RING_MMIO } from '../../src/channel/device-link.ts';
import { BATCH_LIMIT, HOLD_US, InterruptBatch } from '../../src/device/interrupt-batch.ts';
import type { DeviceContext, DeviceModel, StepResult } from '../../src/device/model.ts';
import { DeviceRuntime } from '../../src/device/runtime.ts';
import {
  COMMAND_BUS_MASTER,
  COMMAND_MEMORY_SPACE,
  ConfigSpace,
  MSI_CAPABILITY,
  MSI_CONTROL_ENABLE,
} from '../../src/pci/config-space.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { encodeFrame } from '../../src/proto/codec.ts';
import { RegisterFile } from '../../src/registers/register-file.ts';
import { deviceTask, HEADER } from '../fixtures/migrating-runtime.ts';

/** A batch on a link, with a clock that the test sets. */
function batchRig() {
  const link = new DeviceLink();
  const clock = { us: 1000 };
  return { link, clock, batch: new InterruptBatch(link, () => clock.us) };
}

/** A model that raises an interrupt in each step and has work left for `left` more steps. */
class Busy implements DeviceModel {
  readonly config = new ConfigSpace(VGPU_IDENTITY);
  readonly bars = { 0: new RegisterFile<string>(64, [{ name: 'Scratch', offset: 0, size: 4 }]) };
  readonly #context: DeviceContext;
  left = 0;

  constructor(context: DeviceContext) {
    this.#context = context;
    this.config.registers.write(4, 2, BigInt(COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER));
    this.config.registers.write(MSI_CAPABILITY + 2, 2, BigInt(MSI_CONTROL_ENABLE));
  }

  step(): StepResult {
    if (this.left === 0) return 'idle';
    this.#context.interrupt(0);
    return --this.left > 0 ? 'more' : 'idle';
  }

  dmaUnmap(): void {}
  close(): void {}
}

function busyRig(steps: number) {
  const link = new DeviceLink();
  let model: Busy | undefined;
  const runtime = new DeviceRuntime(
    deviceTask(link, new PinTableWriter(4), 'busy'),
    { ring: () => {} },
    (context) => {
      model = new Busy(context);
      return model;
    },
  );
  (model as Busy).left = steps;
  const { events } = link;
  return { link, turn: () => runtime.turn(0), seen: () => [link.interrupts(0), link.events - events] };
}

describe('InterruptBatch', () => {
  it('counts each interrupt by vector and wakes the guest once', () => {
    const { link, batch } = batchRig();
    const { events } = link;
    for (const vector of [0, 31, 0, 5]) batch.add(vector);
    expect(link.interrupts(0), 'before the delivery').to.equal(0);
    batch.deliver();
    batch.deliver();
    expect([0, 5, 31].map((vector) => link.interrupts(vector))).to.deep.equal([2, 1, 1]);
    expect(link.events - events).to.equal(1);
  });

  it('is due at its limit of interrupts and at its limit of time, and empty afterwards', () => {
    const { clock, batch } = batchRig();
    for (let i = 1; i < BATCH_LIMIT; i++) batch.add(0);
    expect(batch.isDue).to.equal(false);
    batch.add(0);
    expect(batch.isDue).to.equal(true);
    batch.deliver();
    clock.us += 10 * HOLD_US;
    expect(batch.isDue, 'nothing pending').to.equal(false);
    batch.add(0);
    clock.us += HOLD_US - 1;
    expect(batch.isDue).to.equal(false);
    clock.us++;
    expect(batch.isDue).to.equal(true);
  });
});

describe('interrupts of a busy device', () => {
  it('are delivered at the latest when it has no more work', () => {
    const { turn, seen } = busyRig(3);
    turn();
    turn();
    turn();
    const [count, wakes] = seen();
    expect(count).to.equal(3);
    expect(wakes).to.be.within(1, 3);
  });

  it('are delivered at the latest when a batch is full', () => {
    const { turn, seen } = busyRig(1000);
    for (let i = 0; i < 5 * BATCH_LIMIT; i++) {
      turn();
      const [count] = seen();
      expect(i + 1 - (count as number), `after ${i + 1} steps`).to.be.within(0, BATCH_LIMIT - 1);
    }
    const [, wakes] = seen();
    expect(wakes).to.be.at.least(5);
  });

  it('come before the answer to a later read', async () => {
    const { link, turn, seen } = busyRig(1000);
    turn();
    const port = link.mmioPort();
    const read = port.read(0, 0, 4);
    await Promise.resolve();
    turn();
    await read;
    expect(seen()[0]).to.be.at.least(1);
  });

  for (const sender of [RING_MMIO, RING_CONTROL])
    it(`come before anything that a ring of doorbell ${sender} asks for`, () => {
      const { link, turn, seen } = busyRig(1000);
      turn();
      link.doorbell.ring(sender);
      turn();
      expect(seen()[0]).to.be.at.least(1);
    });

  it('come before the last frame of a device that is stopped', () => {
    const { link, turn, seen } = busyRig(1000);
    turn();
    link.toDevice.push(encodeFrame(HEADER, 'deviceStop', {}));
    link.doorbell.ring(RING_CONTROL);
    turn();
    expect(seen()[0]).to.be.at.least(1);
  });
});
