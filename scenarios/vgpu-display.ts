/**
 * Display of a vGPU: does it show the drawn picture, and does a reset leave nothing of it for the next owner?
 *
 * A picture is drawn twice into the VRAM of each vGPU: by its engine, and by the guest through the aperture. The
 * engine fills the background, copies a sprite from guest RAM, and then copies it within VRAM. Both must have the
 * same bytes and the same screenshot; the display flips from one to the other. After a reset of the function, VRAM
 * must be zero and drawing must work again.
 */
import { join, resolve } from 'node:path';
import { crc32 } from 'node:zlib';
import {
  allocatePages,
  CompletionStatus,
  type Gpa,
  type GpuCommand,
  type GuestGpu,
  type GuestVm,
  Opcode,
  PAGE_SIZE,
  scenario,
  submit,
  toIova,
} from 'mdevsim';

const WIDTH = 320;
const HEIGHT = 200;
const STRIDE = WIDTH * 4;
const BYTES = STRIDE * HEIGHT;
const PAGES = Math.ceil(BYTES / PAGE_SIZE);
/** Two buffers in VRAM, the first one mapped at a GPU address; the sprite is in guest RAM. */
const FRONT = 0;
const BACK = PAGES * PAGE_SIZE;
const PICTURE_VA = 0x20_0000;
const SPRITE_VA = 0;
const SPRITE = 32;
const SPRITE_BYTES = SPRITE * SPRITE * 4;
const COPIES = 6;

/** The expected picture, made by the CPU. */
interface Picture {
  readonly background: number;
  readonly sprite: Buffer;
  readonly pixels: Buffer;
}

const placeOf = (copy: number): number => (12 + copy * 28) * STRIDE + (16 + copy * 48) * 4;

function makePicture(vm: GuestVm, gpu: GuestGpu): Picture {
  const background = 0x10_1010 + ((vm.id * 0x35 + gpu.index * 0x1b) % 0x60) * 0x10001;
  const sprite = Buffer.alloc(SPRITE_BYTES);
  for (let i = 0; i < SPRITE * SPRITE; i++)
    sprite.writeUInt32LE(((i % SPRITE) * 0x8_0000) | (Math.floor(i / SPRITE) * 0x800) | 0x40, i * 4);
  const pixels = Buffer.alloc(BYTES);
  for (let at = 0; at < BYTES; at += 4) pixels.writeUInt32LE(background, at);
  for (let copy = 0; copy < COPIES; copy++)
    for (let line = 0; line < SPRITE; line++)
      sprite.copy(pixels, placeOf(copy) + line * STRIDE, line * SPRITE * 4, (line + 1) * SPRITE * 4);
  return { background, sprite, pixels };
}

async function expectOk(vm: GuestVm, gpu: GuestGpu, command: GpuCommand): Promise<number> {
  const { status, result } = await submit(vm, gpu, command);
  vm.verify.check(
    status === CompletionStatus.ok,
    `${gpu.name} command ${command.opcode} ended with ${status}`,
  );
  return result;
}

/** Draws the background, the sprite from guest RAM, and then copies of the sprite within VRAM. */
async function drawByEngine(
  vm: GuestVm,
  gpu: GuestGpu,
  picture: Picture,
  sprite: readonly Gpa[],
): Promise<void> {
  await gpu.driver.mapVram(PICTURE_VA, FRONT, PAGES);
  await gpu.driver.map(SPRITE_VA, sprite.map(toIova));
  for (const [i, page] of sprite.entries())
    vm.ram.write(page, picture.sprite.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE));
  const length = SPRITE * 4;
  await expectOk(vm, gpu, {
    opcode: Opcode.fill,
    target: PICTURE_VA,
    length: BYTES,
    value: picture.background,
  });
  for (let copy = 0; copy < COPIES; copy++)
    await Promise.all(
      Array.from({ length: SPRITE }, (_, line) =>
        expectOk(vm, gpu, {
          opcode: Opcode.copy,
          source: copy === 0 ? SPRITE_VA + line * length : PICTURE_VA + placeOf(copy - 1) + line * STRIDE,
          target: PICTURE_VA + placeOf(copy) + line * STRIDE,
          length,
        }),
      ),
    );
}

/** Draws the picture twice and shows both; resolves to a line for the report. */
async function show(vm: GuestVm, gpu: GuestGpu, picture: Picture, sprite: readonly Gpa[]): Promise<string> {
  const { driver } = gpu;
  await drawByEngine(vm, gpu, picture, sprite);
  const sum = await expectOk(vm, gpu, { opcode: Opcode.checksum, source: PICTURE_VA, length: BYTES });
  vm.verify.check(
    sum === crc32(picture.pixels),
    `${gpu.name} VRAM differs from the picture that its engine drew`,
  );
  await driver.vram.write(BACK, picture.pixels);
  const read = Buffer.from(await driver.vram.read(FRONT, BYTES));
  vm.verify.check(
    read.equals(picture.pixels),
    `${gpu.name} aperture differs from the picture that its engine drew`,
  );

  await driver.display.show({ width: WIDTH, height: HEIGHT, base: FRONT });
  const file = join(String(vm.params.folder), `mdevsim-${gpu.name.replace('/', '-')}.png`);
  const drawn = Buffer.from(await driver.screenshot(file));
  await driver.display.flip(BACK);
  const written = await driver.screenshot();
  vm.verify.check(drawn.equals(written), `${gpu.name} shows another picture after the flip`);
  return `${gpu.name}: ${WIDTH} × ${HEIGHT} pixels, ${drawn.length} bytes in ${resolve(vm.folder, file)}`;
}

/** Resets the function and checks that nothing is left of the picture. */
async function checkReset(vm: GuestVm, gpu: GuestGpu): Promise<void> {
  await gpu.driver.reset();
  const shown = await gpu.driver.screenshot().catch(() => undefined);
  vm.verify.check(shown === undefined, `${gpu.name} still displays a picture after its reset`);
  const left = Buffer.from(await gpu.driver.vram.read(FRONT, BACK + BYTES));
  vm.verify.check(left.equals(Buffer.alloc(left.length)), `${gpu.name} VRAM is not empty after its reset`);
}

export default scenario({
  name: 'vgpu-display',
  question: 'Does the display of a vGPU show the drawn picture, and does a reset leave nothing of it?',
  vms: 2,
  vgpus: 2,
  ramMiB: 16,
  params: { folder: '' },
  viommu: 'none',

  async guest(vm: GuestVm): Promise<void> {
    const sprites = new Map(vm.gpus.map((gpu) => [gpu, allocatePages(vm, SPRITE_BYTES / PAGE_SIZE)]));
    for (const phase of ['draw and flip', 'draw again after a reset']) {
      await vm.phase(phase);
      await vm.eachGpu(async (gpu) => {
        const isFirst = phase === 'draw and flip';
        if (!isFirst) await checkReset(vm, gpu);
        const shown = await show(vm, gpu, makePicture(vm, gpu), sprites.get(gpu) as readonly Gpa[]);
        if (isFirst) vm.note(shown);
      });
    }
  },
});
