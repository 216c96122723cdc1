/**
 * Real guests in stock QEMU drive served devices, with each kind of vIOMMU in front. Without a QEMU these tests are
 * skipped, and say why.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { after, before, describe, it } from 'mocha';
import { replayCapture } from '../../src/conformance/vfio-user/replay.ts';
import { expectNothingLeft, expectPictures, INTEL, LOAD_VIRTIO, metricOf } from '../fixtures/qemu-guests.ts';
import { Served } from '../fixtures/served-devices.ts';
import { bootGuest, findMachine, Guest, type GuestRun, type QemuMachine } from '../qemu/machine.ts';
import { until } from '../support/until.ts';

const TIMEOUT_MS = 180_000;

describe('a real guest', function () {
  this.timeout(TIMEOUT_MS);
  let machine: QemuMachine;
  let served: Served | undefined;
  before(async function () {
    const found = findMachine();
    if (typeof found === 'string') {
      process.stderr.write(`QEMU tests skipped: ${found}\n`);
      this.skip();
    }
    machine = found;
    served = await Served.start('edu', 2, machine.sockets);
  });
  after(async () => {
    if (!served) return;
    await served.stop();
    for (const index of [0, 1]) expectNothingLeft(served, index);
  });
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
    const vgpu = await Served.start('vgpu', 1, machine.sockets);
    try {
      const text = await bootGuest(machine, {
        ...INTEL,
        sockets: [served!.worker(0).socket, vgpu.worker().socket],
        run: 'guest+vfio+100;guest+fault;vgpu+1000;dmesg|grep+DMAR:',
      });
      expect(text).to.include('interrupt ok').and.include('vfio 100 of 100 rounds ok');
      expect(text).to.match(/DMAR: \[DMA Read.*fault addr 0xdead0000/);
      expect(text).to.include('vgpu: 1000 of 1000 commands ok').and.include('vgpu: fault ok');
      expect(text).to.match(/DMAR: \[DMA Read.*fault addr 0x20008000/);
    } finally {
      await vgpu.stop();
    }
    const report = vgpu.worker().report!;
    expect(report).to.include({ liveMaps: 0, heldPins: 0, violationCount: 0, faults: 1, errors: 0 });
    // A fill and a checksum map one buffer of two pages, a copy maps two.
    expect(report.maps).to.be.greaterThan((1000 * 8) / 3);
    expect(metricOf(vgpu, 'commands')).to.equal(1001);
  });

  it('maps, moves and unmaps pages behind virtio-iommu', async () => {
    const text = await boot({ devices: ['virtio-iommu-pci'], run: 'guest+vfio+100' });
    expect(text).to.include('interrupt ok').and.include('vfio 100 of 100 rounds ok');
  });

  it('has four devices, among them serial ports under its own driver, which echo', async () => {
    const serial = await Served.start('mtty', 2, machine.sockets);
    try {
      const ports = 'for+p+in+4+5+6+7;do+stty+-F+/dev/ttyS$p+raw+-echo;cat+/dev/ttyS$p>/out$p&+done';
      const echo =
        'sleep+1;for+p+in+4+5+6+7;do+echo+echo$p>/dev/ttyS$p;done;sleep+3;cat+/out4+/out5+/out6+/out7';
      const text = await bootGuest(machine, {
        sockets: [served!.worker(0), served!.worker(1), serial.worker(0), serial.worker(1)].map(
          ({ socket }) => socket,
        ),
        append: '8250.nr_uarts=8',
        run: `guest+direct+5;${ports};${echo}`,
      });
      expect(text).to.include('direct 5 of 5 rounds ok');
      for (const port of [4, 5, 6, 7]) expect(text).to.match(new RegExp(`^echo${port}\\r?$`, 'm'));
    } finally {
      await serial.stop();
    }
    for (const index of [0, 1]) expectNothingLeft(serial, index);
  });

  it('has stock virtio drivers on virtio devices, whose pictures arrive, behind intel-iommu', async () => {
    const entropy = await Served.start('virtio-rng', 1, machine.sockets);
    const gpu = await Served.start('virtio-gpu', 1, machine.sockets);
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
      await entropy.stop();
      await gpu.stop();
    }
    for (const served of [entropy, gpu])
      expect(served.worker().report).to.include({
        ...{ liveMaps: 0, heldPins: 0, violationCount: 0, faults: 0, errors: 0, messageReads: 0 },
      });
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
    const gone = () => served!.events.filter((event) => event.endsWith(' disconnected')).length;
    const guests = readdirSync(folder).length;
    await until(() => gone() === guests, 'all guests are gone');
    // A replay has memory of its own for a file, but none for the RAM that a client keeps to itself.
    const files = readdirSync(folder).filter((file) =>
      readFileSync(join(folder, file), 'utf8').includes('"ev":"mmap"'),
    );
    expect(files).to.have.length.greaterThan(0);
    for (const file of files) {
      const { problems, holds } = await replayCapture(join(folder, file));
      expect({ file, problems, holds }).to.deep.equal({ file, problems: [], holds: true });
    }
  });
});
