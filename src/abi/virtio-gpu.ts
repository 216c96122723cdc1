/**
 * Wire format of virtio-gpu's 2D commands (virtio 1.3 section 5.7). The device and the tests' drivers share it.
 */

export const GPU_DEVICE_ID = 16;
/** Queues: control and cursor. */
export const CONTROL_QUEUE = 0;
export const CURSOR_QUEUE = 1;

export const GPU_F_EDID = 1n << 1n;

export const GpuCommand = {
  getDisplayInfo: 0x0100,
  resourceCreate2d: 0x0101,
  resourceUnref: 0x0102,
  setScanout: 0x0103,
  resourceFlush: 0x0104,
  transferToHost2d: 0x0105,
  resourceAttachBacking: 0x0106,
  resourceDetachBacking: 0x0107,
  getEdid: 0x010a,
  updateCursor: 0x0300,
  moveCursor: 0x0301,
} as const;

export const GpuResponse = {
  okNoData: 0x1100,
  okDisplayInfo: 0x1101,
  okEdid: 0x1104,
  errUnspec: 0x1200,
  errOutOfMemory: 0x1201,
  errInvalidScanoutId: 0x1202,
  errInvalidResourceId: 0x1203,
  errInvalidParameter: 0x1205,
} as const;

/** Header of commands and responses: type, flags, fence ID (64 bits), context ID, ring index. */
export const GPU_HEADER_BYTES = 24;
export const GPU_FLAG_FENCE = 1;
/** A rectangle: x, y, width and height, 32 bits each. */
export const RECT_BYTES = 16;
/** Address (64 bits), length and padding of a piece of backing memory. */
export const MEM_ENTRY_BYTES = 16;
/** GET_DISPLAY_INFO describes so many scanouts, with a rectangle, `enabled` and flags each. */
export const DISPLAY_INFO_SCANOUTS = 16;
export const DISPLAY_INFO_BYTES: number = GPU_HEADER_BYTES + DISPLAY_INFO_SCANOUTS * 24;
/** The response to GET_EDID: header, size, padding and room for the EDID. */
export const EDID_RESPONSE_BYTES: number = GPU_HEADER_BYTES + 8 + 1024;

/** Size of a command without variable parts, by its type. */
export const GPU_COMMAND_BYTES: Readonly<Record<number, number>> = {
  [GpuCommand.getDisplayInfo]: 24,
  [GpuCommand.resourceCreate2d]: 40,
  [GpuCommand.resourceUnref]: 32,
  [GpuCommand.setScanout]: 48,
  [GpuCommand.resourceFlush]: 48,
  [GpuCommand.transferToHost2d]: 56,
  [GpuCommand.resourceAttachBacking]: 32,
  [GpuCommand.resourceDetachBacking]: 32,
  [GpuCommand.getEdid]: 32,
  [GpuCommand.updateCursor]: 56,
  [GpuCommand.moveCursor]: 56,
};

/** The places of blue, green, red, and alpha or the ignored byte in the four bytes of a pixel. */
export interface PixelFormat {
  readonly blue: number;
  readonly green: number;
  readonly red: number;
  readonly alpha: number;
}

const format = (blue: number, green: number, red: number, alpha: number): PixelFormat => ({
  blue,
  green,
  red,
  alpha,
});

/** Formats of virtio-gpu. Names list the bytes in memory: B8G8R8X8 is XRGB8888. */
export const GPU_FORMATS: Readonly<Record<number, PixelFormat>> = {
  1: format(0, 1, 2, 3),
  2: format(0, 1, 2, 3),
  3: format(3, 2, 1, 0),
  4: format(3, 2, 1, 0),
  67: format(2, 1, 0, 3),
  68: format(1, 2, 3, 0),
  121: format(1, 2, 3, 0),
  134: format(2, 1, 0, 3),
};
export const FORMAT_BGRA = 1;
export const FORMAT_BGRX = 2;

/** A rectangle of pixels. */
export interface Rect {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Returns the rectangle at `offset`. */
export const rectAt = (view: DataView, offset: number): Rect => ({
  x: view.getUint32(offset, true),
  y: view.getUint32(offset + 4, true),
  width: view.getUint32(offset + 8, true),
  height: view.getUint32(offset + 12, true),
});

/** Returns true if `inner` is not empty and lies within a picture of that size. */
export const isWithin = (inner: Rect, width: number, height: number): boolean =>
  inner.width > 0 && inner.height > 0 && inner.x + inner.width <= width && inner.y + inner.height <= height;
