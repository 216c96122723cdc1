/**
 * Commands of a virtio-gpu. A command is checked, its memory is read, and its response made; what it changes for others is
 * done by `commit`, after the response is in guest memory.
 */
import { PIXEL_BYTES, SCANOUT_SIDE_MAX } from '../../abi/scanout.ts';
import * as gpu from '../../abi/virtio-gpu.ts';
import type { DeviceDma } from '../../device/dma.ts';
import type { Iova } from '../../memory/address.ts';
import { Backing, type BackingPiece, backingPages } from './backing.ts';
import { CURSOR_SIDE, GpuDisplay } from './display.ts';
import { edidOf } from './edid.ts';
import { Resource } from './resource.ts';

/** Most resources, and most bytes of all their pictures. */
const RESOURCES_LIMIT = 4096;
export const RESOURCE_BYTES_LIMIT: number = 128 * 2 ** 20;
/** Most pieces of a resource's backing memory, and most pinned pages of the device. */
const PIECES_LIMIT = 65_536;
export const BACKING_PAGES_LIMIT = 65_536;
/** Most bytes of a request; a longer one is cut, and its end is missing. */
export const REQUEST_BYTES_MAX: number = 32 + PIECES_LIMIT * gpu.MEM_ENTRY_BYTES;

const { GpuCommand, GpuResponse } = gpu;

/** Result of a command. */
export interface GpuResult {
  readonly response: Uint8Array;
  readonly commit?: (() => void) | undefined;
}

/** A response's type, with what follows it, or the command's effect. */
interface Outcome {
  readonly type: number;
  /** Bytes of the whole response, and the action that fills it. */
  readonly bytes?: number;
  readonly fill?: (response: DataView) => void;
  readonly commit?: () => void;
}

const failed = (type: number): Outcome => ({ type });
const done = (commit?: () => void): Outcome => ({ type: GpuResponse.okNoData, ...(commit && { commit }) });

export class GpuCommands {
  readonly display = new GpuDisplay();
  readonly #dma: DeviceDma;
  readonly #size: { readonly width: number; readonly height: number };
  readonly #resources = new Map<number, Resource>();
  #resourceBytes = 0;
  #pages = 0;
  #hasEdid = false;
  /** Memory that has been pinned by a command whose response is not in guest memory yet. */
  #attaching: { readonly resource: Resource; readonly backing: Backing } | undefined;
  readonly #performers: Readonly<Record<number, (request: DataView) => Outcome>> = {
    [GpuCommand.getDisplayInfo]: () => this.#displayInfo(),
    [GpuCommand.resourceCreate2d]: (request) => this.#create(request),
    [GpuCommand.resourceUnref]: (request) => this.#unref(request),
    [GpuCommand.setScanout]: (request) => this.#setScanout(request),
    [GpuCommand.resourceFlush]: (request) => this.#flush(request),
    [GpuCommand.transferToHost2d]: (request) => this.#transfer(request),
    [GpuCommand.resourceAttachBacking]: (request) => this.#attach(request),
    [GpuCommand.resourceDetachBacking]: (request) => this.#detach(request),
    [GpuCommand.getEdid]: (request) => this.#edid(request),
  };
  readonly #cursorPerformers: Readonly<Record<number, (request: DataView) => Outcome>> = {
    [GpuCommand.updateCursor]: (request) => this.#updateCursor(request),
    [GpuCommand.moveCursor]: (request) =>
      done(() => this.display.moveCursor(request.getInt32(28, true), request.getInt32(32, true))),
  };

  constructor(dma: DeviceDma, size: { readonly width: number; readonly height: number }) {
    this.#dma = dma;
    this.#size = size;
  }

  /** Performs a command of the control or cursor queue. @throws DmaStalledError, after which it is repeated */
  perform(bytes: Uint8Array, isCursor: boolean, hasEdid: boolean): GpuResult {
    this.#hasEdid = hasEdid;
    const request = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const outcome = this.#outcome(request, isCursor);
    const response = new Uint8Array(outcome.bytes ?? gpu.GPU_HEADER_BYTES);
    const view = new DataView(response.buffer);
    view.setUint32(0, outcome.type, true);
    // A command is complete when it is answered, so a fence is reached with its response.
    const hasHeader = bytes.length >= gpu.GPU_HEADER_BYTES;
    if (hasHeader && (request.getUint32(4, true) & gpu.GPU_FLAG_FENCE) !== 0) {
      view.setUint32(4, gpu.GPU_FLAG_FENCE, true);
      response.set(bytes.subarray(8, 20), 8);
    }
    outcome.fill?.(view);
    return { response, commit: outcome.commit };
  }

  /** Destroys every resource and drops every pin. */
  reset(): void {
    this.#attaching?.backing.release();
    this.#attaching = undefined;
    for (const id of [...this.#resources.keys()]) this.#destroy(id);
    this.display.off();
    this.display.hideCursor();
  }

  dmaUnmap(iova: Iova, size: number): void {
    this.#attaching?.backing.dmaUnmap(iova, size);
    for (const { backing } of this.#resources.values()) backing?.dmaUnmap(iova, size);
  }

  #outcome(request: DataView, isCursor: boolean): Outcome {
    if (request.byteLength < gpu.GPU_HEADER_BYTES) return failed(GpuResponse.errUnspec);
    const type = request.getUint32(0, true);
    const performer = (isCursor ? this.#cursorPerformers : this.#performers)[type];
    if (!performer || request.byteLength < (gpu.GPU_COMMAND_BYTES[type] as number))
      return failed(GpuResponse.errUnspec);
    return performer(request);
  }

  #displayInfo(): Outcome {
    const { width, height } = this.#size;
    const fill = (response: DataView) => {
      response.setUint32(gpu.GPU_HEADER_BYTES + 8, width, true);
      response.setUint32(gpu.GPU_HEADER_BYTES + 12, height, true);
      response.setUint32(gpu.GPU_HEADER_BYTES + 16, 1, true);
    };
    return { type: GpuResponse.okDisplayInfo, bytes: gpu.DISPLAY_INFO_BYTES, fill };
  }

  #edid(request: DataView): Outcome {
    if (!this.#hasEdid) return failed(GpuResponse.errUnspec);
    if (request.getUint32(24, true) !== 0) return failed(GpuResponse.errInvalidScanoutId);
    const edid = edidOf(this.#size.width, this.#size.height);
    const fill = (response: DataView) => {
      response.setUint32(gpu.GPU_HEADER_BYTES, edid.length, true);
      new Uint8Array(response.buffer).set(edid, gpu.GPU_HEADER_BYTES + 8);
    };
    return { type: GpuResponse.okEdid, bytes: gpu.EDID_RESPONSE_BYTES, fill };
  }

  #create(request: DataView): Outcome {
    const id = request.getUint32(24, true);
    const format = request.getUint32(28, true);
    const [width, height] = [request.getUint32(32, true), request.getUint32(36, true)];
    if (id === 0 || this.#resources.has(id)) return failed(GpuResponse.errInvalidResourceId);
    const isSide = (side: number) => side >= 1 && side <= SCANOUT_SIDE_MAX;
    if (!gpu.GPU_FORMATS[format] || !isSide(width) || !isSide(height))
      return failed(GpuResponse.errInvalidParameter);
    const bytes = this.#resourceBytes + width * height * PIXEL_BYTES;
    if (bytes > RESOURCE_BYTES_LIMIT || this.#resources.size >= RESOURCES_LIMIT)
      return failed(GpuResponse.errOutOfMemory);
    return done(() => {
      this.#resources.set(id, new Resource({ width, height, format }));
      this.#resourceBytes = bytes;
    });
  }

  #unref(request: DataView): Outcome {
    const id = request.getUint32(24, true);
    if (!this.#resources.has(id)) return failed(GpuResponse.errInvalidResourceId);
    return done(() => this.#destroy(id));
  }

  #destroy(id: number): void {
    const resource = this.#resources.get(id) as Resource;
    this.#release(resource);
    this.display.forget(resource);
    this.#resources.delete(id);
    this.#resourceBytes -= resource.pixels.length;
  }

  #release(resource: Resource): void {
    this.#pages -= resource.backing?.pages ?? 0;
    resource.backing?.release();
    resource.backing = undefined;
  }

  #setScanout(request: DataView): Outcome {
    const rect = gpu.rectAt(request, gpu.GPU_HEADER_BYTES);
    const [scanout, id] = [request.getUint32(40, true), request.getUint32(44, true)];
    if (scanout !== 0) return failed(GpuResponse.errInvalidScanoutId);
    if (id === 0) return done(() => this.display.off());
    const resource = this.#resources.get(id);
    if (!resource) return failed(GpuResponse.errInvalidResourceId);
    if (!gpu.isWithin(rect, resource.width, resource.height)) return failed(GpuResponse.errInvalidParameter);
    return done(() => this.display.show(resource, rect));
  }

  #flush(request: DataView): Outcome {
    const rect = gpu.rectAt(request, gpu.GPU_HEADER_BYTES);
    const resource = this.#resources.get(request.getUint32(40, true));
    if (!resource) return failed(GpuResponse.errInvalidResourceId);
    if (!gpu.isWithin(rect, resource.width, resource.height)) return failed(GpuResponse.errInvalidParameter);
    return done(() => this.display.flush(resource, rect));
  }

  #transfer(request: DataView): Outcome {
    const rect = gpu.rectAt(request, gpu.GPU_HEADER_BYTES);
    const offset = Number(request.getBigUint64(40, true));
    const resource = this.#resources.get(request.getUint32(48, true));
    if (!resource) return failed(GpuResponse.errInvalidResourceId);
    const { backing, width, height, stride } = resource;
    if (!backing) return failed(GpuResponse.errUnspec);
    const end = offset + (rect.height - 1) * stride + rect.width * PIXEL_BYTES;
    if (!gpu.isWithin(rect, width, height) || end > backing.bytes)
      return failed(GpuResponse.errInvalidParameter);
    // A picture is not seen before it is flushed, so it may be filled before the response.
    return resource.transfer(backing, rect, offset) ? done() : failed(GpuResponse.errUnspec);
  }

  #attach(request: DataView): Outcome {
    const resource = this.#resources.get(request.getUint32(24, true));
    const count = request.getUint32(28, true);
    if (!resource) return failed(GpuResponse.errInvalidResourceId);
    if (resource.backing) return failed(GpuResponse.errUnspec);
    if (count === 0 || count > PIECES_LIMIT || request.byteLength < 32 + count * gpu.MEM_ENTRY_BYTES)
      return failed(GpuResponse.errInvalidParameter);
    const pieces = Array.from({ length: count }, (_, i): BackingPiece => {
      const at = 32 + i * gpu.MEM_ENTRY_BYTES;
      return {
        iova: Number(request.getBigUint64(at, true)) as Iova,
        length: request.getUint32(at + 8, true),
      };
    });
    if (pieces.some(({ iova, length }) => length === 0 || !Number.isSafeInteger(iova + length)))
      return failed(GpuResponse.errInvalidParameter);
    const pages = backingPages(pieces);
    if (this.#pages + pages > BACKING_PAGES_LIMIT) return failed(GpuResponse.errOutOfMemory);
    const backing = this.#pinned(resource, pieces);
    if (!backing) return failed(GpuResponse.errUnspec);
    return done(() => {
      resource.backing = backing;
      this.#pages += pages;
      this.#attaching = undefined;
    });
  }

  /** Returns backing memory that is pinned. If the command is repeated after a stall, it is pinned already. */
  #pinned(resource: Resource, pieces: readonly BackingPiece[]): Backing | undefined {
    if (this.#attaching?.resource === resource) return this.#attaching.backing;
    this.#attaching?.backing.release();
    this.#attaching = undefined;
    const backing = new Backing(this.#dma, pieces);
    if (!backing.pin()) return undefined;
    this.#attaching = { resource, backing };
    return backing;
  }

  #detach(request: DataView): Outcome {
    const resource = this.#resources.get(request.getUint32(24, true));
    if (!resource) return failed(GpuResponse.errInvalidResourceId);
    if (!resource.backing) return failed(GpuResponse.errUnspec);
    return done(() => this.#release(resource));
  }

  #updateCursor(request: DataView): Outcome {
    const [x, y] = [request.getInt32(28, true), request.getInt32(32, true)];
    const id = request.getUint32(40, true);
    if (request.getUint32(24, true) !== 0) return failed(GpuResponse.errInvalidScanoutId);
    if (id === 0) return done(() => this.display.hideCursor());
    const resource = this.#resources.get(id);
    if (!resource) return failed(GpuResponse.errInvalidResourceId);
    if (resource.width !== CURSOR_SIDE || resource.height !== CURSOR_SIDE)
      return failed(GpuResponse.errInvalidParameter);
    return done(() => this.display.setCursor(resource, x, y));
  }
}
