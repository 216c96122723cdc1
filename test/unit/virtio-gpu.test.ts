/**
 * virtio-gpu: resources, backing memory and its pins, the display, the cursor, and requests that no driver sends.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { GpuCommand, GpuResponse, type Rect } from '../../src/abi/virtio-gpu.ts';
import { BACKING_PAGES_LIMIT, RESOURCE_BYTES_LIMIT } from '../../src/models/virtio-gpu/commands.ts';
import { edidOf } from '../../src/models/virtio-gpu/edid.ts';
import { GpuTestDriver } from '../fixtures/virtio-gpu-commands.ts';
import { BUFFERS, DEVICE_CONFIG, IOVA_BASE } from '../fixtures/virtio-pci-driver.ts';
import { decodePng } from '../support/png.ts';

const PAGE = 4096;
/** GPA of the backing memory. */
const MEMORY = 0x10_0000;
const [WIDTH, HEIGHT] = [40, 30];
const BYTES = WIDTH * HEIGHT * 4;
const WHOLE: Rect = { x: 0, y: 0, width: WIDTH, height: HEIGHT };

/** Stores an XRGB8888 picture whose pixels are `colour(x, y)`. */
function paint(driver: GpuTestDriver, colour: (x: number, y: number) => number, at = MEMORY): void {
  for (let y = 0; y < HEIGHT; y++)
    for (let x = 0; x < WIDTH; x++) driver.bus.ram.write32(at + 4 * (y * WIDTH + x), colour(x, y));
}

const gradient = (x: number, y: number): number => (x * 5 * 0x1_0000 + y * 7 * 0x100 + x + y) >>> 0;

/** Returns the displayed colours: 0xrrggbb. */
function shown(driver: GpuTestDriver): (x: number, y: number) => number {
  const { width, pixels } = decodePng(driver.bus.screenshot()!);
  return (x, y) => pixels.readUIntBE(3 * (y * width + x), 3);
}

/** Returns a driver with resource 1, whose backing memory is the range at MEMORY. */
function withResource(format = 2): GpuTestDriver {
  const driver = new GpuTestDriver();
  expect(driver.create(1, WIDTH, HEIGHT, format)).to.equal('okNoData');
  expect(driver.attach(1, [{ iova: IOVA_BASE + MEMORY, length: BYTES }])).to.equal('okNoData');
  return driver;
}

describe('a virtio-gpu', () => {
  it('shows a picture from guest memory, as it was when it was transferred and flushed', () => {
    const driver = withResource();
    paint(driver, gradient);
    expect(driver.transfer(1, WHOLE)).to.equal('okNoData');
    expect(driver.scanOut(1, WHOLE)).to.equal('okNoData');
    const first = shown(driver);
    for (const [x, y] of [
      [0, 0],
      [39, 0],
      [7, 29],
    ] as const)
      expect(first(x, y)).to.equal(gradient(x, y));
    paint(driver, () => 0xff);
    const part = { x: 4, y: 8, width: 10, height: 2 };
    expect(driver.transfer(1, part, 4 * (8 * WIDTH + 4))).to.equal('okNoData');
    expect(shown(driver)(4, 8), 'before the flush').to.equal(gradient(4, 8));
    expect(driver.flush(1, part)).to.equal('okNoData');
    const second = shown(driver);
    expect([second(4, 8), second(13, 9), second(3, 8), second(14, 8), second(4, 10)]).to.deep.equal([
      0xff,
      0xff,
      gradient(3, 8),
      gradient(14, 8),
      gradient(4, 10),
    ]);
    driver.bus.close();
  });

  it('shows a part of a resource, and nothing when it is switched off, destroyed or reset', () => {
    const driver = withResource();
    paint(driver, gradient);
    driver.transfer(1, WHOLE);
    const part = { x: 10, y: 5, width: 20, height: 10 };
    expect(driver.scanOut(1, part)).to.equal('okNoData');
    expect(decodePng(driver.bus.screenshot()!)).to.include({ width: 20, height: 10 });
    expect(shown(driver)(0, 0)).to.equal(gradient(10, 5));
    driver.scanOut(0, WHOLE);
    expect(driver.bus.screenshot()).to.equal(undefined);
    driver.scanOut(1, part);
    driver.unref(1);
    expect(driver.bus.screenshot()).to.equal(undefined);
    driver.bus.close();
  });

  it('shows each format with the same colours', () => {
    const order: Readonly<Record<number, string>> = {
      1: 'BGRA',
      2: 'BGRA',
      3: 'ARGB',
      4: 'ARGB',
      67: 'RGBA',
      68: 'ABGR',
      121: 'ABGR',
      134: 'RGBA',
    };
    for (const [format, bytes] of Object.entries(order)) {
      const driver = withResource(Number(format));
      const value = { R: 0x12, G: 0x34, B: 0x56, A: 0x78 };
      for (let at = 0; at < BYTES; at += 4)
        driver.bus.ram.write(MEMORY + at, Uint8Array.from([...bytes].map((c) => value[c as 'R'])));
      driver.transfer(1, WHOLE);
      driver.scanOut(1, WHOLE);
      expect(shown(driver)(5, 5), format).to.equal(0x12_3456);
      driver.bus.close();
    }
  });

  it('pins its backing memory while it is attached, and reads pieces that begin anywhere', () => {
    const driver = new GpuTestDriver();
    driver.create(1, WIDTH, HEIGHT);
    // Pieces in reverse order, which end and begin within pages.
    const cut = 1000;
    const pieces = [
      { iova: IOVA_BASE + MEMORY + 5 * PAGE + 100, length: cut },
      { iova: IOVA_BASE + MEMORY + 2000, length: BYTES - cut },
    ];
    expect(driver.attach(1, pieces)).to.equal('okNoData');
    expect(driver.bus.heldPins).to.equal(3);
    const picture = Buffer.alloc(BYTES);
    for (let i = 0; i < BYTES; i += 4)
      picture.writeUInt32LE(gradient((i / 4) % WIDTH, Math.floor(i / 4 / WIDTH)), i);
    driver.bus.ram.write(MEMORY + 5 * PAGE + 100, picture.subarray(0, cut));
    driver.bus.ram.write(MEMORY + 2000, picture.subarray(cut));
    driver.transfer(1, WHOLE);
    driver.scanOut(1, WHOLE);
    const colour = shown(driver);
    for (let y = 0; y < HEIGHT; y++)
      for (let x = 0; x < WIDTH; x++) expect(colour(x, y)).to.equal(gradient(x, y));
    expect(driver.attach(1, pieces), 'twice').to.equal('errUnspec');
    expect(driver.detach(1)).to.equal('okNoData');
    expect(driver.bus.heldPins).to.equal(0);
    expect(driver.transfer(1, WHOLE)).to.equal('errUnspec');
    driver.attach(1, pieces);
    driver.unref(1);
    expect(driver.bus.heldPins).to.equal(0);
    driver.create(1, WIDTH, HEIGHT);
    driver.attach(1, pieces);
    driver.start(2);
    expect(driver.bus.heldPins, 'after a reset').to.equal(0);
    driver.bus.close();
  });

  it('drops the pins of pages that are unmapped, and pins them again when they are mapped', () => {
    const driver = withResource();
    expect(driver.bus.heldPins).to.equal(2);
    expect(driver.bus.unmap(IOVA_BASE + MEMORY, PAGE)).to.equal(1);
    expect(driver.transfer(1, WHOLE)).to.equal('errUnspec');
    expect(driver.bus.faults).to.deep.equal([{ iova: IOVA_BASE + MEMORY, write: false, denied: false }]);
    const other = MEMORY + 0x10_0000;
    driver.bus.map({ iova: IOVA_BASE + MEMORY, gpa: other, size: PAGE });
    driver.bus.ram.write32(other, 0xabcdef);
    expect(driver.transfer(1, WHOLE)).to.equal('okNoData');
    driver.scanOut(1, WHOLE);
    expect(shown(driver)(0, 0)).to.equal(0xabcdef);
    expect(driver.bus.heldPins).to.equal(2);
    driver.bus.close();
  });

  it('waits with a transfer while the address space is switched, and attaches once', () => {
    const driver = new GpuTestDriver({ map: [{ iova: IOVA_BASE, gpa: 0, size: MEMORY }] });
    driver.create(1, WIDTH, HEIGHT);
    const attach = driver.command(GpuCommand.resourceAttachBacking, 1, 1, IOVA_BASE + MEMORY, 0, BYTES, 0);
    driver.bus.switching(true);
    driver.offer(0, [attach, 24]);
    expect(driver.bus.run()).to.equal('stalled');
    driver.bus.map({ iova: IOVA_BASE + MEMORY, gpa: MEMORY, size: 4 * PAGE });
    driver.bus.switching(false);
    driver.bus.run();
    expect(driver.taken(0)).to.equal(24);
    expect(driver.bus.ram.read32(BUFFERS + 48)).to.equal(GpuResponse.okNoData);
    expect(driver.bus.heldPins).to.equal(2);
    driver.detach(1);
    driver.bus.close();
  });

  it('draws a cursor over the picture, by its alpha', () => {
    const driver = withResource();
    paint(driver, () => 0x80_8080);
    driver.transfer(1, WHOLE);
    driver.scanOut(1, WHOLE);
    driver.create(2, 64, 64, 1);
    const sprite = MEMORY + 0x8000;
    driver.bus.ram.write32(sprite, 0xff00_ff00);
    driver.bus.ram.write32(sprite + 4, 0x8000_0040);
    driver.attach(2, [{ iova: IOVA_BASE + sprite, length: 64 * 64 * 4 }]);
    driver.transfer(2, { x: 0, y: 0, width: 64, height: 64 });
    const update = (...fields: readonly number[]) =>
      driver.respond(driver.command(GpuCommand.updateCursor, ...fields), 1).readUInt32LE(0);
    expect(update(0, 3, 4, 0, 2, 1, 1, 0)).to.equal(GpuResponse.okNoData);
    const drawn = shown(driver);
    // Half of the grey is left under an alpha of one half.
    expect([drawn(3, 4), drawn(4, 4), drawn(5, 4)]).to.deep.equal([0x00_ff00, 0x40_4080, 0x80_8080]);
    driver.respond(driver.command(GpuCommand.moveCursor, 0, -1, 0, 0, 0, 0, 0, 0), 1);
    expect([shown(driver)(0, 0), shown(driver)(3, 4)]).to.deep.equal([0x40_4080, 0x80_8080]);
    expect(update(0, 0, 0, 0, 1, 0, 0, 0), 'not 64 × 64').to.equal(GpuResponse.errInvalidParameter);
    expect(update(0, 0, 0, 0, 0, 0, 0, 0)).to.equal(GpuResponse.okNoData);
    expect(shown(driver)(0, 0)).to.equal(0x80_8080);
    driver.bus.close();
  });

  it('describes its display, and has an EDID with the same mode', () => {
    const driver = new GpuTestDriver();
    expect([8, 12].map((at) => driver.read(DEVICE_CONFIG + at, 4))).to.deep.equal([1, 0]);
    const info = driver.respond(driver.command(GpuCommand.getDisplayInfo));
    expect([0, 32, 36, 40, 64].map((at) => info.readUInt32LE(at))).to.deep.equal([0x1101, 1024, 768, 1, 0]);
    // The driver of these tests has not negotiated EDID.
    expect(driver.send(GpuCommand.getEdid, 0, 0)).to.equal('errUnspec');
    driver.start(2, (1n << 32n) | (1n << 33n) | 2n);
    const edid = driver.respond(driver.command(GpuCommand.getEdid, 0, 0)).subarray(32, 32 + 128);
    expect(edid.equals(edidOf(1024, 768))).to.equal(true);
    expect(edid.reduce((sum, byte) => sum + byte, 0) % 256).to.equal(0);
    expect([edid[56]! | ((edid[58]! & 0xf0) << 4), edid[59]! | ((edid[61]! & 0xf0) << 4)]).to.deep.equal([
      1024, 768,
    ]);
    driver.bus.close();
  });

  it('returns the fence of a command with its response', () => {
    const driver = new GpuTestDriver();
    driver.fence = 77;
    const response = driver.respond(driver.command(GpuCommand.getDisplayInfo));
    expect([response.readUInt32LE(4), response.readBigUInt64LE(8)]).to.deep.equal([1, 77n]);
    driver.bus.close();
  });

  it('refuses requests that do not fit, each with the specification’s error', () => {
    const driver = withResource();
    const at = { x: 0, y: 0, width: WIDTH + 1, height: 1 };
    expect(driver.create(0, 1, 1)).to.equal('errInvalidResourceId');
    expect(driver.create(1, 1, 1)).to.equal('errInvalidResourceId');
    expect(driver.create(2, 1, 1, 99)).to.equal('errInvalidParameter');
    expect(driver.create(2, 0, 1)).to.equal('errInvalidParameter');
    expect(driver.create(2, 5000, 1)).to.equal('errInvalidParameter');
    expect(driver.transfer(1, at)).to.equal('errInvalidParameter');
    expect(driver.transfer(1, { ...at, x: 0xffff_fff0 })).to.equal('errInvalidParameter');
    expect(driver.transfer(1, WHOLE, 4)).to.equal('errInvalidParameter');
    expect(driver.flush(1, at)).to.equal('errInvalidParameter');
    expect(driver.flush(1, { ...WHOLE, width: 0 })).to.equal('errInvalidParameter');
    expect(driver.scanOut(1, at)).to.equal('errInvalidParameter');
    expect(driver.scanOut(1, WHOLE, 1)).to.equal('errInvalidScanoutId');
    for (const send of [driver.detach, driver.unref]) expect(send(9)).to.equal('errInvalidResourceId');
    expect(driver.transfer(9, WHOLE)).to.equal('errInvalidResourceId');
    expect(driver.send(0x999)).to.equal('errUnspec');
    expect(driver.send(GpuCommand.resourceCreate2d, 5)).to.equal('errUnspec');
    driver.create(3, 1, 1);
    expect(driver.attach(3, [])).to.equal('errInvalidParameter');
    expect(driver.attach(3, [{ iova: IOVA_BASE, length: 0 }])).to.equal('errInvalidParameter');
    expect(driver.send(GpuCommand.resourceAttachBacking, 3, 2, IOVA_BASE, 0, 4, 0)).to.equal(
      'errInvalidParameter',
    );
    expect(driver.attach(3, [{ iova: 0x1000, length: 4 }])).to.equal('errUnspec');
    expect(driver.bus.faults).to.have.length(1);
    expect(driver.attach(3, [{ iova: IOVA_BASE, length: 4 }])).to.equal('okNoData');
    driver.bus.close();
  });

  it('bounds its memory and its pins', () => {
    const driver = new GpuTestDriver();
    const most = RESOURCE_BYTES_LIMIT / (4096 * 4096 * 4);
    for (let id = 1; id <= most; id++) expect(driver.create(id, 4096, 4096)).to.equal('okNoData');
    expect(driver.create(99, 1, 1)).to.equal('errOutOfMemory');
    driver.unref(1);
    expect(driver.create(99, 1, 1)).to.equal('okNoData');
    const bytes = BACKING_PAGES_LIMIT * PAGE;
    expect(driver.attach(99, [{ iova: IOVA_BASE, length: bytes + 1 }])).to.equal('errOutOfMemory');
    expect(driver.bus.heldPins).to.equal(0);
    driver.bus.close();
  });
});
