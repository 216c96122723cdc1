/**
 * Serial execution of a vIOMMU's commands.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { Completion } from '../../src/platform/completion.ts';
import { CommandSerial } from '../../src/viommu/command-serial.ts';

/** Returns a promise and the function that settles it. */
function open() {
  let [resolve, reject] = [() => {}, (_error: Error) => {}];
  const work = new Promise<void>((done, failed) => {
    [resolve, reject] = [done, failed];
  });
  return { work, resolve, reject };
}

describe('commands in series', () => {
  it('run at once while none is pending, and each after its predecessor', async () => {
    const serial = new CommandSerial();
    const done: string[] = [];
    const command = (name: string, work?: Completion) => () => {
      done.push(name);
      return work;
    };
    const first = open();
    serial.run(command('at once'));
    serial.run(command('first', first.work));
    const second = serial.run(command('second'));
    expect([done, serial.waiting, serial.busy]).to.deep.equal([['at once', 'first'], 1, true]);
    first.resolve();
    await second;
    expect([done.at(-1), serial.waiting]).to.deep.equal(['second', 0]);
    await Promise.resolve();
    expect(serial.busy).to.equal(false);
  });

  it('do not run in the middle of the one that causes them', async () => {
    const serial = new CommandSerial();
    const done: string[] = [];
    let inner: Completion;
    serial.run(() => {
      inner = serial.run(() => {
        done.push('inner');
        return undefined;
      });
      done.push('outer');
      return undefined;
    });
    await inner;
    expect(done).to.deep.equal(['outer', 'inner']);
  });

  it('run after one that failed, which only its caller notices', async () => {
    const serial = new CommandSerial();
    const first = open();
    const failed = serial.run(() => first.work)?.catch((error: Error) => error.message);
    const next = serial.run(() => undefined);
    first.reject(new Error('no'));
    expect(await failed).to.equal('no');
    await next;
    await Promise.resolve();
    let ran = false;
    serial.run(() => {
      ran = true;
      return undefined;
    });
    expect([ran, serial.busy]).to.deep.equal([true, false]);
  });
});
