/**
 * A 2D resource: a picture in the device's own memory, filled from the guest memory that is attached to it.
 */

import { PIXEL_BYTES } from '../../abi/scanout.ts';
import { GPU_FORMATS, type PixelFormat, type Rect } from '../../abi/virtio-gpu.ts';
import type { Backing } from './backing.ts';

/** Size and format of a resource. */
export interface ResourceShape {
  readonly width: number;
  readonly height: number;
  readonly format: number;
}

export class Resource {
  readonly width: number;
  readonly height: number;
  readonly format: PixelFormat;
  readonly pixels: Uint8Array;
  backing: Backing | undefined;

  constructor({ width, height, format }: ResourceShape) {
    [this.width, this.height] = [width, height];
    this.format = GPU_FORMATS[format] as PixelFormat;
    this.pixels = new Uint8Array(width * height * PIXEL_BYTES);
  }

  get stride(): number {
    return this.width * PIXEL_BYTES;
  }

  /**
   * Copies a rectangle from the backing memory, in which its first pixel is at `offset` and lines follow each other at the
   * resource's stride (5.7.6.8). Returns false after a DMA fault. @throws DmaStalledError
   */
  transfer(backing: Backing, { x, y, width, height }: Rect, offset: number): boolean {
    const { stride, pixels } = this;
    const at = y * stride + x * PIXEL_BYTES;
    // Whole lines are one range.
    if (width === this.width) return backing.read(offset, pixels.subarray(at, at + height * stride));
    for (let line = 0; line < height; line++) {
      const from = at + line * stride;
      if (!backing.read(offset + line * stride, pixels.subarray(from, from + width * PIXEL_BYTES)))
        return false;
    }
    return true;
  }

  /** Copies a rectangle as XRGB8888 to a picture of that stride, with its first pixel at `at`. */
  copyTo(target: Uint8Array, at: number, stride: number, { x, y, width, height }: Rect): void {
    const { blue, green, red } = this.format;
    const isSame = blue === 0 && green === 1 && red === 2;
    for (let line = 0; line < height; line++) {
      const from = (y + line) * this.stride + x * PIXEL_BYTES;
      const to = at + line * stride;
      if (isSame) target.set(this.pixels.subarray(from, from + width * PIXEL_BYTES), to);
      else
        for (let i = 0; i < width * PIXEL_BYTES; i += PIXEL_BYTES) {
          target[to + i] = this.pixels[from + i + blue] as number;
          target[to + i + 1] = this.pixels[from + i + green] as number;
          target[to + i + 2] = this.pixels[from + i + red] as number;
        }
    }
  }
}
