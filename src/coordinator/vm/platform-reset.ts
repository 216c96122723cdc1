/**
 * Reset of a VM's platform, between two of its guests.
 *
 * The guest's thread has ended. No device may reach memory of the next guest by an address of the last one:
 *   1. The commands that the guest has given to its vIOMMU are complete.
 *   2. Every function is reset. When it answers, its DMA has ended and it holds no pins.
 *   3. The vIOMMU has its reset values. Every address space is switched: the IOMMU's mappings go, then the identity map
 *      comes (R2, R3).
 *   4. Every function is reset once more, as QEMU does, so that nothing of step 3 is left in a model.
 *   5. RAM is zeroed, if asked.
 */
import type { Hpa } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { VmDevice } from './device.ts';
import type { RebootSettings } from './guest-lives.ts';

interface ResettableVm {
  readonly ram: GuestRam;
  readonly devices: readonly VmDevice[];
  /** Waits for the commands of the guest, and drops the accesses that it has posted. */
  settle(): Promise<void>;
  /** Puts a vIOMMU with its reset values in place of the old one, and attaches every device. */
  resetIommu(): Promise<void>;
  /** Quarantines a device. Never rejects. */
  quarantine(device: VmDevice, kind: string, detail: string): Promise<void>;
}

export async function resetPlatform(vm: ResettableVm, { clearRam }: RebootSettings): Promise<void> {
  await vm.settle();
  await resetFunctions(vm);
  await vm.resetIommu();
  await resetFunctions(vm);
  const { host } = vm.ram;
  if (clearRam) host.fill32(host.base as Hpa, host.size, 0);
}

async function resetFunctions(vm: ResettableVm): Promise<void> {
  const present = vm.devices.filter(({ alive }) => alive);
  await Promise.all(present.map((device) => resetFunction(vm, device)));
}

async function resetFunction(vm: ResettableVm, device: VmDevice): Promise<void> {
  try {
    await device.control.reset();
  } catch (error) {
    await vm.quarantine(device, 'did-not-reset', error instanceof Error ? error.message : String(error));
    return;
  }
  const pins = device.container.pins();
  if (pins > 0) await vm.quarantine(device, 'pins-kept-at-reset', `holds ${pins} pins after its reset`);
}
