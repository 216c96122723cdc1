/**
 * Workloads of the device: display, function reset, and a command that never ends.
 */
import { nowUs } from '#host';
import { CompletionStatus, Kernel, Opcode } from '../../abi/vgpu/vgpu.ts';
import { DeviceResetError } from '../../guest/gpu/errors.ts';
import type { IterationContext } from '../guest/iteration.ts';

/** Size of the pictures, and their offsets in VRAM. */
const PICTURE = { width: 64, height: 64 } as const;
const PICTURES = [0, 0x4000] as const;

/** Flips to the second picture and back, and waits for the frame each time. */
export function displayFlip(context: IterationContext): Promise<void> {
  const { gpu, loadGpu } = context;
  return loadGpu.display.run(async () => {
    if (!loadGpu.displayOn) {
      for (const [i, base] of PICTURES.entries()) await gpu.driver.vram.write(base, picture(i));
      await gpu.driver.display.show({ ...PICTURE, base: PICTURES[0] });
    }
    loadGpu.displayOn = true;
    for (const base of [PICTURES[1], PICTURES[0]]) {
      await gpu.driver.display.flip(base);
      const shown = await gpu.driver.readRegister('DisplaySurface');
      // A reset disables the display and so ends the flip.
      if (!loadGpu.displayOn) throw new DeviceResetError(gpu.name, 0);
      context.check(shown === base, () => `shows VRAM ${shown} after a flip to ${base}`);
    }
  });
}

/** Returns the pixels of a picture (XRGB8888): a ramp of blue for the first one, of orange for the second. */
function picture(index: number): Uint8Array {
  const { width, height } = PICTURE;
  const pixels = Uint32Array.from({ length: width * height }, (_, i) => {
    const ramp = Math.floor((255 * ((i % width) + i / width)) / (width + height));
    return index === 0 ? (ramp << 8) | 0xc0 : (0xe0 << 16) | (ramp << 8);
  });
  return new Uint8Array(pixels.buffer);
}

/** Resets the function; its driver restores rings, page tables and contexts. */
export function reset(context: IterationContext): Promise<void> {
  const { gpu, loadGpu } = context;
  // No flip may be pending: the display is off after the reset.
  return loadGpu.display.run(async () => {
    loadGpu.displayOn = false;
    await context.timed('reset_time', 'function', () => gpu.driver.reset());
  });
}

/** Submits a kernel that never ends: the driver must reset the engine, which ends the kernel as `hung`. */
export async function hang(context: IterationContext): Promise<void> {
  const since = nowUs();
  const { status } = await context.submit({ opcode: Opcode.compute, value: Kernel.spin, length: 4 });
  context.metrics
    .tagged({ op: 'engine' })
    .trend('reset_time')
    .add(nowUs() - since);
  context.check(status === CompletionStatus.hung, () => `an endless kernel ended with status ${status}`);
}
