/**
 * Screenshots of a device: its scanout, read through the MMIO channel and encoded as PNG. The registers that the
 * guest sees are not accessed.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, isAbsolute, resolve } from 'node:path';
import { decodeScanoutHeader, SCANOUT_HEADER_BYTES, type Scanout } from '../../abi/scanout.ts';
import { type MmioPort, REGION_SCANOUT } from '../../channel/mmio-channel.ts';
import { encodePng } from '../../report/png.ts';
import type { GuestDevice } from '../protocol.ts';

/** Thrown for a screenshot of a device without a scanout. */
export class NoScanoutError extends Error {
  constructor(device: string) {
    super(`${device} displays nothing; accepted: a device whose model has a scanout, and that is alive`);
    this.name = 'NoScanoutError';
  }
}

/** Resolves to a copy of the scanout; undefined while the display is off or the device is lost. */
async function readScanout(mmio: MmioPort): Promise<Scanout | undefined> {
  const header = new Uint8Array(SCANOUT_HEADER_BYTES);
  await mmio.readBlock(REGION_SCANOUT, 0, header);
  const scanout = decodeScanoutHeader(header);
  if (scanout) await mmio.readBlock(REGION_SCANOUT, SCANOUT_HEADER_BYTES, scanout.pixels);
  return scanout;
}

/**
 * Resolves to a PNG of the current scanout; also writes it to `file`, if given, relative to the folder of the run.
 * @throws NoScanoutError, or the file's error
 */
export async function screenshot(
  { name, folder = '' }: Pick<GuestDevice, 'name' | 'folder'>,
  mmio: MmioPort,
  file?: string,
): Promise<Uint8Array> {
  const scanout = await readScanout(mmio);
  if (!scanout) throw new NoScanoutError(name);
  const png = encodePng(scanout);
  if (file === undefined) return png;
  if (!isAbsolute(file)) await mkdir(dirname(resolve(folder, file)), { recursive: true });
  await writeFile(resolve(folder, file), png);
  return png;
}
