/**
 * The models `mtty` and `mdpy`, block accesses, and screenshots. UPDATE_GOLDEN=1 rewrites the golden picture.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { crc32, inflateSync } from 'node:zlib';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { modelAt, modelNames } from '../../src/coordinator/model-names.ts';
import { DeviceHarness, type Scanout } from '../../src/index.ts';
import { MODELS } from '../../src/models/index.ts';
import { Mdpy } from '../../src/models/mdpy/mdpy.ts';
import { BarSpace } from '../../src/pci/bar-allocator.ts';
import { decodeState, encodeState, StateError } from '../../src/proto/state-codec.ts';
import { encodePng } from '../../src/report/png.ts';
import { resolveModel } from '../../src/scenario/try-model.ts';

const GOLDEN_PICTURE = new URL('../data/mdpy-vga.png', import.meta.url);
const STRIDE = 640 * 4;

function enabled(model: string): DeviceHarness {
  const bus = new DeviceHarness(MODELS[model]!);
  bus.enable();
  return bus;
}

describe('serial ports', () => {
  const port = (model = 'mtty') => {
    const bus = enabled(model);
    return {
      bus,
      get: (offset: number, bar: 0 | 1 = 0) => Number(bus.read(bar, offset, 1)),
      put: (offset: number, value: number, bar: 0 | 1 = 0) => bus.write(bar, offset, 1, value),
    };
  };

  it('echo bytes in order, each port its own', () => {
    const { get, put } = port();
    put(2, 7);
    put(2, 7, 1);
    for (const byte of [1, 2, 3]) put(0, byte);
    put(0, 99, 1);
    expect([get(0), get(0, 1), get(0), get(0)]).to.deep.equal([1, 99, 2, 3]);
    expect([get(5), get(5, 1), get(0)]).to.deep.equal([0x60, 0x60, 0]);
  });

  it('interrupt on a received byte, an empty buffer and an overrun, with the cause', () => {
    const { bus, get, put } = port();
    put(2, 7);
    put(0, 1);
    expect(bus.interrupts, 'nothing enabled').to.deep.equal([]);
    put(2, 7);
    put(1, 1);
    put(0, 1);
    expect([bus.interrupts, get(2)]).to.deep.equal([[0], 0xc4]);
    put(1, 2);
    get(0);
    expect([bus.interrupts.length, get(2)]).to.deep.equal([2, 0xc2]);
    put(1, 4);
    for (let i = 0; i < 17; i++) put(0, i);
    expect([bus.interrupts.length, get(2), get(5) & 2]).to.deep.equal([3, 0xc6, 2]);
    expect(bus.metric('serial interrupts')).to.equal(3);
  });

  it('answer only in I/O space, with one or two ports, byte by byte', () => {
    const { bus, get, put } = port('mtty-1');
    put(7, 0xa5);
    expect([get(7), bus.read(0, 7, 1), bus.read(1, 7, 1)]).to.deep.equal([0xa5, 0xa5n, 0xffn]);
    put(4, 3);
    expect(bus.read(0, 4, 4), 'a wider read reaches its first register').to.equal(3n);
    expect([bus.readConfig(0x10, 4), bus.readConfig(0x14, 4)]).to.deep.equal([0xc001n, 0n]);
    bus.writeConfig(4, 2, 6n);
    expect(bus.read(0, 7, 1), 'only memory space').to.equal(0xffn);
    expect(new DeviceHarness(MODELS['mtty-2']!).read(1, 7, 1), 'enabled from the start').to.equal(0n);
  });

  it('interrupt once at the trigger, and take one byte without a FIFO', () => {
    const { bus, get, put } = port();
    put(2, 7);
    put(1, 1);
    for (let i = 0; i < 5; i++) put(0, i);
    expect(bus.interrupts, 'five bytes').to.deep.equal([0]);
    put(2, 6);
    put(0, 0x41);
    put(0, 0x42);
    expect(get(5) & 2, 'overrun').to.equal(2);
    expect(get(0)).to.equal(0x41);
    put(0, 0x43);
    expect([get(5) & 2, get(0)], 'the overrun has ended').to.deep.equal([0, 0x43]);
  });

  it('replace the divisor when it is written again', () => {
    const { get, put } = port();
    for (const divisor of [3, 0x104]) {
      put(3, 0x83);
      put(0, divisor & 0xff);
      put(1, divisor >> 8);
      expect(get(0) + get(1) * 256).to.equal(divisor);
      put(3, 3);
    }
  });
});

describe('mdpy display', () => {
  it('reports its size in the last capability, a vendor capability', () => {
    const bus = enabled('mdpy-hd');
    expect([bus.readConfig(0x34, 1), bus.readConfig(0x40, 4)]).to.deep.equal([0x40n, 0x0010_0009n]);
    expect([0x44, 0x48, 0x4c].map((at) => bus.readConfig(at, 4))).to.deep.equal([0x3432_5258n, 1920n, 1080n]);
    bus.writeConfig(0x10, 4, 0xffff_ffffn);
    expect(bus.readConfig(0x10, 4), '8 MiB, prefetchable').to.equal(0xff80_0008n);
    expect(bus.report().unimplemented).to.deep.equal([]);
  });

  it('stores writes of any size', () => {
    const bus = enabled('mdpy');
    bus.write(0, 8, 8, 0x8877_6655_4433_2211n);
    bus.write(0, 10, 2, 0xaaaa);
    bus.write(0, 13, 1, 0xbb);
    expect(bus.read(0, 8, 8)).to.equal(0x8877_bb55_aaaa_2211n);
    expect([bus.read(0, 12, 4), bus.read(0, 2 ** 21 - 4, 4)]).to.deep.equal([0x8877_bb55n, 0n]);
    expect(bus.read(0, 2 ** 21, 4), 'beyond its end').to.equal(0xffff_ffffn);
  });

  it('shows the golden picture with equal bytes twice', () => {
    const bus = enabled('mdpy');
    const square = Buffer.alloc(100 * 4);
    for (let x = 0; x < 100; x++) square.writeUInt32LE(0xff20_80e0, x * 4);
    for (let y = 200; y < 260; y++) bus.writeBlock(0, y * STRIDE + 80 * 4, square);
    const png = bus.screenshot();
    if (process.env.UPDATE_GOLDEN) writeFileSync(GOLDEN_PICTURE, png!);
    expect(Buffer.from(png!).equals(readFileSync(GOLDEN_PICTURE)), 'test/data/mdpy-vga.png').to.equal(true);
    expect(bus.screenshot()).to.deep.equal(png);
  });

  it('refuses the state of a display of another size', () => {
    const state = (width: number) => new Mdpy({ width, height: 480 }).state;
    const moved = (from: number, to: number) => () =>
      state(to).restore(decodeState(encodeState('mdpy', 1, state(from).save()), 'mdpy', 1));
    expect(moved(640, 640)).to.not.throw();
    expect(moved(640, 800)).to.throw(StateError, 'width');
    expect(moved(800, 640)).to.throw(StateError, 'width');
  });
});

describe('block accesses', () => {
  it('reach memory and registers, also registers without block support', () => {
    const bus = enabled('edu');
    bus.writeBlock(
      0,
      0x81,
      Uint8Array.from({ length: 15 }, (_, i) => i + 1),
    );
    expect(bus.read(0, 0x80, 8)).to.equal(0x0706_0504_0302_0100n);
    expect([...bus.readBlock(0, 0x7e, 20)].slice(2)).to.deep.equal([
      ...Array.from({ length: 16 }, (_, i) => i),
      0,
      0,
    ]);
  });

  it('read as ones or change nothing outside the region and without an owner', () => {
    const bus = enabled('mdpy');
    const before = bus.readBlock(0, 2 ** 21 - 8, 8);
    bus.writeBlock(0, 2 ** 21 - 8, new Uint8Array(9).fill(1));
    expect([...bus.readBlock(0, 2 ** 21 - 8, 8)]).to.deep.equal([...before]);
    expect([...bus.readBlock(0, 2 ** 21 - 1, 2), ...bus.readBlock(3, 0, 1)]).to.deep.equal([255, 255, 255]);
    bus.writeConfig(4, 2, 0n);
    expect([...bus.readBlock(0, 0, 2)]).to.deep.equal([255, 255]);
  });
});

describe('screenshots', () => {
  /** Returns the samples of a PNG whose lines are all filtered by the line above. */
  function samplesOf(png: Uint8Array): { width: number; height: number; samples: Uint8Array } {
    const bytes = Buffer.from(png);
    const chunks = new Map<string, Buffer>();
    for (let at = 8; at < bytes.length; at += 12 + bytes.readUInt32BE(at)) {
      const end = at + 8 + bytes.readUInt32BE(at);
      expect(bytes.readUInt32BE(end)).to.equal(crc32(bytes.subarray(at + 4, end)));
      chunks.set(bytes.toString('latin1', at + 4, at + 8), bytes.subarray(at + 8, end));
    }
    const header = chunks.get('IHDR')!;
    const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
    const lines = inflateSync(chunks.get('IDAT')!);
    const samples = new Uint8Array(width * height * 3);
    for (let i = 0; i < samples.length; i++) {
      const y = Math.floor(i / (width * 3));
      samples[i] = lines[i + y + 1]! + (y > 0 ? samples[i - width * 3]! : 0);
    }
    return { width, height, samples };
  }

  it('have red, green and blue in order, and skip bytes between the lines', () => {
    const pixels = Uint8Array.of(
      3,
      2,
      1,
      0,
      6,
      5,
      4,
      255,
      99,
      99,
      99,
      99,
      9,
      8,
      7,
      0,
      12,
      11,
      10,
      0,
      99,
      99,
      99,
      99,
    );
    const picture = samplesOf(encodePng({ width: 2, height: 2, stride: 12, pixels }));
    expect([picture.width, picture.height]).to.deep.equal([2, 2]);
    expect([...picture.samples]).to.deep.equal([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  });

  it('exist only for a display that shows a valid picture', () => {
    expect(enabled('edu').screenshot()).to.equal(undefined);
    let shown: unknown = { width: 0, height: 1, stride: 4, pixels: new Uint8Array(4) };
    class Broken extends Mdpy {
      override scanout(): Scanout {
        return shown as Scanout;
      }
    }
    const bus = new DeviceHarness(() => new Broken({ width: 2, height: 2 }));
    const found = [shown, { width: 2, height: 2, stride: 4, pixels: new Uint8Array(64) }];
    found.push({ width: 2, height: 2, stride: 8, pixels: new Uint8Array(15) }, null);
    for (const scanout of found) {
      shown = scanout;
      expect(bus.screenshot()).to.equal(undefined);
    }
    expect(bus.violations).to.have.length(4);
    expect(bus.violations[0]).to.equal(
      'bad-answer: scanout() returns a scanout of 0 × 1; accepted: 1 to 4096 each',
    );
    expect(bus.violations[1]).to.include('a stride of 4; accepted: 8 to 16384');
    expect(bus.violations[2]).to.include('15 bytes of pixels; accepted: 16 and more');
  });
});

describe('placement of BARs and models', () => {
  it('aligns BARs to their sizes without overlap, in memory and in I/O space', () => {
    const space = new BarSpace(1);
    const sized = [0xffff_fff1, 0xfff0_0008, 0, 0xffff_f000, 0xffff_fff9, 0xffff_ffe0];
    expect(sized.map((value) => space.place(value).toString(16))).to.deep.equal([
      'c100',
      '81000000',
      '0',
      '81100000',
      'c110',
      '81101000',
    ]);
  });

  it('leaves a gap before a large BAR that follows a small one', () => {
    const space = new BarSpace(0);
    const sized = [0xffff_f000, 0xfff0_0000, 0xffff_fff9, 0xffff_ff01];
    expect(sized.map((value) => space.place(value).toString(16))).to.deep.equal([
      '80000000',
      '80100000',
      'c000',
      'c100',
    ]);
  });

  it('assigns the models of a list to the devices in turn', () => {
    expect([0, 1, 2].map((index) => modelAt('mtty, mdpy', index))).to.deep.equal(['mtty', 'mdpy', 'mtty']);
    expect(modelNames('file:///a,b.ts')).to.deep.equal(['file:///a,b.ts']);
  });

  it('refuses a list that mixes the vgpu with other models', async () => {
    const refused = await resolveModel('mtty,vgpu').catch((error: unknown) => error);
    expect(String(refused)).to.include(
      'model mtty,vgpu: vgpu in a list; accepted: vgpu alone, or a list of others',
    );
  });
});
