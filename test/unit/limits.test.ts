import { expect } from 'chai';
import { describe, it } from 'mocha';
import {
  CapacityError,
  checkCapacity,
  limitsOf,
  MAPS_PER_PROCESS,
  MAPS_PER_WORKER,
  thisMachine,
} from '../../src/coordinator/workers/capacity.ts';
import { parseSettings, ScenarioError, VGPUS_LIMIT, VMS_LIMIT } from '../../src/scenario/scenario.ts';

const GIB = 2 ** 30;
const SIZE = { vms: 4, vgpus: 3, processes: 1, ramBytes: 2 ** 26 };

describe('capacity check', () => {
  const machine = {
    maxMapCount: MAPS_PER_PROCESS + 4 * 4 * MAPS_PER_WORKER,
    memoryBytes: 64 * GIB,
    openFiles: 10_000,
    threads: 10_000,
  };

  it('accepts the exact capacity, and refuses one map less', () => {
    checkCapacity(SIZE, machine);
    expect(() => checkCapacity(SIZE, { ...machine, maxMapCount: machine.maxMapCount - 1 })).to.throw(
      CapacityError,
      /vm\.max_map_count is \d+: at most 3 VMs per process/,
    );
  });

  it('counts per process', () => {
    checkCapacity({ ...SIZE, vms: 8, processes: 2 }, machine);
    expect(() => checkCapacity({ ...SIZE, vms: 9, processes: 2 }, machine)).to.throw(CapacityError);
  });

  it('refuses more RAM than the limit, with both values', () => {
    expect(() => checkCapacity({ ...SIZE, ramBytes: 16 * GIB }, machine)).to.throw(
      CapacityError,
      /4 VMs of 16384 MiB RAM and 3 vGPUs may need \d+ MiB; 65536 MiB are available/,
    );
  });

  it('refuses more threads and open files than the limits', () => {
    const { threads, 'open files': files } = Object.fromEntries(
      limitsOf(SIZE, 1, machine).map((limit) => [limit.name, limit.reserved + 4 * limit.perVm]),
    ) as Readonly<Record<'threads' | 'open files', number>>;
    checkCapacity(SIZE, { ...machine, threads, openFiles: files });
    expect(() => checkCapacity(SIZE, { ...machine, threads: threads - 1 })).to.throw(
      CapacityError,
      /may need \d+ threads; \d+ are accepted here: at most 3 VMs/,
    );
    expect(() => checkCapacity(SIZE, { ...machine, openFiles: files - 1 })).to.throw(
      CapacityError,
      /may need \d+ open files; RLIMIT_NOFILE is \d+: at most 3 VMs per process/,
    );
  });

  it('accepts as many VMs as the limits have room for, and not one more', () => {
    const small = { maxMapCount: 65_530, memoryBytes: 8 * GIB, openFiles: 1024, threads: 300 };
    for (const [name, value] of Object.entries({
      maxMapCount: 9000,
      memoryBytes: GIB,
      openFiles: 300,
      threads: 60,
    }))
      for (const processes of [1, 3])
        for (const vgpus of [1, 4, 31]) {
          const limited = { ...small, [name]: value };
          const size = { vgpus, processes, ramBytes: 2 ** 26 };
          const vms = Math.min(...limitsOf(size, processes, limited).map((limit) => limit.vms));
          if (vms > 0) checkCapacity({ ...size, vms }, limited);
          expect(() => checkCapacity({ ...size, vms: vms + 1 }, limited), `${name} ${vgpus}`).to.throw(
            CapacityError,
          );
        }
  });

  it('reads limits of this machine', () => {
    const { maxMapCount, memoryBytes, openFiles, threads } = thisMachine();
    for (const value of [maxMapCount, memoryBytes, openFiles, threads]) expect(value).to.be.above(100);
  });
});

describe('scenario settings', () => {
  it('are accepted at their limits, and refused one beyond', () => {
    const base = { name: 'x' };
    expect(parseSettings({ ...base, vms: VMS_LIMIT, vgpus: VGPUS_LIMIT }).vms).to.equal(VMS_LIMIT);
    for (const [name, value] of Object.entries({
      vms: VMS_LIMIT + 1,
      vgpus: VGPUS_LIMIT + 1,
      ramMiB: 4100,
      timeoutMs: 0,
      baselineWorkers: 257,
    }))
      expect(() => parseSettings({ ...base, [name]: value }), name).to.throw(
        ScenarioError,
        new RegExp(`^${name}: `),
      );
  });

  it('refuse unknown names and values', () => {
    expect(() => parseSettings({ name: 'x', vgpu: 4 })).to.throw(ScenarioError, /vgpu/);
  });
});
