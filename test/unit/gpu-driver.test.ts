import { crc32 } from 'node:zlib';
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import { sleep } from '#host';
import * as vgpu from '../../src/abi/vgpu/vgpu.ts';
import type { MmioTarget } from '../../src/channel/mmio-channel.ts';
import { GpuDriver } from '../../src/guest/gpu/driver.ts';
import { DeviceResetError } from '../../src/guest/gpu/errors.ts';
import { type GpuCommand, RING_ENTRIES, WAITING_LIMIT } from '../../src/guest/gpu/ring.ts';
import { InFlightError } from '../../src/guest/in-flight.ts';
import { type Iova, PAGE_SIZE } from '../../src/memory/address.ts';
import { type DrivenVgpu, DrivenVgpus } from '../fixtures/driven-vgpu.ts';
import { until } from '../support/until.ts';

const { Kernel, Opcode } = vgpu;
const { ok, fault, hung } = vgpu.CompletionStatus;
const FILL = { opcode: Opcode.fill, target: 0, length: PAGE_SIZE, value: 0x1234_5678 };

describe('guest driver of a vgpu', () => {
  const { start, move, end } = new DrivenVgpus();
  afterEach(async () => expect(await end()).to.deep.equal([]));

  it('receives completions, errors and display events by separate MSI-X vectors', async () => {
    const gpu = await start();
    await gpu.buffer(0, 1);
    for (let i = 0; i < 3; i++) expect((await gpu.driver.submit(FILL)).status).to.equal(ok);
    expect((await gpu.driver.submit({ ...FILL, target: 0x10_0000 })).status).to.equal(fault);
    const counts = () => [0, 1, 2, 3].map((vector) => gpu.link.interrupts(vector));
    expect(counts()).to.deep.equal([4, 1, 0, 0]);
    const spin = await gpu.driver.submit({ opcode: Opcode.compute, value: Kernel.spin, length: 4 });
    expect([spin.status, gpu.driver.hangs]).to.deep.equal([hung, 1]);
    expect(counts()).to.deep.equal([4, 2, 0, 1]);
  });

  it('has rung every doorbell when its state is saved', async () => {
    const gpu = await start();
    await gpu.buffer(0, 1);
    const done = gpu.driver.submit(FILL);
    gpu.gate.close();
    gpu.driver.save();
    const written: number[] = [];
    const write: MmioTarget['write'] = (region, offset, size, value) => {
      written.push(offset);
      gpu.instance.write(region, offset, size, value);
    };
    const none = () => expect.fail('only writes');
    gpu.link.mmioServer().serve({ write, read: none, readBlock: none, writeBlock: none }, 64);
    expect(written.at(-1)).to.equal(vgpu.VGPU_OFFSET.RingTail);
    gpu.gate.open();
    expect((await done).status).to.equal(ok);
  });

  it('sends each command to its engine, or to the named one', async () => {
    const gpu = await start();
    const [page] = await gpu.buffer(0, 1);
    const sum = { opcode: Opcode.compute, value: Kernel.sum, length: PAGE_SIZE };
    expect(await gpu.driver.submit(FILL)).to.include({ status: ok });
    const { result } = await gpu.driver.submit(sum);
    expect(result).to.equal((FILL.value * (PAGE_SIZE / 4)) % 2 ** 32);
    const { badCommand } = vgpu.CompletionStatus;
    expect((await gpu.driver.submit({ ...sum, engine: 'copy' })).status).to.equal(badCommand);
    expect((await gpu.driver.submit({ ...FILL, engine: 'compute' })).status).to.equal(badCommand);
    const done: string[] = [];
    const named = (name: string, command: GpuCommand) =>
      gpu.driver.submit(command).then(({ status }) => void done.push(`${name} ${status}`));
    const all = [
      named('wait', { opcode: Opcode.wait, engine: 'compute', source: 8, value: FILL.value + 1 }),
      named('nop', { opcode: Opcode.nop, engine: 'compute' }),
      named('fill', FILL),
    ];
    await all[2];
    expect(done, 'the other ring waits').to.deep.equal(['fill 0']);
    all.push(named('signal', { opcode: Opcode.signal, target: 8, value: FILL.value + 1 }));
    await Promise.all(all);
    expect(done.sort()).to.deep.equal(['fill 0', 'nop 0', 'signal 0', 'wait 0']);
    expect(gpu.ram.read32((page as number) + 8)).to.equal(FILL.value + 1);
    const rings = ['RingBase', 'CompletionBase', 'ComputeRingBase', 'ComputeCompletionBase'] as const;
    const bases = await Promise.all(rings.map((name) => gpu.driver.readRegister(name)));
    expect(new Set(bases).size).to.equal(4);
    expect(gpu.driver.staticPages).to.include.members(bases);
  });

  it('resets only the engine that hangs, and ends a wait on request', async () => {
    const gpu = await start();
    await gpu.buffer(0, 64);
    await gpu.driver.writeRegister('HangLimitUs', 1);
    const source = 63 * PAGE_SIZE;
    const waiting = gpu.driver.submit({ opcode: Opcode.wait, engine: 'compute', source, value: 1 });
    const long = await gpu.driver.submit({ ...FILL, length: 60 * PAGE_SIZE });
    expect([long.status, gpu.driver.hangs]).to.deep.equal([hung, 1]);
    expect((await gpu.driver.submit(FILL)).status).to.equal(ok);
    await gpu.driver.resetEngine('compute');
    expect((await waiting).status).to.equal(hung);
    const sum = { opcode: Opcode.compute, value: Kernel.sum, length: 4 };
    expect((await gpu.driver.submit(sum)).status).to.equal(ok);
  });

  it('restores page tables, contexts and the global table after a function-level reset', async () => {
    const gpu = await start();
    const [page] = await gpu.buffer(0, 1);
    const context = await gpu.driver.createContext(2 ** 32);
    context.write(context.base, page as number as Iova, PAGE_SIZE);
    await gpu.driver.writeGlobal(1, page as number as Iova);
    await gpu.driver.vram.write(0, Buffer.from('of the last owner'));
    gpu.working = false;
    const lost = [gpu.driver.submit(FILL), gpu.driver.submit({ opcode: Opcode.nop, engine: 'compute' })];
    const outcomes = Promise.allSettled(lost);
    await gpu.driver.reset();
    gpu.working = true;
    for (const [i, outcome] of (await outcomes).entries()) {
      const { reason } = outcome as PromiseRejectedResult;
      expect(reason).to.be.instanceOf(DeviceResetError);
      expect(reason.message).to.equal(`vm0/gpu0 was reset before command ${i + 1} completed`);
    }
    expect(gpu.driver.alive).to.equal(true);
    const value = 0x55aa_55aa;
    for (const [which, target] of [
      [0, 0],
      [context.id, context.base],
      [vgpu.GLOBAL_CONTEXT, PAGE_SIZE],
    ] as const) {
      gpu.ram.write32(page as number, 0);
      const { status } = await gpu.driver.submit({ ...FILL, context: which, target, value });
      expect([status, gpu.ram.read32(page as number)], `context ${which}`).to.deep.equal([ok, value]);
    }
    const nop = await gpu.driver.submit({ opcode: Opcode.nop, engine: 'compute' });
    expect(nop.status).to.equal(ok);
    expect(Buffer.from(await gpu.driver.vram.read(0, 17)).equals(Buffer.alloc(17))).to.equal(true);
  });

  it('works again after the reset of a halted device', async () => {
    const gpu = await start();
    await gpu.buffer(0, 1);
    await gpu.driver.writeRegister('Control', 0);
    await gpu.driver.writeRegister('RingBase', 2 ** 40);
    await gpu.driver.writeRegister('Control', vgpu.CONTROL_ENABLE);
    const halted = await gpu.driver.submit(FILL).catch((error) => error);
    expect([halted.name, gpu.driver.alive]).to.deep.equal(['DeviceHaltedError', false]);
    const still = await gpu.driver.submit(FILL).catch((error) => error);
    expect(still.name).to.equal('DeviceHaltedError');
    await gpu.driver.reset();
    expect([(await gpu.driver.submit(FILL)).status, gpu.driver.alive]).to.deep.equal([ok, true]);
    gpu.link.mmioServer().close();
    const lost = await gpu.driver.reset().catch((error) => error);
    expect(lost.name).to.equal('DeviceLostError');
  });

  it('delays commands during a reset until its end', async () => {
    const gpu = await start();
    await gpu.buffer(0, 1);
    const reset = gpu.driver.reset();
    const during = gpu.driver.submit(FILL);
    await reset;
    expect((await during).status).to.equal(ok);
  });

  it('copies bytes through the aperture and across its end, and refuses addresses beyond VRAM', async () => {
    const gpu = await start();
    const bytes = Buffer.from(Uint8Array.from({ length: 40_000 }, (_, i) => (i * 31 + (i >> 8)) & 0xff));
    const offset = vgpu.APERTURE_BYTES - 10_001;
    await gpu.driver.vram.write(offset, bytes);
    const [back, first] = await Promise.all([
      gpu.driver.vram.read(offset, bytes.length),
      gpu.driver.vram.read(offset, 3),
    ]);
    expect(Buffer.from(back).equals(bytes)).to.equal(true);
    expect(Buffer.from(first).equals(bytes.subarray(0, 3))).to.equal(true);
    await gpu.driver.mapVram(0, vgpu.APERTURE_BYTES - 3 * PAGE_SIZE, 8);
    const sum = await gpu.driver.submit({
      opcode: Opcode.checksum,
      source: 3 * PAGE_SIZE - 10_001,
      length: 20_000,
    });
    expect(sum.result).to.equal(crc32(bytes.subarray(0, 20_000)));
    const size = await gpu.driver.vram.size();
    const refused = await gpu.driver.vram.write(size - 3, bytes.subarray(0, 4)).catch((error) => error);
    expect(refused).to.be.instanceOf(RangeError);
    expect(refused.message).to.include('accepted: within 0x4000000 bytes');
    expect(() => gpu.driver.mapVram(0, 7, 1)).to.throw(RangeError, 'multiples of 4096');
  });

  it('shows a picture, flips to another, and reports a mode that the device refuses', async () => {
    const gpu = await start();
    const mode = { width: 32, height: 16, base: 0 };
    await gpu.driver.vram.write(0, new Uint8Array(2048).fill(0x40));
    await gpu.driver.vram.write(PAGE_SIZE, new Uint8Array(2048).fill(0x80));
    expect((await gpu.driver.screenshot().catch((error) => error)).name).to.equal('NoScanoutError');
    await gpu.driver.display.show(mode);
    const first = await gpu.driver.screenshot();
    await gpu.driver.display.flip(PAGE_SIZE);
    expect(Buffer.from(await gpu.driver.screenshot()).equals(first)).to.equal(false);
    expect(gpu.link.interrupts(vgpu.VECTOR_DISPLAY)).to.equal(1);
    expect(await gpu.driver.display.frames()).to.be.greaterThan(0);
    const bad = await gpu.driver.display.show({ ...mode, width: 5000 }).catch((error) => error);
    expect(bad.message).to.include('does not display 5000 × 16');
    await gpu.driver.display.show(mode);
    expect(Buffer.from(await gpu.driver.screenshot()).equals(first)).to.equal(true);
    await gpu.driver.display.off();
    expect((await gpu.driver.screenshot().catch((error) => error)).name).to.equal('NoScanoutError');
  });

  it('migrates with its VM, completes pending commands on the target host, and keeps other state', async () => {
    const here = await start();
    const [page] = await here.buffer(0, 1);
    const context = await here.driver.createContext(2 ** 32);
    context.write(context.base, 0, 2 * PAGE_SIZE, { vram: true });
    await here.driver.writeGlobal(3, page as number as Iova);
    await here.driver.vram.write(0, Buffer.alloc(2 * PAGE_SIZE, 7));
    await here.driver.display.show({ width: 16, height: 16, base: 0 });
    await here.driver.submit(FILL);
    const picture = await here.driver.screenshot();
    here.working = false;
    const left = [
      here.driver.submit({ ...FILL, value: 5 }),
      here.driver.submit({ opcode: Opcode.compute, value: Kernel.spin, length: 4 }),
      here.driver.submit({ opcode: Opcode.wait, source: 16, value: 7 }),
      here.driver.submit({ opcode: Opcode.signal, engine: 'compute', target: 16, value: 7 }),
      here.driver.submit({
        opcode: Opcode.checksum,
        context: context.id,
        source: context.base,
        length: 8192,
      }),
    ];
    for (const each of left) each.catch(() => {});
    await here.driver.readRegister('RingTail');
    // Here, only the first command of each ring has been fetched.
    for (let i = 0; i < 2; i++) here.instance.step();
    const there = await move(here);
    const sequenceOf = ({ driver }: DrivenVgpu) => (driver.save() as { sequence: number }).sequence;
    expect(sequenceOf(there)).to.equal(sequenceOf(here)).and.to.be.greaterThan(5);
    const outcomes = await Promise.all(there.driver.outstanding());
    expect(outcomes.map(({ status }) => status)).to.deep.equal([ok, hung, ok, ok, ok]);
    expect(outcomes[2]?.result).to.equal(7);
    expect(outcomes[4]?.result).to.equal(crc32(Buffer.alloc(8192, 7)));
    expect(there.ram.read32(page as number)).to.equal(5);
    expect(there.driver.contexts.map(({ id, base }) => [id, base])).to.deep.equal([
      [context.id, context.base],
    ]);
    expect(Buffer.from(await there.driver.screenshot()).equals(picture)).to.equal(true);
    expect((await there.driver.submit({ ...FILL, value: 6 })).status).to.equal(ok);
    expect(there.ram.read32(page as number)).to.equal(6);
    // The driver's copy of the global table migrated too, so a reset rewrites the table.
    await there.driver.reset();
    const { status } = await there.driver.submit({
      ...FILL,
      context: vgpu.GLOBAL_CONTEXT,
      target: 3 * PAGE_SIZE,
      value: 9,
    });
    expect([status, there.ram.read32(page as number)]).to.deep.equal([ok, 9]);
    expect(there.driver.hangs).to.equal(1);
  });

  it('migrates commands that wait for room in a ring, in order, and keeps a limited count of them', async () => {
    const here = await start();
    const [page] = await here.buffer(0, 1);
    here.working = false;
    const commands = WAITING_LIMIT + RING_ENTRIES - 1;
    for (let value = 1; value <= commands; value++) here.driver.submit({ ...FILL, value }).catch(() => {});
    const refused = await here.driver.submit(FILL).catch((error) => error);
    expect(refused.message).to.equal(
      '65536 commands wait for room in the copy ring of vm0/gpu0; accepted: 65536',
    );
    here.driver.submit({ opcode: Opcode.nop, engine: 'compute' }).catch(() => {});
    await here.driver.readRegister('RingTail');
    const saved = here.driver.save() as { rings: { copy: { waiting: unknown[] } } };
    saved.rings.copy.waiting.length = 100;
    const there = await move(here, saved);
    const rest = await Promise.all(there.driver.outstanding());
    expect(rest.map(({ status }) => status)).to.deep.equal(Array(RING_ENTRIES + 100).fill(ok));
    expect(there.ram.read32(page as number)).to.equal(RING_ENTRIES - 1 + 100);
    expect((await there.driver.submit({ ...FILL, value: 7 })).status).to.equal(ok);
    expect(there.ram.read32(page as number)).to.equal(7);
  });

  it('writes nothing to RAM or registers while its VM is paused, and continues afterwards', async () => {
    const gpu = await start();
    const [page] = await gpu.buffer(0, 1);
    gpu.working = false;
    let completed = 0;
    const submit = (value: number) => gpu.driver.submit({ ...FILL, value }).then(() => completed++);
    const before = submit(1);
    await gpu.driver.readRegister('RingTail');
    gpu.gate.close();
    const ram = gpu.ram.read(0, gpu.ram.regions[0]?.size as number);
    const during = submit(2);
    const read = gpu.driver.readRegister('RingTail');
    gpu.link.interrupt(0);
    await sleep(20);
    expect(Buffer.compare(ram, gpu.ram.read(0, ram.length))).to.equal(0);
    gpu.working = true;
    await until(() => gpu.ram.read32(page as number) === 1, 'the command that was in the ring');
    await sleep(20);
    expect(completed, 'completions seen while paused').to.equal(0);
    gpu.gate.open();
    await Promise.all([before, during]);
    expect(await read, 'the tail as of the pause').to.equal(1);
    expect(gpu.ram.read32(page as number)).to.equal(2);
  });

  it('cannot be saved, and names what is in flight, during calls with several steps', async () => {
    const gpu = await start();
    await gpu.driver.display.show({ width: 16, height: 16, base: 0 });
    const calls: Readonly<Record<string, () => Promise<unknown>>> = {
      'vram.write': () => gpu.driver.vram.write(0, new Uint8Array(8)),
      'vram.read': () => gpu.driver.vram.read(0, 8),
      'display.flip': () => gpu.driver.display.flip(PAGE_SIZE),
      createContext: () => gpu.driver.createContext(2 ** 31),
      reset: () => gpu.driver.reset(),
      'register accesses that wait for room': async () => {
        for (let i = 0; i < 300; i++) void gpu.driver.writeRegister('InterruptMask', 0);
        await gpu.driver.readRegister('Status');
      },
    };
    for (const [name, call] of Object.entries(calls)) {
      const running = call();
      expect(() => gpu.driver.save(), name).to.throw(InFlightError, name);
      await running;
      expect(() => gpu.driver.save(), name).to.not.throw();
    }
  });

  it('refuses a state that it cannot have saved', async () => {
    const gpu = await start();
    await gpu.driver.createContext(2 ** 31);
    const saved = gpu.driver.save() as Record<string, unknown>;
    const rings = saved.rings as Record<string, Record<string, unknown>>;
    const ring = (changed: Record<string, unknown>) => ({
      ...saved,
      rings: { ...rings, compute: { ...rings.compute, ...changed } },
    });
    const restore = (changed: unknown) => () => GpuDriver.restore(gpu.device, 0, gpu.ram, gpu.pages, changed);
    expect(restore(saved)).to.not.throw();
    for (const [changed, text] of [
      [null, 'driver is null; accepted: an object'],
      [ring({ ring: 0x123 }), 'rings.compute.ring is 291; accepted: pages of guest RAM'],
      [ring({ ring: 2 ** 40 }), 'accepted: pages of guest RAM'],
      [ring({ tail: 64 }), 'tail is 64; accepted: integers from 0 to 63'],
      [{ ...saved, sequence: 'x' }, 'sequence is x'],
      [{ ...saved, rings: { copy: rings.copy } }, 'rings.compute is undefined; accepted: an object'],
      [{ ...saved, tables: [] }, 'tables is a list of 0; accepted: a list of 4 pages'],
      [{ ...saved, contexts: 7 }, 'contexts is 7; accepted: a list of up to 63 entries'],
      [{ ...saved, contexts: [{ base: 0, tablePages: [] }] }, 'context 1 of 0 pages; accepted: 6'],
      [ring({ outstanding: [{ sequence: 1, slot: 64 }] }), 'rings.compute.outstanding.0.slot is 64'],
      [ring({ waiting: [[1, 2]] }), 'waiting.0 is a list of 2; accepted: a list of 12 words'],
      [{ ...saved, global: [[2048, 0, 0]] }, 'global.0.0 is 2048'],
    ] as const)
      expect(restore(changed)).to.throw(text);
  });
});
