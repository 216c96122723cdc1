/**
 * Set-up of a vgpu's PCI function by its guest driver: placement of the BARs, MSI-X, reset.
 */

import { VGPU_MSIX } from '../../abi/vgpu/vgpu.ts';
import { type MmioPort, REGION_BAR0, REGION_CONFIG } from '../../channel/mmio-channel.ts';
import { COMMAND_BUS_MASTER, COMMAND_MEMORY_SPACE } from '../../pci/config-space.ts';
import { CONTROL_FUNCTION_RESET, EXPRESS_CONTROL } from '../../pci/express.ts';
import {
  MSIX_CAPABILITY,
  MSIX_ENABLE,
  MSIX_ENTRY_BYTES,
  MSIX_ENTRY_CONTROL,
  MSIX_ENTRY_DATA,
} from '../../pci/msix-format.ts';
import { placeBars } from '../place-bars.ts';

/** Address of interrupt messages, and the first interrupt number for devices. */
const MESSAGE_ADDRESS = 0xfee0_0000n;
const MESSAGE_DATA = 0x30;

/** Sizes and places the BARs, enables memory space and bus mastering, and enables all MSI-X vectors. */
export async function enableFunction(mmio: MmioPort, index: number): Promise<void> {
  await placeBars(mmio, index);
  await mmio.write(REGION_CONFIG, 0x04, 2, BigInt(COMMAND_BUS_MASTER | COMMAND_MEMORY_SPACE));
  const { vectors, table } = VGPU_MSIX;
  for (let vector = 0; vector < vectors; vector++) {
    const entry = table + vector * MSIX_ENTRY_BYTES;
    await mmio.write(REGION_BAR0, entry, 8, MESSAGE_ADDRESS);
    const data = MESSAGE_DATA + index * vectors + vector;
    await mmio.write(REGION_BAR0, entry + MSIX_ENTRY_DATA, 4, BigInt(data));
    await mmio.write(REGION_BAR0, entry + MSIX_ENTRY_CONTROL, 4, 0n);
  }
  await mmio.write(REGION_CONFIG, MSIX_CAPABILITY + 2, 2, BigInt(MSIX_ENABLE));
}

/** Disables the BARs and bus mastering. The function accesses no memory any more when the read returns. */
export async function disableFunction(mmio: MmioPort): Promise<void> {
  await mmio.write(REGION_CONFIG, 0x04, 2, 0n);
  await mmio.read(REGION_CONFIG, 0x04, 2);
}

/** Resets the function. The reset is complete when the read after the write returns. */
export async function resetFunction(mmio: MmioPort): Promise<void> {
  const control = await mmio.read(REGION_CONFIG, EXPRESS_CONTROL, 2);
  await mmio.write(REGION_CONFIG, EXPRESS_CONTROL, 2, control | CONTROL_FUNCTION_RESET);
  await mmio.read(REGION_CONFIG, EXPRESS_CONTROL, 2);
}
