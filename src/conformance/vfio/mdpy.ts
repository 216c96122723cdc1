/**
 * The kernel's mdpy sample driver (samples/vfio-mdev/mdpy.c): a display that is a framebuffer to be mapped.
 */
import { VfioError } from '../../vfio/errors.ts';
import * as api from './device-model.ts';
import { DeviceModel, refuse } from './device-model.ts';

const CONFIG_BYTES = 256;
/** The driver says one byte less than there is. */
const CONFIG_SIZE = 0xff;
const FRAMEBUFFER = 0;
const FRAMEBUFFER_OFFSET = 0x1000;
const PIXEL_BYTES = 4;
const BRIGHTEST = 255;

const BAR0 = 0x10;
/** 32-bit, prefetchable. */
const BAR0_FLAGS = 8;
const BAR_FLAGS_MASK = 0xf;
const VENDOR_CAP = 0x40;
const XRGB8888 = 0x3432_5258;

/** 16-bit values at offsets, as the driver's display identifies itself. */
const CONFIG: readonly (readonly [offset: number, value: number])[] = [
  [0x00, 0x1b36],
  [0x02, 0x000f],
  [0x04, 0x0003],
  [0x06, 0x0010],
  [0x08, 0x0001],
  [0x0a, 0x0380],
  [BAR0, BAR0_FLAGS],
  [0x2c, 0x1af4],
  [0x2e, 0x1100],
  [0x34, VENDOR_CAP],
  [VENDOR_CAP, 0x0009],
  [VENDOR_CAP + 2, 0x0010],
];

/** Width and height in pixels of each type. */
export const RESOLUTIONS: Readonly<Record<string, readonly [width: number, height: number]>> = {
  'mdpy-vga': [640, 480],
  'mdpy-xga': [1024, 768],
  'mdpy-hd': [1920, 1080],
};

export class Mdpy extends DeviceModel {
  readonly #width: number;
  readonly #height: number;
  readonly #config = new Uint8Array(CONFIG_BYTES);
  readonly #view = new DataView(this.#config.buffer);
  /** A power of two, and a BAR. */
  readonly #memory: Uint8Array;

  constructor([width, height]: readonly [width: number, height: number]) {
    super();
    this.#width = width;
    this.#height = height;
    this.#memory = new Uint8Array(2 ** Math.ceil(Math.log2(width * height * PIXEL_BYTES)));
    for (const [offset, value] of CONFIG) this.#view.setUint16(offset, value, true);
    for (const [index, value] of [XRGB8888, width, height].entries())
      this.#view.setUint32(VENDOR_CAP + 4 + index * 4, value, true);
    this.reset();
  }

  override info() {
    return { regions: api.REGION_COUNT, irqs: api.IRQ_COUNT };
  }

  override region(index: number) {
    const access = api.REGION_READ | api.REGION_WRITE;
    if (index >= api.REGION_COUNT) refuse(`no region ${index}`);
    if (index === api.CONFIG_REGION) return { flags: access, size: CONFIG_SIZE, offset: 0 };
    if (index !== FRAMEBUFFER) return { flags: 0, size: 0, offset: 0 };
    return { flags: access | api.REGION_MMAP, size: this.#memory.length, offset: FRAMEBUFFER_OFFSET };
  }

  override irq(index: number) {
    if (index >= api.IRQ_COUNT) refuse(`no interrupt ${index}`);
    return { flags: 0, count: 0 };
  }

  override read(region: number, offset: number, target: Uint8Array): void {
    const [bytes, at] = this.#place(region, offset, target.length);
    target.set(bytes.subarray(at, at + target.length));
  }

  /** Of the configuration space only BAR 0 can be written. */
  override write(region: number, offset: number, source: Uint8Array): void {
    const [bytes, at] = this.#place(region, offset, source.length);
    if (bytes === this.#memory) bytes.set(source, at);
    else if (at === BAR0) this.#writeBar(new DataView(Uint8Array.from([...source, 0, 0, 0]).buffer));
  }

  override mmap(region: number, length: number, shared: boolean): void {
    if (region !== FRAMEBUFFER || !shared || length > this.#memory.length)
      refuse(`region ${region}: ${length} bytes, shared: ${shared}`);
  }

  /** A grey gradient from top to bottom. */
  override reset(): void {
    const stride = this.#width * PIXEL_BYTES;
    for (let line = 0; line < this.#height; line++)
      this.#memory.fill(Math.floor((line * BRIGHTEST) / this.#height), line * stride, (line + 1) * stride);
  }

  /** Where an access goes: all regions lie behind one another in the device file. @throws VfioError EFAULT */
  #place(region: number, offset: number, length: number): readonly [bytes: Uint8Array, at: number] {
    const position = this.region(region).offset + offset;
    if (position < CONFIG_SIZE) return [this.#config, position];
    const at = position - FRAMEBUFFER_OFFSET;
    if (at < 0 || at + length > this.#memory.length)
      throw new VfioError('EFAULT', `nothing is at ${position} of the device`);
    return [this.#memory, at];
  }

  #writeBar(source: DataView): void {
    const value = source.getUint32(0, true);
    const mask = value === 0xffff_ffff ? -this.#memory.length : ~BAR_FLAGS_MASK;
    const flags = this.#config[BAR0]! & BAR_FLAGS_MASK;
    this.#view.setUint32(BAR0, ((value & mask) | flags) >>> 0, true);
  }
}
