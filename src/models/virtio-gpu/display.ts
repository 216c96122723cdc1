/**
 * The display of a virtio-gpu: the part of a resource that is scanned out, and the cursor over it. The picture changes only
 * when the driver flushes, so a driver that forgets to do so is seen.
 */
import { PIXEL_BYTES, type Scanout } from '../../abi/scanout.ts';
import type { Rect } from '../../abi/virtio-gpu.ts';
import type { Resource } from './resource.ts';

/** Width and height of a cursor (5.7.6.10). */
export const CURSOR_SIDE = 64;

interface Front {
  readonly resource: Resource;
  /** The displayed part of the resource. */
  readonly rect: Rect;
  readonly pixels: Uint8Array;
}

interface Cursor {
  /** Pixels of 32 bits, with the colours multiplied by alpha: blue, green, red, alpha. */
  readonly pixels: Uint8Array;
  /** Place of its first pixel, as Linux sends it; the hot spot does not count. */
  x: number;
  y: number;
}

export class GpuDisplay {
  /** Count of flushes that have changed the picture. */
  flushes = 0;
  #front: Front | undefined;
  #cursor: Cursor | undefined;

  /** Displays a part of a resource as it is now. */
  show(resource: Resource, rect: Rect): void {
    const pixels = new Uint8Array(rect.width * rect.height * PIXEL_BYTES);
    this.#front = { resource, rect, pixels };
    resource.copyTo(pixels, 0, rect.width * PIXEL_BYTES, rect);
  }

  /** Switches the picture off. */
  off(): void {
    this.#front = undefined;
  }

  /** Updates what is displayed of a rectangle of a resource. */
  flush(resource: Resource, rect: Rect): void {
    const front = this.#front;
    if (front?.resource !== resource) return;
    const shown = intersection(rect, front.rect);
    if (!shown) return;
    const stride = front.rect.width * PIXEL_BYTES;
    const at = (shown.y - front.rect.y) * stride + (shown.x - front.rect.x) * PIXEL_BYTES;
    resource.copyTo(front.pixels, at, stride, shown);
    this.flushes++;
  }

  /**
   * Takes the cursor's picture from a resource of CURSOR_SIDE. The fourth byte is alpha in every format: Linux has cursors
   * in a format without alpha, and means it.
   */
  setCursor(resource: Resource, x: number, y: number): void {
    const { blue, green, red, alpha } = resource.format;
    const pixels = new Uint8Array(resource.pixels.length);
    for (let i = 0; i < pixels.length; i += PIXEL_BYTES)
      for (const [to, from] of [blue, green, red, alpha].entries())
        pixels[i + to] = resource.pixels[i + from] as number;
    this.#cursor = { pixels, x, y };
  }

  hideCursor(): void {
    this.#cursor = undefined;
  }

  moveCursor(x: number, y: number): void {
    if (this.#cursor) [this.#cursor.x, this.#cursor.y] = [x, y];
  }

  /** A resource is destroyed. */
  forget(resource: Resource): void {
    if (this.#front?.resource === resource) this.off();
  }

  /** Returns the picture with the cursor; undefined while there is no picture. */
  scanout(): Scanout | undefined {
    if (!this.#front) return undefined;
    const { rect, pixels } = this.#front;
    const { width, height } = rect;
    const copy = pixels.slice();
    if (this.#cursor) blend(copy, width, height, this.#cursor);
    return { width, height, stride: width * PIXEL_BYTES, pixels: copy };
  }
}

function intersection(a: Rect, b: Rect): Rect | undefined {
  const [x, y] = [Math.max(a.x, b.x), Math.max(a.y, b.y)];
  const width = Math.min(a.x + a.width, b.x + b.width) - x;
  const height = Math.min(a.y + a.height, b.y + b.height) - y;
  return width > 0 && height > 0 ? { x, y, width, height } : undefined;
}

/** Draws a cursor into a picture. */
function blend(target: Uint8Array, width: number, height: number, cursor: Cursor): void {
  const { pixels } = cursor;
  for (let row = 0; row < CURSOR_SIDE; row++)
    for (let column = 0; column < CURSOR_SIDE; column++) {
      const [x, y] = [cursor.x + column, cursor.y + row];
      if (x < 0 || y < 0 || x >= width || y >= height) continue;
      const from = (row * CURSOR_SIDE + column) * PIXEL_BYTES;
      const to = (y * width + x) * PIXEL_BYTES;
      const rest = 255 - (pixels[from + 3] as number);
      for (let i = 0; i < 3; i++)
        target[to + i] = Math.min(
          255,
          (pixels[from + i] as number) + Math.round(((target[to + i] as number) * rest) / 255),
        );
    }
}
