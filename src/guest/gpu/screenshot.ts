/**
 * What a device displays, read through its MMIO channel and made a file of. The host's look at the display: the guest's
 * registers are not touched.
 */
import { writeFile } from 'node:fs/promises';
import { decodeScanoutHeader, SCANOUT_HEADER_BYTES, type Scanout } from '../../abi/scanout.ts';
import { type MmioPort, REGION_SCANOUT } from '../../channel/mmio-channel.ts';
import { encodePng } from '../../report/png.ts';

/** A device that displays nothing cannot be photographed. */
export class NoScanoutError extends Error {
  constructor(device: string) {
    super(`${device} displays nothing; accepted: a device whose model has a scanout, and that is alive`);
    this.name = 'NoScanoutError';
  }
}

/** A copy of the device's scanout, or undefined while it displays nothing, or is lost. */
async function readScanout(mmio: MmioPort): Promise<Scanout | undefined> {
  const header = new Uint8Array(SCANOUT_HEADER_BYTES);
  await mmio.readBlock(REGION_SCANOUT, 0, header);
  const scanout = decodeScanoutHeader(header);
  if (scanout) await mmio.readBlock(REGION_SCANOUT, SCANOUT_HEADER_BYTES, scanout.pixels);
  return scanout;
}

/**
 * The PNG of what a device displays now, also written to `file` if one is named (relative to the working directory).
 * @throws NoScanoutError, or the file's error
 */
export async function screenshot(device: string, mmio: MmioPort, file?: string): Promise<Uint8Array> {
  const scanout = await readScanout(mmio);
  if (!scanout) throw new NoScanoutError(device);
  const png = encodePng(scanout);
  if (file !== undefined) await writeFile(file, png);
  return png;
}
