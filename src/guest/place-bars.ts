/**
 * Placement of a device's BARs by its driver.
 */
import { type MmioPort, REGION_CONFIG } from '../channel/mmio-channel.ts';
import { BAR_SIZE_PROBE, BarSpace } from '../pci/bar-allocator.ts';
import { BAR_OFFSETS } from '../pci/config-space.ts';

/** Sizes and places the BARs of the VM's device `index`. */
export async function placeBars(mmio: MmioPort, index: number): Promise<void> {
  const space = new BarSpace(index);
  for (const offset of BAR_OFFSETS) {
    await mmio.write(REGION_CONFIG, offset, 4, BAR_SIZE_PROBE);
    const sized = Number(await mmio.read(REGION_CONFIG, offset, 4));
    await mmio.write(REGION_CONFIG, offset, 4, BigInt(space.place(sized)));
  }
}
