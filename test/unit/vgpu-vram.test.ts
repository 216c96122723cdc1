import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { XRGB8888 } from '../../src/abi/scanout.ts';
import * as vgpu from '../../src/abi/vgpu/vgpu.ts';
import { PAGE_SIZE } from '../../src/memory/address.ts';
import { createVram, VRAM_BYTES_DEFAULT, VRAM_BYTES_LIMIT } from '../../src/models/vgpu/mmu/vram.ts';
import { VgpuBus } from '../fixtures/vgpu-bus.ts';

const RW = vgpu.GPU_PTE_PRESENT | vgpu.GPU_PTE_WRITABLE;
const VRAM = RW | vgpu.GPU_PTE_VRAM;
const RAM_DATA = 0x10_0000;
const RAM_VA = 0;
const VRAM_VA = 0x10 * PAGE_SIZE;
const { ok, fault } = vgpu.CompletionStatus;
const { Opcode, Kernel } = vgpu;
/** A frame, rounded up to whole microseconds. */
const FRAME_US = Math.ceil(1e6 / vgpu.DISPLAY_HZ);

/**
 * GPU pages 0 to 7 are guest RAM in reverse order. Pages 16 to 23 are VRAM from its third page on, in reverse order.
 */
class Bus extends VgpuBus {
  constructor() {
    super();
    this.program();
    for (let page = 0; page < 8; page++) {
      this.pte(page, RAM_DATA + (7 - page) * PAGE_SIZE);
      this.pte(16 + page, (9 - page) * PAGE_SIZE, VRAM);
    }
  }

  /** Reads GPU addresses by GPA or through the aperture. */
  gpuBytes(va: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let at = 0; at < length; at++) {
      const page = Math.floor((va + at) / PAGE_SIZE);
      const inPage = (va + at) % PAGE_SIZE;
      bytes[at] =
        page < 16
          ? this.bytes(RAM_DATA + (7 - page) * PAGE_SIZE + inPage, 1)[0]!
          : Number(this.read(2, (9 - (page - 16)) * PAGE_SIZE + inPage, 1));
    }
    return bytes;
  }

  fillWithPattern(): void {
    const noise = Buffer.from(
      Uint8Array.from({ length: 8 * PAGE_SIZE }, (_, i) => (i * 7 + (i >> 7)) & 0xff),
    );
    this.ram.write(RAM_DATA, noise);
    this.writeBlock(
      2,
      2 * PAGE_SIZE,
      noise.map((byte) => byte ^ 0x5a),
    );
  }
}

describe('VRAM in GPU page tables', () => {
  it('is filled, copied in every combination and summed, without pins', () => {
    for (const [target, source] of [
      [VRAM_VA, RAM_VA],
      [RAM_VA, VRAM_VA],
      [VRAM_VA + 4 * PAGE_SIZE, VRAM_VA],
      [RAM_VA + 4 * PAGE_SIZE, RAM_VA],
    ] as const) {
      const bus = new Bus();
      bus.fillWithPattern();
      const [from, to, length] = [source + 77, target + 1234, 2 * PAGE_SIZE + 321];
      const [meant, kept] = [bus.gpuBytes(from, length), bus.gpuBytes(target, 1234)];
      expect(bus.do({ opcode: Opcode.copy, source: from, target: to, length }).status).to.equal(ok);
      expect(bus.gpuBytes(to, length).equals(meant), `${source} to ${target}`).to.equal(true);
      expect(bus.gpuBytes(target, 1234).equals(kept), 'bytes before it').to.equal(true);
      const sum = bus.do({ opcode: Opcode.checksum, source: to, length });
      expect(sum).to.deep.equal({ status: ok, result: crc32(meant) });
    }
    const bus = new Bus();
    const fill = { opcode: Opcode.fill, target: VRAM_VA + 8, length: 2 * PAGE_SIZE, value: 0x1234_5678 };
    expect(bus.do(fill).status).to.equal(ok);
    const words = bus.gpuBytes(VRAM_VA, 2 * PAGE_SIZE + 12);
    expect([
      words.readUInt32LE(4),
      words.readUInt32LE(8),
      words.readUInt32LE(2 * PAGE_SIZE + 4),
    ]).to.deep.equal([0, 0x1234_5678, 0x1234_5678]);
    expect(words.readUInt32LE(2 * PAGE_SIZE + 8)).to.equal(0);
    expect([bus.heldPins, bus.violations, bus.faults]).to.deep.equal([0, [], []]);
  });

  it('holds operands and results of kernels, with the other operand in RAM', () => {
    for (const [target, source] of [
      [VRAM_VA, RAM_VA],
      [RAM_VA, VRAM_VA],
      [VRAM_VA, VRAM_VA + 4 * PAGE_SIZE],
    ] as const) {
      const bus = new Bus();
      bus.do({ opcode: Opcode.fill, target: source, length: 8192, value: 0x3f80_0000 }); // 1.0
      bus.do({ opcode: Opcode.fill, target, length: 8192, value: 0x4000_0000 }); // 2.0
      const scalar = 0x4040_0000; // 3.0
      const saxpy = { opcode: Opcode.compute, value: Kernel.saxpy, target, source, length: 8192, scalar };
      expect(bus.do(saxpy).status).to.equal(ok);
      expect(bus.gpuBytes(target, 8192).readFloatLE(8188)).to.equal(5);
      const sum = bus.do({ opcode: Opcode.compute, value: Kernel.sum, source: target, length: 4096 });
      expect(sum.result).to.equal(Number((0x40a0_0000n * 1024n) & 0xffff_ffffn));
    }
  });

  it('ends at VramSize; a page beyond it faults without an IOVA', () => {
    const bus = new Bus();
    const size = bus.get('VramSize');
    expect(size).to.equal(VRAM_BYTES_DEFAULT);
    bus.pte(1, size - PAGE_SIZE, VRAM);
    bus.pte(2, size, VRAM);
    bus.pte(3, 4 * PAGE_SIZE, vgpu.GPU_PTE_PRESENT | vgpu.GPU_PTE_VRAM);
    expect(bus.do({ opcode: Opcode.fill, target: PAGE_SIZE, length: 2 * PAGE_SIZE }).status).to.equal(fault);
    expect([bus.get('FaultAddress'), bus.get('FaultIova')]).to.deep.equal([2 * PAGE_SIZE, 0]);
    expect(bus.do({ opcode: Opcode.fill, target: PAGE_SIZE, length: PAGE_SIZE }).status).to.equal(ok);
    expect(bus.do({ opcode: Opcode.fill, target: 3 * PAGE_SIZE, length: 4 }).status, 'read-only').to.equal(
      fault,
    );
    expect(bus.do({ opcode: Opcode.checksum, source: 3 * PAGE_SIZE, length: 4 }).status).to.equal(ok);
    expect(bus.faults, 'no fault of the vIOMMU').to.deep.equal([]);
  });

  it('is mapped by updatePtes and the global table, and stays after an unmap of all IOVAs', () => {
    const bus = new Bus();
    const update = {
      opcode: Opcode.updatePtes,
      target: 0,
      source: 0x20_0000,
      length: 2 * PAGE_SIZE,
      value: VRAM,
    };
    expect(bus.do(update).status).to.equal(ok);
    bus.write(4, 0, 8, BigInt(0x20_1000 | VRAM));
    const context = vgpu.GLOBAL_CONTEXT;
    expect(bus.do({ opcode: Opcode.fill, context, target: 0, length: 4, value: 9 }).status).to.equal(ok);
    bus.unmap(0x10_0000, 0x8000);
    bus.model.dmaUnmap(0 as never, 2 ** 57);
    const sum = { opcode: Opcode.compute, value: Kernel.sum, source: PAGE_SIZE, length: 4 };
    expect(bus.do(sum)).to.deep.equal({ status: ok, result: 9 });
    bus.set('ApertureBase', 0x20_1000);
    expect(bus.read(2, 0, 4)).to.equal(9n);
    expect(bus.violations).to.deep.equal([]);
  });

  it('is limited to the maximum of a device, for any type', () => {
    const slot = { gpu: new SharedArrayBuffer(4), slot: 0, links: [] };
    expect(createVram({ ...slot, vramMiB: 16 * 1024 }).size).to.equal(VRAM_BYTES_LIMIT);
    expect(createVram({ ...slot, vramMiB: 2 }).size).to.equal(2 * 2 ** 20);
    const vram = createVram({ ...slot, vramMiB: 1024 });
    expect(vram.allocatedBytes, 'no chunk allocated before use').to.equal(0);
  });
});

describe('VRAM aperture', () => {
  it('moves over VRAM in pages, and reads all ones beyond its end', () => {
    const bus = new Bus();
    const size = bus.get('VramSize');
    bus.set('ApertureBase', 0x1_2345_6789);
    expect(bus.read(0, vgpu.VGPU_OFFSET.ApertureBase, 8)).to.equal(0x1_2345_6000n);
    bus.set('ApertureBase', size - 2 * PAGE_SIZE);
    bus.write(2, 2 * PAGE_SIZE - 8, 8, 0x1122_3344_5566_7788n);
    bus.write(2, 2 * PAGE_SIZE - 4, 8, 0n);
    bus.write(2, 2 * PAGE_SIZE, 4, 0n);
    expect(bus.read(2, 2 * PAGE_SIZE - 8, 8), 'a write across the end is dropped').to.equal(
      0x1122_3344_5566_7788n,
    );
    expect(bus.read(2, 2 * PAGE_SIZE - 4, 8)).to.equal(0xffff_ffff_ffff_ffffn);
    const block = bus.readBlock(2, 2 * PAGE_SIZE - 8, 16);
    expect([block[0], block[7], block[8], block[15]]).to.deep.equal([0x88, 0x11, 0xff, 0xff]);
    bus.writeBlock(2, 2 * PAGE_SIZE - 8, Buffer.alloc(16, 3));
    expect(bus.read(2, 2 * PAGE_SIZE - 8, 8)).to.equal(0x0303_0303_0303_0303n);
    bus.set('ApertureBase', size);
    expect(bus.readBlock(2, vgpu.APERTURE_BYTES - 4, 4)).to.deep.equal(new Uint8Array(4).fill(0xff));
    bus.writeBlock(2, 0, Buffer.alloc(16));
    bus.set('ApertureBase', 0);
    expect(bus.read(2, 0, 8), 'no wrap').to.equal(0n);
    expect(bus.report().unimplementedOthers).to.equal(0);
  });
});

const WIDTH = 64;
const HEIGHT = 48;
const STRIDE = 320;
const FRONT = 0x10_0000;

describe('vgpu display', () => {
  const set = (bus: Bus, mode: Partial<Record<vgpu.VgpuRegister, number>> = {}): void => {
    const whole = {
      DisplayWidth: WIDTH,
      DisplayHeight: HEIGHT,
      DisplayStride: STRIDE,
      DisplayFormat: XRGB8888,
      DisplayBase: FRONT,
      DisplayControl: vgpu.DISPLAY_ENABLE,
      ...mode,
    };
    for (const [name, value] of Object.entries(whole)) bus.set(name as vgpu.VgpuRegister, value);
  };

  it('shows the drawing of engines and aperture (display-vgpu.png)', () => {
    const bus = new Bus();
    expect(bus.screenshot(), 'off').to.equal(undefined);
    // GPU pages from 32 on hold the picture.
    for (let page = 0; page < 4; page++) bus.pte(32 + page, FRONT + page * PAGE_SIZE, VRAM);
    const va = 32 * PAGE_SIZE;
    bus.do({ opcode: Opcode.fill, target: va, length: STRIDE * HEIGHT, value: 0x0020_4060 });
    // A sprite of 16 × 16 is drawn in RAM and copied line by line; it crosses pages of the picture.
    for (let y = 0; y < 16; y++) {
      for (let x = 0; x < 16; x++)
        bus.ram.write32(RAM_DATA + 7 * PAGE_SIZE + (y * 16 + x) * 4, 0xff0000 | (y * 16 + x));
      bus.do({
        opcode: Opcode.copy,
        source: RAM_VA + y * 64,
        target: va + (4 + y) * STRIDE + 8 * 4,
        length: 64,
      });
    }
    // A copy from VRAM to VRAM, and a border drawn through the aperture.
    for (let y = 0; y < 16; y++)
      bus.do({
        opcode: Opcode.copy,
        source: va + (4 + y) * STRIDE + 8 * 4,
        target: va + (28 + y) * STRIDE + 40 * 4,
        length: 64,
      });
    bus.set('ApertureBase', FRONT);
    const white = Buffer.alloc(WIDTH * 4, 0xff);
    for (const y of [0, HEIGHT - 1]) bus.writeBlock(2, y * STRIDE, white);
    for (let y = 0; y < HEIGHT; y++)
      for (const x of [0, WIDTH - 1]) bus.write(2, y * STRIDE + x * 4, 4, 0xffffff);
    set(bus);
    const golden = fileURLToPath(new URL('../data/display-vgpu.png', import.meta.url));
    const picture = bus.screenshot()!;
    if (process.env.UPDATE_GOLDEN) writeFileSync(golden, picture);
    expect(Buffer.from(picture).equals(readFileSync(golden))).to.equal(true);
  });

  it('refuses an invalid mode, shows nothing, and reports it in its status', () => {
    const bad: Partial<Record<vgpu.VgpuRegister, number>>[] = [
      { DisplayWidth: 0 },
      { DisplayWidth: 4097, DisplayStride: 4097 * 4 },
      { DisplayHeight: 0 },
      { DisplayHeight: 4097 },
      { DisplayStride: WIDTH * 4 - 4 },
      { DisplayStride: WIDTH * 4 + 2 },
      { DisplayStride: 4096 * 4 + 4 },
      { DisplayWidth: 4096, DisplayHeight: 1025, DisplayStride: 4096 * 4 },
      { DisplayFormat: 0 },
      { DisplayBase: VRAM_BYTES_DEFAULT - PAGE_SIZE },
      { DisplayBase: 2 ** 40 },
    ];
    for (const mode of bad) {
      const bus = new Bus();
      set(bus, mode);
      expect(bus.get('DisplayStatus'), JSON.stringify(mode)).to.equal(vgpu.DISPLAY_BAD_MODE);
      expect(bus.screenshot()).to.equal(undefined);
      bus.advance(10 * FRAME_US);
      expect(bus.get('DisplayFrame'), 'no frames').to.equal(0);
      set(bus);
      expect(bus.get('DisplayStatus')).to.equal(vgpu.DISPLAY_ON);
    }
    const largest = new Bus();
    set(largest, { DisplayWidth: 4096, DisplayHeight: 1024, DisplayStride: 4096 * 4 });
    expect(largest.get('DisplayStatus'), 'at the limit').to.equal(vgpu.DISPLAY_ON);
  });

  it('counts frames at 60 Hz while it is on, and interrupts on request', () => {
    const bus = new Bus();
    set(bus);
    bus.advance(FRAME_US - 2);
    expect(bus.get('DisplayFrame')).to.equal(0);
    bus.advance(2);
    expect([bus.get('DisplayFrame'), bus.interrupts]).to.deep.equal([1, []]);
    expect(bus.get('InterruptStatus') & vgpu.INTERRUPT_VBLANK, 'masked, but in the status').to.equal(
      vgpu.INTERRUPT_VBLANK,
    );
    bus.set('InterruptMask', vgpu.INTERRUPT_FLIP);
    for (let ms = 0; ms < 1000; ms++) bus.advance(1000);
    expect(bus.get('DisplayFrame'), 'a second later').to.be.within(60, 61);
    expect(bus.interrupts).to.have.length(bus.get('DisplayFrame') - 1);
    bus.advance(1_000_000);
    expect(bus.get('DisplayFrame'), 'missed frames').to.be.within(120, 121);
    bus.set('DisplayControl', 0);
    const frames = bus.get('DisplayFrame');
    bus.advance(1_000_000);
    expect(bus.get('DisplayFrame')).to.equal(frames);
    expect([bus.get('DisplayStatus'), bus.screenshot()]).to.deep.equal([0, undefined]);
  });

  it('flips between two frames with its interrupt, and turns off for a base beyond VRAM', () => {
    const bus = new Bus();
    bus.set('ApertureBase', 0x20_0000);
    bus.writeBlock(2, 0, Buffer.alloc(STRIDE * HEIGHT, 0x77));
    set(bus);
    bus.set('InterruptMask', vgpu.INTERRUPT_VBLANK);
    const before = bus.screenshot()!;
    bus.set('DisplayBase', 0x20_0000);
    expect(bus.get('DisplayStatus')).to.equal(vgpu.DISPLAY_ON | vgpu.DISPLAY_FLIP_PENDING);
    expect(Buffer.from(bus.screenshot()!).equals(before), 'not yet').to.equal(true);
    bus.advance(FRAME_US);
    expect([bus.get('DisplayStatus'), bus.get('DisplaySurface')]).to.deep.equal([vgpu.DISPLAY_ON, 0x20_0000]);
    expect(bus.interrupts).to.deep.equal([0]);
    expect(Buffer.from(bus.screenshot()!).equals(before)).to.equal(false);
    bus.advance(FRAME_US);
    expect(bus.interrupts, 'one flip').to.deep.equal([0]);
    bus.set('DisplayBase', VRAM_BYTES_DEFAULT);
    expect([bus.get('DisplayStatus'), bus.screenshot()]).to.deep.equal([vgpu.DISPLAY_BAD_MODE, undefined]);
    bus.set('DisplayBase', FRONT);
    expect(bus.get('DisplayStatus')).to.equal(vgpu.DISPLAY_ON);
  });

  it('is turned off by a reset of the device, which keeps VRAM', () => {
    const bus = new Bus();
    set(bus);
    bus.set('ApertureBase', 0);
    bus.write(2, 0, 4, 5);
    bus.set('Control', vgpu.CONTROL_RESET);
    bus.advance(1_000_000);
    expect([bus.get('DisplayFrame'), bus.screenshot(), bus.read(2, 0, 4)]).to.deep.equal([0, undefined, 5n]);
    expect(bus.get('VramSize')).to.equal(VRAM_BYTES_DEFAULT);
  });
});
