/**
 * What a device displays, read through its MMIO channel.
 */
import { type MmioPort, REGION_SCANOUT } from '../channel/mmio-channel.ts';
import { decodeScanoutHeader, SCANOUT_HEADER_BYTES, type Scanout } from '../pci/scanout.ts';

/** A copy of the device's scanout, or undefined while it displays nothing, or is lost. */
export async function readScanout(mmio: MmioPort): Promise<Scanout | undefined> {
  const header = new Uint8Array(SCANOUT_HEADER_BYTES);
  await mmio.readBlock(REGION_SCANOUT, 0, header);
  const scanout = decodeScanoutHeader(header);
  if (scanout) await mmio.readBlock(REGION_SCANOUT, SCANOUT_HEADER_BYTES, scanout.pixels);
  return scanout;
}
