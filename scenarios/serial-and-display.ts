/**
 * Devices without DMA: a serial card whose ports loop back each byte with an interrupt, and a display that is drawn
 * and captured. Both are models of the kernel's sample drivers `mtty` and `mdpy`.
 */
import { join, resolve } from 'node:path';
import {
  type GuestPciDevice,
  type GuestVm,
  MDPY_HEIGHT,
  MDPY_WIDTH,
  PIXEL_BYTES,
  scenario,
  uart,
} from 'mdevsim';

const FIFO_ON_AND_CLEAR = uart.FCR_ENABLE_FIFO | uart.FCR_CLEAR_RCVR | uart.FCR_CLEAR_XMIT;
const PORTS = [0, 1];
const BYTES = 200;

const MODELS: Readonly<Record<number, string>> = { 12883: 'mtty', 15: 'mdpy' };

/** Sends a byte; resolves to the byte that comes back, or to -1 without the interrupt for received data. */
async function echo(device: GuestPciDevice, port: number, value: number): Promise<number> {
  const seen = device.interrupts(0);
  await device.write(port, uart.TX, 1, value);
  await device.waitInterrupt(0, seen);
  const cause = Number(await device.read(port, uart.IIR, 1)) & uart.IIR_MASK;
  const status = Number(await device.read(port, uart.LSR, 1));
  if (cause !== uart.IIR_RDI || (status & uart.LSR_DR) === 0) return -1;
  return Number(await device.read(port, uart.RX, 1));
}

/** Checks the loopback of all ports. */
async function loopback(vm: GuestVm, device: GuestPciDevice): Promise<void> {
  for (const port of PORTS) {
    await device.write(port, uart.FCR, 1, FIFO_ON_AND_CLEAR);
    await device.write(port, uart.IER, 1, uart.IER_RDI);
    for (let i = 0; i < BYTES; i++) {
      const sent = vm.prng.below(256);
      const got = await echo(device, port, sent);
      vm.verify.check(got === sent, `${device.name} port ${port} returned ${got} for ${sent}`);
      vm.operations++;
    }
    await device.write(port, uart.IER, 1, 0);
  }
}

/** Returns a picture of colour bars over a ramp; `tint` varies the colours between VMs. */
function picture(width: number, height: number, tint: number): Uint8Array {
  const pixels = new Uint8Array(width * height * PIXEL_BYTES);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const bar = Math.floor((x * 8) / width) ^ tint;
      const light = Math.floor(((height - y) * 255) / height);
      const at = (y * width + x) * PIXEL_BYTES;
      for (let colour = 0; colour < 3; colour++) pixels[at + colour] = (bar >> colour) & 1 ? light : 0;
    }
  return pixels;
}

/** Draws into the framebuffer and checks the screenshot. */
async function draw(vm: GuestVm, device: GuestPciDevice): Promise<void> {
  const width = Number(await device.readConfig(MDPY_WIDTH, 4));
  const height = Number(await device.readConfig(MDPY_HEIGHT, 4));
  const before = await device.screenshot();
  const pixels = picture(width, height, vm.id % 8);
  await device.writeBlock(0, 0, pixels);
  const drawn = Buffer.from(await device.readBlock(0, 0, pixels.length));
  vm.verify.check(drawn.equals(pixels), `${device.name} framebuffer differs from the drawn picture`);
  const file = join(String(vm.params.folder), `mdevsim-${device.name.replace('/', '-')}.png`);
  const after = await device.screenshot(file);
  vm.verify.check(!Buffer.from(before).equals(after), `${device.name} shows the same picture as before`);
  vm.note(
    `${device.name}: ${width} × ${height} pixels, ${after.length} bytes in ${resolve(vm.folder, file)}`,
  );
  vm.operations++;
}

export default scenario({
  name: 'serial-and-display',
  question:
    'Does a serial port loop back each byte with an interrupt, and does a display show the drawn picture?',
  model: 'mtty,mdpy',
  vms: 2,
  vgpus: 2,
  ramMiB: 16,
  params: { folder: '' },
  viommu: 'none',

  async guest(vm: GuestVm): Promise<void> {
    await vm.phase('echo and draw');
    await vm.eachDevice(async (device) => {
      const model = MODELS[Number(await device.readConfig(2, 2))];
      if (model === 'mtty') await loopback(vm, device);
      else if (model === 'mdpy') await draw(vm, device);
      else vm.note(`${device.name} is neither a serial port nor a display`);
    });
  },
});
