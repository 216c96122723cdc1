/**
 * Page tables, contexts and VRAM of a vgpu's guest driver, against the real model.
 */
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import * as vgpu from '../../src/abi/vgpu/vgpu.ts';
import { type Gpa, type Iova, PAGE_2M, PAGE_SIZE } from '../../src/memory/address.ts';
import { type DrivenVgpu, DrivenVgpus } from '../fixtures/driven-vgpu.ts';

const { Kernel, Opcode } = vgpu;
const { ok, fault } = vgpu.CompletionStatus;
const iovaOf = (gpa: number): Iova => gpa as Iova;

describe('memory of a vgpu for its guest driver', () => {
  const { start, move, end } = new DrivenVgpus();
  afterEach(async () => expect(await end()).to.deep.equal([]));
  const fill = async ({ driver }: DrivenVgpu, target: number, value: number, context = 0): Promise<number> =>
    (await driver.submit({ opcode: Opcode.fill, context, target, length: PAGE_SIZE, value })).status;

  it('follows a page that is mapped again, and one that is unmapped', async () => {
    const gpu = await start();
    const [first, second] = [gpu.pages.allocate(), gpu.pages.allocate()];
    await gpu.driver.map(0, [iovaOf(first)]);
    expect(await fill(gpu, 0, 1)).to.equal(ok);
    await gpu.driver.map(0, [iovaOf(second)]);
    expect(await fill(gpu, 0, 2)).to.equal(ok);
    expect([gpu.ram.read32(first), gpu.ram.read32(second)]).to.deep.equal([1, 2]);
    await gpu.driver.unmap(0, 1);
    expect(await fill(gpu, 0, 3)).to.equal(fault);
    expect(gpu.ram.read32(second)).to.equal(2);
  });

  it('ends with the tables of context 0', async () => {
    const gpu = await start();
    const page = iovaOf(gpu.pages.allocate());
    const end = 4 * PAGE_2M;
    await gpu.driver.map(end - PAGE_SIZE, [page]);
    expect(await fill(gpu, end - PAGE_SIZE, 1)).to.equal(ok);
    for (const va of [end - PAGE_SIZE, end, 1])
      expect(() => gpu.driver.map(va, [page, page])).to.throw(RangeError, 'accepted: pages below');
  });

  it('is mapped and unmapped by commands', async () => {
    const gpu = await start();
    const page = gpu.pages.allocate();
    const context = await gpu.driver.createContext(2 ** 32);
    const update = async (iova?: Iova) =>
      (await gpu.driver.updatePtes(context.id, context.base, iova, PAGE_SIZE)).status;
    expect([await update(iovaOf(page)), await fill(gpu, context.base, 7, context.id)]).to.deep.equal([
      ok,
      ok,
    ]);
    expect(gpu.ram.read32(page)).to.equal(7);
    expect([await update(), await fill(gpu, context.base, 8, context.id)]).to.deep.equal([ok, fault]);
  });

  it('keeps no cleared entry of the global table', async () => {
    const gpu = await start();
    const page = iovaOf(gpu.pages.allocate());
    const saved = () => (gpu.driver.save() as { readonly global: unknown }).global;
    await gpu.driver.writeGlobal(3, page);
    expect(saved()).to.have.length(1);
    await gpu.driver.writeGlobal(3, undefined);
    await gpu.driver.readRegister('Id');
    expect(saved()).to.deep.equal([]);
  });

  it('has as many contexts as the device', async () => {
    const gpu = await start();
    for (let id = 1; id < vgpu.CONTEXTS_LIMIT; id++)
      expect((await gpu.driver.createContext(0)).id).to.equal(id);
    const page = gpu.pages.allocate() as Gpa;
    const last = gpu.driver.contexts.at(-1)!;
    last.write(last.base, iovaOf(page), PAGE_SIZE);
    expect(await fill(gpu, last.base, 9, last.id)).to.equal(ok);
    const refused = await gpu.driver.createContext(0).catch((error) => error);
    expect(refused).to.be.instanceOf(RangeError);
    expect(gpu.driver.contexts).to.have.length(vgpu.CONTEXTS_LIMIT - 1);
  });

  it('is reached by several flows at once through one aperture', async () => {
    const gpu = await start();
    const pieces = [1, 2, 3].map((value) => Buffer.alloc(100, value));
    await Promise.all(
      pieces.map((bytes, i) => gpu.driver.vram.write(i * vgpu.APERTURE_BYTES + 50 * i, bytes)),
    );
    const read = await Promise.all(
      pieces.map((bytes, i) => gpu.driver.vram.read(i * vgpu.APERTURE_BYTES + 50 * i, bytes.length)),
    );
    expect(read.map((bytes) => Buffer.from(bytes))).to.deep.equal(pieces);
  });

  it('moves with the count of hangs', async () => {
    const gpu = await start();
    await gpu.driver.writeRegister('ComputeHangLimitUs', 1);
    await gpu.driver.submit({ opcode: Opcode.compute, value: Kernel.spin, length: 4 });
    expect(gpu.driver.hangs).to.equal(1);
    const there = await move(gpu);
    expect(there.driver.hangs).to.equal(1);
  });
});
