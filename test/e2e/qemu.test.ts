/**
 * Real guests in stock QEMU drive served devices, with each kind of vIOMMU in front. Without a QEMU these tests are
 * skipped, and say why.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { after, before, describe, it } from 'mocha';
import { expectNothingLeft, expectPictures, INTEL, LOAD_VIRTIO, metricOf } from '../fixtures/qemu-guests.ts';
import { Served } from '../fixtures/served-devices.ts';
import { bootGuest, findMachine, Guest, type GuestRun, type QemuMachine } from '../qemu/machine.ts';

const TIMEOUT_MS = 180_000;

describe('a real guest', function () {
  this.timeout(TIMEOUT_MS);
  let machine: QemuMachine;
  let served: Served | undefined;
  const started: Served[] = [];
  before(async function () {
    const found = findMachine();
    if (typeof found === 'string') {
      process.stderr.write(`QEMU tests skipped: ${found}\n`);
      this.skip();
    }
    machine = found;
    served = await serve('edu', 2);
  });
  after(async () => {
    for (const each of started) await each.stop();
  });
  const serve = async (type: string, count = 1): Promise<Served> => {
    const devices = await Served.start(type, count, machine.sockets);
    started.push(devices);
    return devices;
  };
  const boot = (guest: Omit<GuestRun, 'sockets'>, devices = [0]) =>
    bootGuest(machine, { ...guest, sockets: devices.map((index) => served!.worker(index).socket) });

  it('moves pages by DMA without a vIOMMU', async () => {
    expect(await boot({ run: 'guest+direct+50' })).to.include('direct 50 of 50 rounds ok');
  });

  it('moves pages by messages if QEMU gives no descriptors', async () => {
    const text = await boot({ run: 'guest+direct+5', memory: 'memory-backend-ram' });
    expect(text).to.include('direct 5 of 5 rounds ok');
  });

  it('moves pages behind intel-iommu in pass-through', async () => {
    const text = await boot({ ...INTEL, append: `${INTEL.append} iommu=pt`, run: 'guest+direct+20' });
    expect(text).to.include('direct 20 of 20 rounds ok');
  });

  it('maps and unmaps for each DMA behind intel-iommu, and finds faults in its log', async () => {
    const vgpu = await serve('vgpu');
    const text = await bootGuest(machine, {
      ...INTEL,
      sockets: [served!.worker(0).socket, vgpu.worker().socket],
      run: 'guest+vfio+100;guest+fault;vgpu+1000;dmesg|grep+DMAR:',
    });
    expect(text).to.include('interrupt ok').and.include('vfio 100 of 100 rounds ok');
    expect(text).to.match(/DMAR: \[DMA Read.*fault addr 0xdead0000/);
    expect(text).to.include('vgpu: 1000 of 1000 commands ok').and.include('vgpu: fault ok');
    expect(text).to.match(/DMAR: \[DMA Read.*fault addr 0x20008000/);
    await expectNothingLeft(vgpu);
    const report = vgpu.worker().report!;
    expect(report).to.include({ faults: 1, errors: 0 });
    // The guest's kernel turned translation on.
    expect(report.switches).to.be.greaterThan(0);
    // A fill and a checksum map one buffer of two pages, a copy maps two.
    expect(report.maps).to.be.greaterThan((1000 * 8) / 3);
    expect(metricOf(vgpu, 'commands')).to.equal(1001);
  });

  it('maps, moves and unmaps pages behind virtio-iommu', async () => {
    const text = await boot({ devices: ['virtio-iommu-pci'], run: 'guest+vfio+100' });
    expect(text).to.include('interrupt ok').and.include('vfio 100 of 100 rounds ok');
  });

  it('has four devices, among them serial ports under its own driver, which echo', async () => {
    const serial = await serve('mtty', 2);
    const ports = 'for+p+in+4+5+6+7;do+stty+-F+/dev/ttyS$p+raw+-echo;cat+/dev/ttyS$p>/out$p&+done';
    const echo =
      'sleep+1;for+p+in+4+5+6+7;do+echo+echo$p>/dev/ttyS$p;done;sleep+3;cat+/out4+/out5+/out6+/out7';
    const text = await bootGuest(machine, {
      sockets: [...served!.workers, ...serial.workers].map(({ socket }) => socket),
      append: '8250.nr_uarts=8',
      run: `guest+direct+5;${ports};${echo}`,
    });
    expect(text).to.include('direct 5 of 5 rounds ok');
    for (const port of [4, 5, 6, 7]) expect(text).to.match(new RegExp(`^echo${port}$`, 'm'));
    await expectNothingLeft(serial);
  });

  it('has stock virtio drivers on virtio devices, whose pictures arrive, behind intel-iommu', async () => {
    const [entropy, gpu] = [await serve('virtio-rng'), await serve('virtio-gpu')];
    const found = 'cat+/sys/class/misc/hw_random/rng_current;grep+-ac+mdevsim+/sys/class/drm/*/edid';
    const read = 'dd+if=/dev/hwrng+of=/random+bs=4096+count=256;wc+-c+/random;gzip+-c+/random|wc+-c';
    const guest = Guest.start(machine, {
      ...INTEL,
      sockets: [entropy.worker().socket, gpu.worker().socket],
      run: `${LOAD_VIRTIO};${found};display;${read}`,
    });
    try {
      await expectPictures(guest, gpu);
      const text = await guest.ended;
      expect(text)
        .to.include('display: done')
        .and.match(/^virtio_rng.\d$/m)
        .and.match(/^1$/m);
      expect(text).to.match(/^1048576 \/random$/m);
      // Random bytes do not become smaller.
      expect(Number(/^(\d{7})$/m.exec(text)?.[1])).to.be.greaterThan(1_048_576);
      expect(text).not.to.include('DMAR: [DMA');
    } finally {
      guest.kill();
    }
    await expectNothingLeft(entropy, gpu);
    for (const { report } of [entropy.worker(), gpu.worker()])
      expect(report).to.include({ faults: 0, errors: 0, messageReads: 0 });
    const bytes = metricOf(entropy, 'random bytes');
    expect(bytes).to.be.greaterThan(1_048_576);
    // Each of the driver's requests is a map of its own.
    expect(entropy.worker().report!.maps).to.be.greaterThan(bytes / 64);
    // Every page of two framebuffers was pinned.
    expect(gpu.worker().report!.pins).to.be.greaterThan((2 * 1024 * 768 * 4) / 4096);
    expect(metricOf(gpu, 'failed commands')).to.equal(0);
  });

  it('finds its device again after two reboots, and leaves nothing behind when it is killed', async () => {
    const times = (text: string) => text.split('direct 5 of 5 rounds ok').length - 1;
    const guest = Guest.start(machine, {
      sockets: [served!.worker(0).socket],
      run: 'guest+direct+5;reboot+-f',
      reboots: true,
    });
    for (let boots = 1; boots <= 3; boots++) await guest.until(/direct 5 of 5 rounds ok/);
    guest.kill();
    expect(times(await guest.ended)).to.equal(3);
    expect(await boot({ run: 'guest+direct+5' })).to.include('direct 5 of 5 rounds ok');
  });

  it('leaves captures that replay as they were recorded, with one kind of mapping at a time', async () => {
    const folder = join(served!.folder, 'captures');
    expect(readdirSync(folder)).to.have.length.greaterThan(2);
    await expectNothingLeft(served!);
  });
});
