import { expect } from 'chai';
import { describe, it } from 'mocha';
import {
  CONTROL_ENABLE,
  CONTROL_ENGINE_RESET,
  CONTROL_RESET,
  CompletionStatus,
  engineCauses,
  GPU_VA_LIMIT,
  HANG_LIMIT_US,
  INTERRUPT_HUNG,
  Kernel,
  Opcode,
  STATUS_HUNG,
  STATUS_RUNNING,
} from '../../src/abi/vgpu/vgpu.ts';
import { PAGE_SIZE } from '../../src/memory/address.ts';
import { VgpuRig } from '../fixtures/vgpu-rig.ts';

const { ok, fault, badCommand, hung } = CompletionStatus;
const DATA = 0x100000;
const PAGES = 8;
/** GPU addresses of the two buffers. */
const [X, Y] = [0, (PAGES / 2) * PAGE_SIZE];

/** Pages in reverse order of their IOVAs, so that a kernel crosses between separate pages. */
function rig(): VgpuRig {
  const gpu = new VgpuRig();
  for (let page = 0; page < PAGES; page++) gpu.pte(page * PAGE_SIZE, DATA + (PAGES - 1 - page) * PAGE_SIZE);
  gpu.enable();
  return gpu;
}

const gpaOf = (va: number): number =>
  DATA + (PAGES - 1 - Math.floor(va / PAGE_SIZE)) * PAGE_SIZE + (va % PAGE_SIZE);

const bitsOf = (value: number): number => new Uint32Array(new Float32Array([value]).buffer)[0] as number;
const floatOf = (bits: number): number => new Float32Array(new Uint32Array([bits]).buffer)[0] as number;

const compute = (gpu: VgpuRig, kernel: number, fields: Record<string, number>) =>
  gpu.run({ opcode: Opcode.compute, value: kernel, ...fields });

describe('vgpu kernels', () => {
  it('compute y = a x + y (saxpy) over pages with different offsets', () => {
    const gpu = rig();
    const count = 1500;
    const [x, y] = [X + 2048, Y + 512];
    for (let i = 0; i < count; i++) {
      gpu.ram.write32(gpaOf(x + i * 4), bitsOf(i));
      gpu.ram.write32(gpaOf(y + i * 4), bitsOf(1 / (i + 1)));
    }
    const fields = { source: x, target: y, length: count * 4, scalar: bitsOf(2.5) };
    expect(compute(gpu, Kernel.saxpy, fields)).to.include({ status: ok });
    for (let i = 0; i < count; i++)
      expect(floatOf(gpu.ram.read32(gpaOf(y + i * 4))), `${i}`).to.equal(
        Math.fround(2.5 * i + Math.fround(1 / (i + 1))),
      );
    expect(gpu.ram.read32(gpaOf(y - 4)), 'before').to.equal(0);
    expect(gpu.ram.read32(gpaOf(y + count * 4)), 'behind').to.equal(0);
  });

  it('add words modulo 2^32 (sum), and hash bytes (fnv1a)', () => {
    const gpu = rig();
    const length = 3 * PAGE_SIZE;
    let [sum, hash] = [0n, 0x811c_9dc5n];
    for (let at = 0; at < length; at += 4) {
      const word = (at * 2_654_435_761) >>> 0;
      gpu.ram.write32(gpaOf(X + at), word);
      sum += BigInt(word);
    }
    expect(compute(gpu, Kernel.sum, { source: X, length }).result).to.equal(Number(sum & 0xffff_ffffn));
    for (let at = 5; at < 5000; at++) {
      const byte = BigInt(gpu.ram.read(gpaOf(X + at), 1)[0] as number);
      hash = ((hash ^ byte) * 0x0100_0193n) & 0xffff_ffffn;
    }
    expect(compute(gpu, Kernel.fnv1a, { source: X + 5, length: 4995 }).result).to.equal(Number(hash));
    gpu.ram.write(gpaOf(X), Buffer.from('foobar'));
    const known = compute(gpu, Kernel.fnv1a, { source: X, length: 6 });
    expect(known.result, 'the published value of "foobar"').to.equal(0xbf9c_f968);
  });

  it('fault on unmapped pages, and refuse unknown kernels and misaligned operands', () => {
    const gpu = rig();
    expect(compute(gpu, Kernel.sum, { source: PAGES * PAGE_SIZE, length: 4 }).status).to.equal(fault);
    gpu.pte(Y, DATA, 1);
    expect(compute(gpu, Kernel.saxpy, { source: X, target: Y, length: 4 }).status, 'read-only').to.equal(
      fault,
    );
    const end = { target: GPU_VA_LIMIT, length: 4 };
    expect(compute(gpu, Kernel.saxpy, end).status, 'beyond the context').to.equal(badCommand);
    expect(compute(gpu, 0, { length: 4 }).status).to.equal(badCommand);
    expect(compute(gpu, 99, { length: 4 }).status).to.equal(badCommand);
    expect(compute(gpu, Kernel.sum, { source: 2, length: 4 }).status).to.equal(badCommand);
    expect(compute(gpu, Kernel.saxpy, { target: 2, length: 4 }).status).to.equal(badCommand);
    expect(gpu.violations).to.deep.equal([]);
  });
});

describe('vgpu hangs', () => {
  const spin = { opcode: Opcode.compute, value: Kernel.spin, length: 4 };

  it('stop an endless command, set STATUS_HUNG, and end with a reset of the engine', () => {
    const gpu = rig();
    const slot = gpu.submit(spin);
    gpu.ram.write32(gpaOf(X), 9);
    const next = gpu.submit({ opcode: Opcode.compute, value: Kernel.sum, source: X, length: 4 });
    expect(gpu.go()).to.equal('idle');
    expect(gpu.get('ComputeStatus')).to.equal(STATUS_RUNNING | STATUS_HUNG);
    expect(gpu.get('InterruptStatus')).to.equal(engineCauses('compute', INTERRUPT_HUNG));
    expect(gpu.completion(slot, 'compute').sequence, 'no completion yet').to.equal(0);
    expect(gpu.steps(), 'no progress').to.equal('idle');
    gpu.set('ComputeControl', 0);
    gpu.set('ComputeControl', CONTROL_ENABLE);
    expect(gpu.get('ComputeStatus'), 'no reset by disable and enable').to.equal(STATUS_RUNNING | STATUS_HUNG);
    gpu.set('ComputeControl', CONTROL_ENABLE | CONTROL_ENGINE_RESET);
    expect([gpu.get('ComputeStatus'), gpu.get('ComputeControl')]).to.deep.equal([
      STATUS_RUNNING,
      CONTROL_ENABLE,
    ]);
    expect(gpu.steps()).to.equal('idle');
    expect(gpu.completion(slot, 'compute')).to.include({ status: hung, sequence: 1 });
    expect(gpu.completion(next, 'compute')).to.deep.equal({ status: ok, result: 9, sequence: 2 });
  });

  it('start at a limit of engine time that the guest can set', () => {
    const steps = (limitUs: number) => {
      const gpu = rig();
      gpu.set('ComputeHangLimitUs', limitUs);
      gpu.submit(spin);
      gpu.ring();
      let count = 0;
      while (gpu.model.step() === 'more') count++;
      return count;
    };
    expect(steps(10_000) / steps(1000)).to.be.within(8, 12);
    const gpu = rig();
    for (const name of ['HangLimitUs', 'ComputeHangLimitUs'] as const) gpu.set(name, 5);
    gpu.set('Control', CONTROL_RESET);
    for (const name of ['HangLimitUs', 'ComputeHangLimitUs'] as const)
      expect(gpu.get(name), 'after a reset').to.equal(HANG_LIMIT_US);
  });

  it('include long commands, and end with a reset of the device', () => {
    const gpu = rig();
    for (let page = 0; page < 64; page++) gpu.pte(page * PAGE_SIZE, DATA);
    for (const name of ['HangLimitUs', 'ComputeHangLimitUs'] as const) gpu.set(name, 1);
    const short = gpu.submit({ opcode: Opcode.checksum, source: X, length: PAGES * PAGE_SIZE });
    gpu.submit({ opcode: Opcode.checksum, source: X, length: 64 * PAGE_SIZE });
    gpu.submit(spin);
    gpu.go();
    expect(gpu.completion(short), 'ended within one step').to.include({ status: ok });
    for (const name of ['Status', 'ComputeStatus'] as const)
      expect(gpu.get(name), name).to.equal(STATUS_RUNNING | STATUS_HUNG);
    gpu.set('Control', CONTROL_RESET);
    for (const name of ['Status', 'ComputeStatus'] as const) expect(gpu.get(name), name).to.equal(0);
    gpu.enable();
    Object.assign(gpu.tails, { copy: 0, compute: 0 });
    expect(gpu.run({ opcode: Opcode.nop })).to.include({ status: ok });
    const sum = { opcode: Opcode.compute, value: Kernel.sum, source: X, length: 4 };
    expect(gpu.run(sum)).to.include({ status: ok });
  });
});
