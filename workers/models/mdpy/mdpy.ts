/**
 * The kernel's `mdpy` sample as a device: a framebuffer that the guest draws into, and that can be seen.
 */
import type { BarRegion, DeviceModel, StepResult } from '../../../src/device/model.ts';
import { ConfigSpace } from '../../../src/pci/config-space.ts';
import { drawGradient, type MdpyMode, mdpyBarBytes, mdpyIdentity } from '../../../src/pci/mdpy-interface.ts';
import { PIXEL_BYTES, type Scanout } from '../../../src/pci/scanout.ts';

/** Memory behind a BAR: every access is within it, the bus sees to that. */
class Framebuffer implements BarRegion {
  readonly size: number;
  readonly bytes: Buffer;

  constructor(mode: MdpyMode) {
    this.size = mdpyBarBytes(mode);
    this.bytes = Buffer.alloc(this.size);
    drawGradient(this.bytes, mode);
  }

  read(offset: number, size: number): bigint {
    if (size === 8) return this.bytes.readBigUInt64LE(offset);
    return BigInt(this.bytes.readUIntLE(offset, size));
  }

  write(offset: number, size: number, value: bigint): void {
    if (size === 8) this.bytes.writeBigUInt64LE(BigInt.asUintN(64, value), offset);
    else this.bytes.writeUIntLE(Number(BigInt.asUintN(8 * size, value)), offset, size);
  }

  readBlock(offset: number, target: Uint8Array): void {
    this.bytes.copy(target, 0, offset, offset + target.length);
  }

  writeBlock(offset: number, source: Uint8Array): void {
    this.bytes.set(source, offset);
  }
}

export class Mdpy implements DeviceModel {
  readonly config: ConfigSpace;
  readonly bars: DeviceModel['bars'];
  readonly #mode: MdpyMode;
  readonly #framebuffer: Framebuffer;

  constructor(mode: MdpyMode) {
    this.#mode = mode;
    this.config = new ConfigSpace(mdpyIdentity(mode));
    this.#framebuffer = new Framebuffer(mode);
    this.bars = { 0: this.#framebuffer };
  }

  scanout(): Scanout {
    const { width, height } = this.#mode;
    return { width, height, stride: width * PIXEL_BYTES, pixels: this.#framebuffer.bytes };
  }

  /** It only remembers. */
  step(): StepResult {
    return 'idle';
  }

  dmaUnmap(): void {}

  close(): void {}
}
