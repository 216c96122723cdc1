/**
 * Guest memory behind a resource: pieces of bus addresses, whose pages are pinned as long as the memory is attached.
 *
 * A page that is unmapped meanwhile loses its pin, because an unmap does not wait for a resource. It is pinned again when it
 * is used; by then the driver has mapped it again, or the use is a DMA fault.
 */
import { type DeviceDma, DMA_OK, DMA_RETRY } from '../../device/dma.ts';
import { type Hpa, type Iova, PAGE_SIZE, PERM_READ } from '../../memory/address.ts';
import { DmaStalledError } from '../virtio/dma-memory.ts';

/** A piece of backing memory. */
export interface BackingPiece {
  readonly iova: Iova;
  /** Bytes, from 1. */
  readonly length: number;
}

/** A piece and its pages. */
interface PinnedPiece extends BackingPiece {
  /** Offset of its first byte in the backing memory. */
  readonly offset: number;
  /** Host page numbers, -1 for a page without a pin. */
  readonly frames: Int32Array;
}

const pageOf = (iova: number): number => Math.floor(iova / PAGE_SIZE);
const pagesOf = ({ iova, length }: BackingPiece): number => pageOf(iova + length - 1) - pageOf(iova) + 1;
const pageAt = ({ iova }: BackingPiece, index: number): Iova => ((pageOf(iova) + index) * PAGE_SIZE) as Iova;

/** Returns the count of pages that pieces need. */
export const backingPages = (pieces: readonly BackingPiece[]): number =>
  pieces.reduce((sum, piece) => sum + pagesOf(piece), 0);

export class Backing {
  readonly bytes: number;
  readonly pages: number;
  readonly #dma: DeviceDma;
  readonly #pieces: readonly PinnedPiece[];
  /** Index of the piece that was read last. */
  #last = 0;

  /** Pins nothing yet. */
  constructor(dma: DeviceDma, pieces: readonly BackingPiece[]) {
    this.#dma = dma;
    let offset = 0;
    this.#pieces = pieces.map((piece) => {
      const pinned = { ...piece, offset, frames: new Int32Array(pagesOf(piece)).fill(-1) };
      offset += piece.length;
      return pinned;
    });
    this.bytes = offset;
    this.pages = backingPages(pieces);
  }

  /** Pins every page, or none. Returns false after a DMA fault. @throws DmaStalledError */
  pin(): boolean {
    for (const piece of this.#pieces) {
      const status = this.#dma.pinPages(pageAt(piece, 0), PERM_READ, piece.frames);
      if (status === DMA_OK) continue;
      piece.frames.fill(-1);
      this.release();
      if (status === DMA_RETRY) throw new DmaStalledError();
      return false;
    }
    return true;
  }

  /** Drops every pin. */
  release(): void {
    for (const piece of this.#pieces) this.#unpin(piece, 0, piece.frames.length);
  }

  /** Drops the pins of pages in a range of bus addresses. */
  dmaUnmap(iova: Iova, size: number): void {
    for (const piece of this.#pieces) {
      const first = pageOf(piece.iova);
      const from = Math.max(0, pageOf(iova) - first);
      const to = Math.min(piece.frames.length, Math.ceil((iova + size) / PAGE_SIZE) - first);
      this.#unpin(piece, from, to);
    }
  }

  /**
   * Reads bytes at an offset, which must lie within. Returns false after a DMA fault.
   * @throws DmaStalledError
   */
  read(offset: number, target: Uint8Array): boolean {
    for (let done = 0; done < target.length; ) {
      const piece = this.#pieceAt(offset + done);
      const within = offset + done - piece.offset;
      const address = piece.iova + within;
      const inPage = address % PAGE_SIZE;
      const index = pageOf(address) - pageOf(piece.iova);
      const frame = this.#frame(piece, index);
      if (frame < 0) return false;
      const length = Math.min(PAGE_SIZE - inPage, piece.length - within, target.length - done);
      this.#dma.readPinned((frame * PAGE_SIZE + inPage) as Hpa, target.subarray(done, done + length));
      done += length;
    }
    return true;
  }

  /** Returns the host page of a page, which is pinned now, or -1 after a DMA fault. */
  #frame(piece: PinnedPiece, index: number): number {
    const known = piece.frames[index] as number;
    if (known >= 0) return known;
    const frame = this.#dma.pin(pageAt(piece, index), PERM_READ);
    if (frame === -DMA_RETRY) throw new DmaStalledError();
    if (frame >= 0) piece.frames[index] = frame;
    return frame >= 0 ? frame : -1;
  }

  #pieceAt(offset: number): PinnedPiece {
    const holds = (index: number): boolean => {
      const piece = this.#pieces[index];
      return piece !== undefined && offset >= piece.offset && offset < piece.offset + piece.length;
    };
    if (!holds(this.#last)) this.#last = holds(this.#last + 1) ? this.#last + 1 : this.#search(offset);
    return this.#pieces[this.#last] as PinnedPiece;
  }

  /** Returns the index of the last piece that does not begin behind `offset`. */
  #search(offset: number): number {
    let [low, high] = [0, this.#pieces.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((this.#pieces[middle] as PinnedPiece).offset <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #unpin(piece: PinnedPiece, from: number, to: number): void {
    for (let index = from; index < to; index++) {
      if ((piece.frames[index] as number) < 0) continue;
      piece.frames[index] = -1;
      this.#dma.unpin(pageAt(piece, index));
    }
  }
}
