/**
 * The kernel's mdpy sample driver (samples/vfio-mdev/mdpy.c): a display with a framebuffer that can be mapped.
 */
import { drawGradient, type MdpyMode, mdpyBarBytes, mdpyIdentity } from '../../abi/mdpy.ts';
import { ConfigSpace } from '../../pci/config-space.ts';
import { VfioError } from '../../vfio/errors.ts';
import * as api from './device-model.ts';
import { refuse, SampleDevice, type SetIrqs } from './device-model.ts';

/** The driver reports one byte less than the configuration space has. */
const CONFIG_SIZE = 0xff;
const FRAMEBUFFER = 0;
const FRAMEBUFFER_OFFSET = 0x1000;

const BAR0 = 0x10;
const BAR_FLAGS_MASK = 0xf;

export class Mdpy extends SampleDevice {
  readonly #mode: MdpyMode;
  readonly #config: Uint8Array;
  readonly #view: DataView;
  /** The framebuffer, BAR 0. Its size is a power of two. */
  readonly #memory: Uint8Array;

  constructor(mode: MdpyMode) {
    super();
    this.#mode = mode;
    this.#memory = new Uint8Array(mdpyBarBytes(mode));
    this.#config = new ConfigSpace(mdpyIdentity(mode)).bytes();
    this.#view = new DataView(this.#config.buffer);
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

  override setIrqs({ index }: SetIrqs): void {
    refuse(`no interrupt ${index}`);
  }

  override read(region: number, offset: number, target: Uint8Array): void {
    const [bytes, at] = this.#place(region, offset, target.length);
    target.set(bytes.subarray(at, at + target.length));
  }

  /** Writes to a region. In the configuration space, only BAR 0 is writable. */
  override write(region: number, offset: number, source: Uint8Array): void {
    const [bytes, at] = this.#place(region, offset, source.length);
    if (bytes === this.#memory) bytes.set(source, at);
    else if (at === BAR0) this.#writeBar(new DataView(Uint8Array.from([...source, 0, 0, 0]).buffer));
  }

  override mmap(region: number, length: number, shared: boolean): void {
    if (region !== FRAMEBUFFER || !shared || length > this.#memory.length)
      refuse(`region ${region}: ${length} bytes, shared: ${shared}`);
  }

  override reset(): void {
    drawGradient(this.#memory, this.#mode);
  }

  /** Returns the bytes that an access reaches. The device file has all regions in a row. @throws VfioError EFAULT */
  #place(region: number, offset: number, length: number): readonly [bytes: Uint8Array, at: number] {
    const position = this.region(region).offset + offset;
    if (position < CONFIG_SIZE) return [this.#config, position];
    const at = position - FRAMEBUFFER_OFFSET;
    if (at < 0 || at + length > this.#memory.length)
      throw new VfioError('EFAULT', `no region at offset ${position} of the device`);
    return [this.#memory, at];
  }

  #writeBar(source: DataView): void {
    const value = source.getUint32(0, true);
    const mask = value === 0xffff_ffff ? -this.#memory.length : ~BAR_FLAGS_MASK;
    const flags = this.#config[BAR0]! & BAR_FLAGS_MASK;
    this.#view.setUint32(BAR0, ((value & mask) | flags) >>> 0, true);
  }
}
