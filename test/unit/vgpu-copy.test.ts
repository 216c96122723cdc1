import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { CompletionStatus, GPU_PTE_PRESENT, Opcode } from '../../src/abi/vgpu/vgpu.ts';
import { PAGE_SIZE } from '../../src/memory/address.ts';
import { VgpuBus } from '../fixtures/vgpu-bus.ts';

const DATA = 0x10_0000;
const PAGES = 64;
const BYTES = PAGES * PAGE_SIZE;

const PATTERN = Uint8Array.from({ length: BYTES }, (_, i) => (i * 13 + (i >> 5) + (i >> 12)) & 0xff);

/** GPU pages 0 to 63 map 64 pages of guest RAM in order, with two of them swapped. */
class Bus extends VgpuBus {
  constructor() {
    super();
    this.program();
    for (let page = 0; page < PAGES; page++) this.pte(page, DATA + page * PAGE_SIZE);
    this.pte(20, DATA + 40 * PAGE_SIZE);
    this.pte(40, DATA + 20 * PAGE_SIZE);
  }

  fillWithPattern(): void {
    this.ram.write(DATA, PATTERN);
  }

  /** Copies, and returns the count of steps. */
  copy(source: number, target: number, length: number): number {
    this.submit({ opcode: Opcode.copy, source, target, length });
    let steps = 1;
    while (this.step() === 'more') steps++;
    return steps;
  }
}

describe('vgpu copies of adjacent host pages', function () {
  this.timeout(120_000);

  it('equal copies page by page, in as many steps, also for overlapping source and target', () => {
    const offset = fc.nat(BYTES - 1);
    const near = fc.integer({ min: -3 * PAGE_SIZE, max: 3 * PAGE_SIZE });
    const ranges = fc.oneof(
      fc.tuple(offset, offset),
      fc
        .tuple(offset, near)
        .map(([from, by]) => [from, Math.min(BYTES - 1, Math.max(0, from + by))] as const),
    );
    fc.assert(
      fc.property(ranges, fc.nat(BYTES), ([source, target], wished) => {
        const length = Math.min(wished, BYTES - Math.max(source, target));
        const [cold, warm] = [new Bus(), new Bus()];
        // This reads and writes every page, so that every page is shadowed.
        warm.do({ opcode: Opcode.fill, target: 0, length: BYTES, value: 1 });
        for (const bus of [cold, warm]) bus.fillWithPattern();
        const steps = [cold, warm].map((bus) => bus.copy(source, target, length));
        expect(steps[0]).to.equal(steps[1]);
        expect(warm.bytes(DATA, BYTES).equals(cold.bytes(DATA, BYTES))).to.equal(true);
        for (const bus of [cold, warm]) expect(bus.violations).to.deep.equal([]);
      }),
      { numRuns: 150 },
    );
  });

  it('end with a fault at the same page', () => {
    for (const isWarm of [false, true]) {
      const bus = new Bus();
      if (isWarm) bus.do({ opcode: Opcode.fill, target: 0, length: BYTES, value: 1 });
      bus.fillWithPattern();
      const before = bus.bytes(DATA, BYTES);
      bus.pte(37, 0, 0);
      bus.set('TlbInvalidate', 1);
      if (isWarm) bus.do({ opcode: Opcode.fill, target: 32 * PAGE_SIZE, length: 5 * PAGE_SIZE, value: 1 });
      const copy = { opcode: Opcode.copy, source: 0, target: 32 * PAGE_SIZE, length: 8 * PAGE_SIZE };
      expect(bus.do(copy).status).to.equal(CompletionStatus.fault);
      expect(bus.get('FaultAddress')).to.equal(37 * PAGE_SIZE);
      const after = bus.bytes(DATA, BYTES);
      const [at, end] = [32 * PAGE_SIZE, 37 * PAGE_SIZE];
      expect(after.subarray(at, end).equals(before.subarray(0, end - at)), 'up to it').to.equal(true);
      expect(after.subarray(end).equals(before.subarray(end)), 'not after it, nor page 40').to.equal(true);
    }
  });

  it('end with a fault at a read-only page that is shadowed for reads', () => {
    const bus = new Bus();
    bus.pte(33, DATA + 33 * PAGE_SIZE, GPU_PTE_PRESENT);
    for (const source of [0, 33 * PAGE_SIZE])
      bus.do({ opcode: Opcode.checksum, source, length: 3 * PAGE_SIZE });
    bus.do({ opcode: Opcode.fill, target: 32 * PAGE_SIZE, length: PAGE_SIZE });
    bus.fillWithPattern();
    const before = bus.bytes(DATA + 33 * PAGE_SIZE, PAGE_SIZE);
    const copy = { opcode: Opcode.copy, source: 0, target: 32 * PAGE_SIZE, length: 3 * PAGE_SIZE };
    expect(bus.do(copy).status).to.equal(CompletionStatus.fault);
    expect(bus.bytes(DATA + 33 * PAGE_SIZE, PAGE_SIZE).equals(before)).to.equal(true);
  });
});
