/**
 * Reset of a device's function by its host: the platform resets, and the guest that used the device has gone.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { REGION_BAR0 } from '../../src/channel/mmio-channel.ts';
import { DeviceControl } from '../../src/coordinator/vm/device-control.ts';
import { MetricSet } from '../../src/device/metrics.ts';
import type { FrameKind } from '../../src/proto/codec.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { runtimeRig } from '../fixtures/migrating-runtime.ts';

describe('reset of a device by its host', () => {
  it('ends the model and makes a new one with reset values', () => {
    const { runtime, post, answer, port, model } = runtimeRig();
    void port.write(REGION_BAR0, 0, 4, 9n);
    runtime.turn(0);
    const before = model();
    expect(before.registers.get('Mode')).to.equal(9n);
    post('deviceReset', {});
    answer('deviceResetDone');
    expect([before.closed, model() === before, model().registers.get('Mode')]).to.deep.equal([
      true,
      false,
      7n,
    ]);
  });

  it('drops the accesses that the guest has posted before', () => {
    const { post, answer, port, model, runtime } = runtimeRig();
    post('deviceReset', {});
    // More than the device serves before the reset.
    for (let i = 0; i < 200; i++) void port.write(REGION_BAR0, 0, 4, 9n);
    answer('deviceResetDone');
    runtime.turn(0);
    expect(model().registers.get('Mode')).to.equal(7n);
    void port.write(REGION_BAR0, 0, 4, 10n);
    runtime.turn(0);
    expect(model().registers.get('Mode')).to.equal(10n);
  });

  it('does not reset the counters of the report', () => {
    const metrics = new MetricSet();
    metrics.keep({ commands: 5, bytes: 100 });
    metrics.keep({ commands: 2, bad: Number.NaN });
    const read = metrics.collect({ commands: 1, bytes: 1, bad: 0 }, (text) => expect.fail(text));
    expect(read).to.deep.equal([
      { name: 'commands', value: 8 },
      { name: 'bytes', value: 101 },
      { name: 'bad', value: 0 },
    ]);
  });

  it('is complete for the coordinator when the device has answered', async () => {
    const sent: FrameKind[] = [];
    const control = new DeviceControl({
      name: 'vm0/gpu0',
      send: <K extends FrameKind>(kind: K, _body: FrameBodies[K]) => sent.push(kind) > 0,
    });
    let isComplete = false;
    const reset = control.reset().then(() => {
      isComplete = true;
    });
    await Promise.resolve();
    expect([sent, isComplete]).to.deep.equal([['deviceReset'], false]);
    control.answered({
      header: { timeUs: 0, process: 0, vm: 0, device: 0 },
      kind: 'deviceResetDone',
      body: {},
    });
    await reset;
    expect(isComplete).to.equal(true);
  });
});
