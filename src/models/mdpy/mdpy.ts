/**
 * The kernel's `mdpy` sample as a device: a framebuffer that the guest draws into, and that is displayed.
 */

import { drawGradient, type MdpyMode, mdpyBarBytes, mdpyIdentity } from '../../abi/mdpy.ts';
import { PIXEL_BYTES, type Scanout } from '../../abi/scanout.ts';
import { DeviceMemory } from '../../device/memory.ts';
import type { DeviceModel, ModelState, StepResult } from '../../device/model.ts';
import { ConfigSpace } from '../../pci/config-space.ts';

export class Mdpy implements DeviceModel {
  readonly config: ConfigSpace;
  readonly bars: DeviceModel['bars'];
  readonly #mode: MdpyMode;
  readonly #framebuffer: DeviceMemory;

  /** The whole state is in the framebuffer. A display of another size has the same IDs but is a different device. */
  readonly state: ModelState = {
    version: 1,
    save: () => ({ ...this.#mode }),
    restore: (saved) => {
      for (const side of ['width', 'height'] as const)
        saved.integer(side, this.#mode[side], this.#mode[side]);
    },
  };

  constructor(mode: MdpyMode) {
    this.#mode = mode;
    this.config = new ConfigSpace(mdpyIdentity(mode));
    this.#framebuffer = new DeviceMemory('framebuffer', mdpyBarBytes(mode));
    const picture = Buffer.alloc(mode.width * mode.height * PIXEL_BYTES);
    drawGradient(picture, mode);
    this.#framebuffer.store(0, picture);
    this.bars = { 0: this.#framebuffer };
  }

  scanout(): Scanout {
    const { width, height } = this.#mode;
    const stride = width * PIXEL_BYTES;
    const pixels = Buffer.alloc(stride * height);
    this.#framebuffer.readInto(0, pixels);
    return { width, height, stride, pixels };
  }

  /** The framebuffer needs no work. */
  step(): StepResult {
    return 'idle';
  }

  dmaUnmap(): void {}

  close(): void {}
}
