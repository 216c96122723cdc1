import { expect } from 'chai';
import { describe, it } from 'mocha';
import { MigrationStateError } from '../../src/device/migration/migration.ts';
import { MigrationState, migrationStateName } from '../../src/device/migration/states.ts';
import { COMMAND_BUS_MASTER, MSI_CAPABILITY } from '../../src/pci/config-space.ts';
import { StateError } from '../../src/proto/state-codec.ts';
import { drain, type GadgetRig, gadget, saved } from '../fixtures/migrating-device.ts';

const { ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY } = MigrationState;

const stateOf = ({ device }: GadgetRig): string => migrationStateName(device.migrationState);
const isTracking = ({ model }: GadgetRig): boolean[] => [model.vram.tracking, model.window.tracking];

/** Returns a target that has received a stream. */
function restored(stream: Uint8Array): GadgetRig {
  const target = gadget({}, true);
  target.device.writeData(stream);
  target.device.setMigrationState(RUNNING);
  return target;
}

describe('stopped device', () => {
  it('runs no steps and no timers until it runs again', () => {
    const rig = gadget();
    const rang: number[] = [];
    rig.model.context.timers.after(10, () => rang.push(rig.environment.nowUs));
    for (const state of [STOP, STOP_COPY]) {
      rig.device.setMigrationState(state);
      rig.environment.nowUs += 100;
      expect([rig.device.step(), rig.device.running, rig.device.waitUs]).to.deep.equal([
        'idle',
        false,
        Number.POSITIVE_INFINITY,
      ]);
      expect([rig.model.steps, rang]).to.deep.equal([0, []]);
    }
    rig.device.setMigrationState(RUNNING);
    expect([rig.device.waitUs, rig.device.step(), rig.model.steps, rang]).to.deep.equal([
      0,
      'idle',
      1,
      [200],
    ]);
    rig.device.setMigrationState(PRE_COPY);
    rig.device.step();
    expect([rig.model.steps, rig.device.running]).to.deep.equal([2, true]);
  });

  it('is notified once at each stop', () => {
    const rig = gadget();
    const suspensions = [STOP, STOP_COPY, STOP, RUNNING, PRE_COPY, STOP_COPY, RUNNING, PRE_COPY, RUNNING].map(
      (state) => {
        rig.device.setMigrationState(state);
        return rig.model.suspended;
      },
    );
    expect(suspensions).to.deep.equal([1, 1, 1, 1, 1, 2, 2, 2, 2]);
  });

  it('reports an interrupt as a violation of its model', () => {
    const rig = gadget();
    rig.model.config.registers.write(4, 2, BigInt(COMMAND_BUS_MASTER));
    rig.model.config.registers.write(MSI_CAPABILITY + 2, 2, 1n);
    rig.model.context.interrupt(0);
    rig.device.setMigrationState(STOP);
    rig.model.context.interrupt(0);
    expect(rig.environment.interrupts).to.deep.equal([0]);
    expect(rig.environment.violations).to.deep.equal([
      'bad-interrupt: raises interrupt 0 in STOP; accepted: while it runs',
    ]);
  });

  it('keeps its pins, and drops them on request', () => {
    const rig = gadget();
    rig.model.pin(0x1000);
    saved(rig);
    rig.device.setMigrationState(STOP);
    expect(rig.device.dma.heldPins).to.equal(1);
    rig.device.setMigrationState(RUNNING);
    expect(rig.device.dma.heldPins).to.equal(1);
    rig.device.setMigrationState(STOP);
    expect([rig.device.dmaUnmap(0x1000 as never, 0x1000), rig.device.dma.heldPins]).to.deep.equal([1, 0]);
  });
});

describe('migration states of an instance', () => {
  it('refuse a transition that does not exist, without any change', () => {
    const rig = gadget();
    expect(() => rig.device.setMigrationState(RUNNING_P2P)).to.throw(
      MigrationStateError,
      /RUNNING to RUNNING_P2P/,
    );
    rig.device.setMigrationState(STOP_COPY);
    expect(() => rig.device.setMigrationState(PRE_COPY)).to.throw(
      MigrationStateError,
      /STOP_COPY to PRE_COPY/,
    );
    expect(() => rig.device.setMigrationState(ERROR)).to.throw(MigrationStateError);
    expect(() => rig.device.setMigrationState(99)).to.throw(MigrationStateError, /to 99/);
    expect([stateOf(rig), isTracking(rig)]).to.deep.equal(['STOP_COPY', [true, true]]);
  });

  it('refuse saving states for a model without state, with its name', () => {
    const rig = gadget({ state: null });
    for (const state of [PRE_COPY, STOP_COPY])
      expect(() => rig.device.setMigrationState(state)).to.throw(
        MigrationStateError,
        "cannot be migrated: the model 'gadget' has no `state`",
      );
    expect([stateOf(rig), isTracking(rig)]).to.deep.equal(['RUNNING', [false, false]]);
    rig.device.setMigrationState(STOP);
    rig.device.setMigrationState(RUNNING);
  });

  it('allow reads and writes of data only where they apply', () => {
    const rig = gadget();
    expect(() => rig.device.readData(1)).to.throw(MigrationStateError, 'has no data to read in RUNNING');
    expect(() => rig.device.writeData(Uint8Array.of(1))).to.throw(
      MigrationStateError,
      'takes no data in RUNNING',
    );
    rig.device.setMigrationState(PRE_COPY);
    expect(() => rig.device.writeData(Uint8Array.of(1))).to.throw(MigrationStateError, 'in PRE_COPY');
    expect(stateOf(rig)).to.equal('PRE_COPY');
  });

  it('keep a dirty log only during a migration, however it ends', () => {
    const rig = gadget();
    const ways = [
      [PRE_COPY, RUNNING],
      [PRE_COPY, STOP_COPY, STOP],
      [STOP_COPY, RUNNING],
      [PRE_COPY, STOP],
    ] as const;
    for (const way of ways) {
      for (const state of way) {
        expect(isTracking(rig)).to.deep.equal(state === way[0] ? [false, false] : [true, true]);
        rig.device.setMigrationState(state);
      }
      expect(isTracking(rig), way.join()).to.deep.equal([false, false]);
    }
  });

  it('start again with the first pass after an aborted migration', () => {
    const rig = gadget();
    rig.device.setMigrationState(PRE_COPY);
    const first = drain(rig);
    rig.device.setMigrationState(RUNNING);
    rig.device.setMigrationState(PRE_COPY);
    expect(Buffer.from(drain(rig)).equals(first)).to.equal(true);
  });

  it('become ERROR at an incomplete stream, and stay so until a reset', () => {
    const stream = saved(gadget());
    const rig = gadget({}, true);
    expect(stateOf(rig)).to.equal('RESUMING');
    rig.device.writeData(stream.subarray(0, stream.length - 3));
    expect(() => rig.device.setMigrationState(RUNNING)).to.throw(StateError, 'accepted: header to end');
    for (const state of [STOP, RUNNING, RESUMING, STOP_COPY])
      expect(() => rig.device.setMigrationState(state)).to.throw(
        MigrationStateError,
        /from ERROR \(device state: ends after .*\) to .*; accepted: a reset/,
      );
    expect([stateOf(rig), rig.device.running, rig.device.step()]).to.deep.equal(['ERROR', false, 'idle']);
    const before = rig.model;
    rig.device.reset();
    expect([stateOf(rig), rig.model === before, before.closed]).to.deep.equal(['RUNNING', false, true]);
    rig.device.setMigrationState(RESUMING);
    rig.device.writeData(stream);
    rig.device.setMigrationState(RUNNING);
    expect(stateOf(rig)).to.equal('RUNNING');
  });

  it('end the log and the stream at an error and at a reset', () => {
    const failing = gadget();
    failing.device.setMigrationState(PRE_COPY);
    failing.model.suspend = () => {
      throw new Error('no');
    };
    expect(() => failing.device.setMigrationState(STOP_COPY)).to.throw('no');
    expect([stateOf(failing), ...isTracking(failing)]).to.deep.equal(['ERROR', false, false]);
    const reset = gadget();
    reset.device.setMigrationState(PRE_COPY);
    reset.device.reset();
    expect(() => reset.device.readData(100)).to.throw(MigrationStateError, 'no data to read in RUNNING');
  });

  it('become ERROR at garbage, with the reason', () => {
    const rig = gadget({}, true);
    expect(() => rig.device.writeData(Uint8Array.of(3, 1, 2, 3))).to.throw(StateError, 'not a record');
    expect(() => rig.device.writeData(saved(gadget()))).to.throw(
      MigrationStateError,
      /takes no data in ERROR \(device state: not a record/,
    );
    expect(isTracking(rig)).to.deep.equal([false, false]);
  });

  it('recreate a device that has run before it restores another', () => {
    const rig = gadget();
    rig.model.registers.write(0, 4, 99n);
    rig.model.window.write(0, 4, 1n);
    rig.model.level = 9;
    rig.model.context.timers.after(5, () => expect.fail('a timer of the old model'));
    const old = rig.model;
    rig.device.setMigrationState(RESUMING);
    expect([old.closed, rig.model === old]).to.deep.equal([true, false]);
    rig.device.writeData(saved(gadget()));
    rig.device.setMigrationState(RUNNING);
    rig.environment.nowUs += 10;
    rig.device.step();
    const { registers, window, level } = rig.model;
    expect([registers.get32('Mode'), window.read(0, 4), level]).to.deep.equal([7, 0n, 0]);
  });

  it('stay unchanged when a model cannot save its state, and the device can continue', () => {
    let fails = true;
    const rig = gadget({
      state: {
        save: () => {
          if (fails) throw new TypeError('not now');
          return { level: 3 };
        },
      },
    });
    rig.model.window.store(5, Buffer.alloc(30_000, 5));
    rig.device.setMigrationState(STOP_COPY);
    const pieces: Uint8Array[] = [];
    const readOn = () => {
      for (let end = false; !end; ) {
        const part = rig.device.readData(100_000);
        pieces.push(part.data);
        end = part.end;
      }
    };
    for (let tries = 0; tries < 3; tries++)
      expect(readOn).to.throw(StateError, 'state of 1234:9999 cannot be saved: TypeError: not now');
    expect(stateOf(rig)).to.equal('STOP_COPY');
    fails = false;
    readOn();
    const { model } = restored(Buffer.concat(pieces));
    expect([model.level, model.window.read(30_004, 1), model.window.read(30_005, 1)]).to.deep.equal([
      3,
      5n,
      0n,
    ]);
    rig.device.setMigrationState(RUNNING);
    expect(restored(saved(rig)).model.level).to.equal(3);
  });
});
