/**
 * The life of a VM at its host: which actions each state allows, and what becomes of its results.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { END_ACTION, VmLife } from '../../src/coordinator/host/vm-life.ts';
import type { VmConfig } from '../../src/coordinator/vm/config.ts';
import type { Vm } from '../../src/coordinator/vm/vm.ts';
import { type VmResult, vmResult } from '../fixtures/run-results.ts';

/** A VM that ends when it is told to. */
class FakeVm {
  readonly config: VmConfig;
  readonly devices = [{ leaving: '' }, { leaving: 'was removed' }];
  readonly asked: string[] = [];
  isHere = true;
  loadState = 'state';
  result: Promise<VmResult>;
  end: (changes?: Partial<VmResult>) => void = () => {};

  constructor(config: Partial<VmConfig>) {
    this.config = { vm: 3, bootUs: 5, lostDevices: [], loadState: '', ...config } as VmConfig;
    this.result = new Promise((resolve) => {
      this.end = (changes) => {
        this.isHere = false;
        resolve(vmResult(changes));
      };
    });
  }

  crash(): void {
    this.asked.push('crash');
  }
  shutDown(): void {
    this.asked.push('shutDown');
  }
  readonly pauses = {
    begin: async ({ stopsDevices }: { readonly stopsDevices: boolean }) => {
      this.asked.push(`pause, devices ${stopsDevices ? 'stop' : 'run'}`);
      return this.refusal;
    },
    end: async () => {
      this.asked.push('resume');
      return this.refusal;
    },
  };
  refusal = '';
  reboot = async () => 'the VM migrates';
  move = async () => '';
}

function rig() {
  const built: FakeVm[] = [];
  const removed: FakeVm[] = [];
  const closed: FakeVm[] = [];
  const first = new FakeVm({});
  const life = new VmLife(first as unknown as Vm, {
    build: (config) => {
      built.push(new FakeVm(config));
      return built.at(-1) as unknown as Vm;
    },
    run: (vm) => (vm as unknown as FakeVm).result,
    closed: (vm) => void closed.push(vm as unknown as FakeVm),
    remove: (vm) => void removed.push(vm as unknown as FakeVm),
  });
  const act = (action: string, isLast = false) =>
    life.act({ action, event: 0, to: 0, clearRam: false, isLast, stopsDevices: true });
  return { life, first, built, removed, closed, act, result: life.run(first.result) };
}

describe('life of a VM', () => {
  it('boots again after a crash, from the same configuration, and sums its results', async () => {
    const { life, first, built, removed, closed, act, result } = rig();
    const crashed = act('crash');
    first.end({ operations: 5 });
    expect(await crashed).to.equal('');
    expect([closed, removed, built]).to.deep.equal([[first], [], []]);
    expect(await act('boot')).to.equal('');
    await Promise.resolve();
    expect(removed).to.deep.equal([first]);
    const [second] = built as [FakeVm];
    expect(second.config).to.include({ vm: 3, bootUs: 0, loadState: 'state' });
    expect(second.config.lostDevices, 'a device that its host took away').to.deep.equal(['', 'was removed']);
    life.booted();
    second.end({ operations: 7 });
    expect((await result).operations).to.equal(12);
    expect(life.vm).to.equal(second as unknown);
  });

  it('refuses what its state does not allow, and names both', async () => {
    const { life, first, act } = rig();
    expect(await act('boot')).to.equal('the VM is booting; accepted: a VM that has crashed or is off');
    expect(await act('migrate')).to.equal('the VM is booting; accepted: a VM that is running');
    life.booted();
    expect(await act('boot')).to.equal('the VM is running; accepted: a VM that has crashed or is off');
    expect(await act('migrate')).to.equal('');
    expect(await act('reboot'), 'a refusal of the VM itself').to.equal('the VM migrates');
    const off = act('shutdown');
    expect(await act('crash')).to.equal('the VM is being closed already');
    first.end();
    await off;
    expect(await act('crash')).to.equal(
      'the VM is off; accepted: a VM that is booting or is running or is paused',
    );
    expect(first.asked).to.deep.equal(['shutDown']);
  });

  it('resumes or crashes after a pause, and does nothing else', async () => {
    const { life, first, act, result } = rig();
    expect(await act('pause')).to.equal('the VM is booting; accepted: a VM that is running');
    life.booted();
    first.refusal = 'no answer';
    expect(await act('pause'), 'a refusal of the VM itself').to.equal('no answer');
    first.refusal = '';
    expect(await act('resume')).to.equal('the VM is running; accepted: a VM that is paused');
    expect(await act('pause')).to.equal('');
    for (const action of ['pause', 'migrate', 'reboot', 'shutdown'])
      expect(await act(action)).to.include('the VM is paused; accepted: ');
    expect(await act('resume')).to.equal('');
    expect(await act('pause')).to.equal('');
    const crashed = act('crash', true);
    first.end();
    expect(await crashed).to.equal('');
    await result;
    const pause = 'pause, devices stop';
    expect(first.asked).to.deep.equal([pause, pause, 'resume', pause, 'crash']);
  });

  it('ends with a crash or shutdown after which it does not boot', async () => {
    for (const how of ['crash', 'shutdown']) {
      const { first, act, result, built } = rig();
      const done = act(how, true);
      first.end({ operations: 1 });
      expect(await done).to.equal('');
      expect([(await result).operations, built]).to.deep.equal([1, []]);
      expect(await act('boot')).to.include('the VM has ended');
    }
  });

  it('does not wait for a boot that will not come', async () => {
    const { first, act, result } = rig();
    const done = act('crash');
    first.end();
    await done;
    expect(await act(END_ACTION)).to.equal('');
    await result;
  });

  it('is not closed here if it moves or is lost meanwhile', async () => {
    for (const [changes, why] of [
      [{ moved: true }, 'the VM has moved'],
      [{ lost: 'for a reason' }, 'the VM has ended'],
    ] as const) {
      const { first, act, result } = rig();
      const done = act('crash');
      first.end(changes);
      expect(await done).to.equal(why);
      expect(await result).to.include(changes);
    }
  });
});
