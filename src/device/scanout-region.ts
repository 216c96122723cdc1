/**
 * A model's scanout as the region REGION_SCANOUT: a header, then the lines. A read at offset 0 takes a new picture.
 */
import { checkScanout, encodeScanoutHeader, SCANOUT_HEADER_BYTES, type Scanout } from '../abi/scanout.ts';
import type { DeviceModel } from './model.ts';

export class ScanoutRegion {
  readonly #model: DeviceModel;
  readonly #complain: (text: string) => void;
  #current: Scanout | undefined;

  /** `complain` is called for an invalid picture. */
  constructor(model: DeviceModel, complain: (text: string) => void) {
    this.#model = model;
    this.#complain = complain;
  }

  /** Returns the picture that the model displays now. */
  take(): Scanout | undefined {
    const scanout: Scanout | undefined = this.#model.scanout?.();
    if (scanout === undefined) return undefined;
    try {
      checkScanout(scanout);
      return scanout;
    } catch (error) {
      this.#complain(`scanout() returns ${(error as Error).message}`);
      return undefined;
    }
  }

  /** Fills `bytes` up to the end of the region. */
  read(offset: number, bytes: Uint8Array): void {
    if (offset === 0) this.#current = this.take();
    if (offset < SCANOUT_HEADER_BYTES) {
      bytes.set(encodeScanoutHeader(this.#current).subarray(offset, offset + bytes.length));
      return;
    }
    if (!this.#current) return;
    const { stride, height, pixels } = this.#current;
    const from = offset - SCANOUT_HEADER_BYTES;
    bytes.set(pixels.subarray(from, Math.min(from + bytes.length, stride * height)));
  }
}
