/**
 * A user-defined device with the script as its driver. The `edu` device (docs/writing-a-device.md) copies pages
 * through its buffer, each time with new mappings, and computes factorials. Every byte is verified.
 */
import { allocatePages, type GuestPciDevice, type GuestVm, type Iova, PAGE_SIZE, scenario } from 'mdevsim';

/** Registers in BAR 0 of the device. */
const LIVENESS = 0x04;
const FACTORIAL = 0x08;
const STATUS = 0x20;
const INTERRUPT_STATUS = 0x24;
const ACKNOWLEDGE = 0x64;
const DMA_SOURCE = 0x80;
const DMA_DESTINATION = 0x88;
const DMA_COUNT = 0x90;
const DMA_COMMAND = 0x98;

const STATUS_INTERRUPT = 0x80;
const DMA_DONE = 0x100;
const TO_BUFFER = 5; // start, interrupt
const FROM_BUFFER = 7;
const BUFFER = 0x4_0000;
const BYTES = 1024;
const ROUNDS = 20;

/** Waits for an interrupt, clears its causes and resolves to them. */
async function waitForCauses(device: GuestPciDevice, seen: number): Promise<number> {
  await device.waitInterrupt(0, seen);
  const causes = Number(await device.read(0, INTERRUPT_STATUS, 4));
  await device.write(0, ACKNOWLEDGE, 4, causes);
  return causes;
}

/** Makes a transfer; resolves to the causes of its interrupt. */
async function transfer(device: GuestPciDevice, source: number, destination: number, command: number) {
  const seen = device.interrupts(0);
  await device.write(0, DMA_SOURCE, 8, source);
  await device.write(0, DMA_DESTINATION, 8, destination);
  await device.write(0, DMA_COUNT, 8, BYTES);
  await device.write(0, DMA_COMMAND, 4, command);
  return waitForCauses(device, seen);
}

/** Checks the liveness register, which inverts its value, and a factorial. */
async function checkArithmetic(vm: GuestVm, device: GuestPciDevice): Promise<void> {
  const value = vm.prng.next32();
  await device.write(0, LIVENESS, 4, value);
  const inverse = Number(await device.read(0, LIVENESS, 4));
  vm.verify.check(
    inverse === ~value >>> 0,
    `${device.name} liveness register returned ${inverse} for ${value}`,
  );
  const seen = device.interrupts(0);
  await device.write(0, STATUS, 4, STATUS_INTERRUPT);
  await device.write(0, FACTORIAL, 4, 12);
  await waitForCauses(device, seen);
  const factorial = await device.read(0, FACTORIAL, 4);
  vm.verify.check(factorial === 479_001_600n, `${device.name} computed 12! = ${factorial}`);
}

/** Copies the start of one page to another through the device, and compares the whole page. */
async function copyRound(vm: GuestVm, device: GuestPciDevice): Promise<void> {
  const [from, to] = allocatePages(vm, 2);
  if (from === undefined || to === undefined) throw new Error('no pages');
  const bytes = Uint8Array.from({ length: BYTES }, () => vm.prng.below(256));
  vm.ram.write(from, bytes);
  const buffer = await device.dma.map([from, to]);
  const [source, target] = buffer.iovas as [Iova, Iova];
  const causes = [
    await transfer(device, source, BUFFER, TO_BUFFER),
    await transfer(device, BUFFER, target, FROM_BUFFER),
  ];
  vm.verify.check(
    causes.every((cause) => cause === DMA_DONE),
    `${device.name} ended a transfer with ${causes}`,
  );
  vm.verify.pages(
    [to],
    Buffer.concat([bytes, vm.ram.read(to + BYTES, PAGE_SIZE - BYTES)]),
    `${device.name} copy`,
  );
  await device.dma.unmap(buffer);
  for (const page of [from, to]) vm.pages.free(page);
  vm.operations++;
}

export default scenario({
  name: 'edu-device',
  question: 'Does a user-defined device use its mappings only, and copy every byte?',
  model: 'edu',
  vms: 2,
  vgpus: 2,
  ramMiB: 16,
  params: {},

  async guest(vm: GuestVm): Promise<void> {
    await vm.phase('identity');
    await vm.eachDevice(async (device) => {
      await checkArithmetic(vm, device);
      for (let round = 0; round < ROUNDS; round++) await copyRound(vm, device);
    });
    if (vm.viommu === 'none') return;

    await vm.phase('translated');
    const iommu = await vm.iommu();
    for (const device of vm.devices) await vm.translate(device);
    await vm.timedSwitch(() => iommu.enableTranslation());
    await vm.eachDevice(async (device) => {
      for (let round = 0; round < ROUNDS; round++) await copyRound(vm, device);
    });
    await vm.audit();
  },
});
