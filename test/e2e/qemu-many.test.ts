/**
 * Several real guests at once, each with four devices behind a vIOMMU of its own, and devices that come and go. Nothing may
 * be left behind, not even by a guest that is killed. Without a QEMU these tests are skipped, and say why.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { after, before, describe, it } from 'mocha';
import {
  expectNothingLeft,
  expectPicture,
  expectPictures,
  INTEL,
  LOAD_VIRTIO,
  metricOf,
} from '../fixtures/qemu-guests.ts';
import { Served } from '../fixtures/served-devices.ts';
import { findMachine, Guest, type GuestRun, type QemuMachine, vfioUserDevice } from '../qemu/machine.ts';
import { Qmp } from '../qemu/qmp.ts';
import { holdingsOfProcess } from '../support/process-holdings.ts';
import { until } from '../support/until.ts';

const TIMEOUT_MS = 300_000;
const TYPES = ['virtio-gpu', 'virtio-rng', 'vgpu', 'edu'] as const;

/** A guest with a device of each type. */
interface FullGuest {
  readonly devices: readonly Served[];
  readonly guest: Guest;
  readonly seed: number;
}

describe('real guests', function () {
  this.timeout(TIMEOUT_MS);
  let machine: QemuMachine;
  const started: Served[] = [];
  const guests: Guest[] = [];
  before(async function () {
    const found = findMachine();
    if (typeof found === 'string') {
      process.stderr.write(`QEMU tests skipped: ${found}\n`);
      this.skip();
    }
    machine = found;
  });
  after(async () => {
    for (const guest of guests) guest.kill();
    for (const served of started) await served.stop();
  });

  const serve = async (type: string, msix = true): Promise<Served> => {
    const served = await Served.start(type, 1, machine.sockets, undefined, { msix });
    started.push(served);
    return served;
  };

  async function startFull(viommu: Omit<GuestRun, 'sockets' | 'run'>, seed: number): Promise<FullGuest> {
    const devices: Served[] = [];
    for (const type of TYPES) devices.push(await serve(type));
    const work = `guest+vfio+20;vgpu+100;dd+if=/dev/hwrng+of=/random+bs=4096+count=8;display+${seed}`;
    const guest = Guest.start(machine, {
      ...viommu,
      sockets: devices.map((served) => served.worker().socket),
      run: `${LOAD_VIRTIO};${work};ls+-l+/random`,
    });
    guests.push(guest);
    return { devices, guest, seed };
  }

  it('share nothing, three with four devices each; one is killed with pins held, and nothing is left', async () => {
    // The first worker, the first process and the first asynchronous read start these for good.
    await readFile(import.meta.filename);
    await (await serve('edu')).stop();
    await Guest.start(machine, { sockets: [], run: 'true', machine: ',nonsense=on' }).ended;
    const before = holdingsOfProcess();
    const full = [
      await startFull(INTEL, 1),
      await startFull(INTEL, 2),
      await startFull({ devices: ['virtio-iommu-pci'] }, 3),
    ];
    for (const { guest, devices, seed } of full) await expectPicture(guest, devices[0]!, 1, seed);
    // Each now displays a framebuffer whose pages are pinned. The second guest ends without a word.
    full[1]!.guest.kill();
    await full[1]!.guest.ended;
    for (const device of full[1]!.devices)
      await until(() => device.events.some((event) => event.endsWith('disconnected')), 'the client is gone');
    for (const { guest, devices, seed } of [full[0]!, full[2]!]) {
      guest.type('');
      await expectPictures(guest, devices[0]!, seed, 2);
      const text = await guest.ended;
      expect(text)
        .to.include('display: done')
        .and.match(/ 32768 .*\/random$/m);
    }
    for (const { guest, devices } of full) {
      expect(guest.text).to.include('vfio 20 of 20 rounds ok').and.include('vgpu: 100 of 100 commands ok');
      await expectNothingLeft(...devices);
      const [gpu, entropy] = devices as [Served, Served];
      expect(gpu.worker().report!.pins).to.be.greaterThan((1024 * 768 * 4) / 4096);
      expect(metricOf(entropy, 'random bytes')).to.be.greaterThan(32_768);
    }
    await until(
      () => JSON.stringify(holdingsOfProcess()) === JSON.stringify(before),
      'everything is freed',
    ).catch(() => {});
    expect(holdingsOfProcess()).to.deep.equal(before);
  });

  it('lose a display and a device while they run, and get them again', async () => {
    // QEMU 11.1 ends itself when a device with MSI-X is removed.
    const [gpu, edu] = [await serve('virtio-gpu', false), await serve('edu')];
    const monitor = join(gpu.folder, 'qmp');
    const slots = ['slot0', 'slot1'].map((id, i) => `pcie-root-port,id=${id},chassis=${i},slot=${i}`);
    const guest = Guest.start(
      machine,
      { ...INTEL, devices: [...INTEL.devices!, ...slots], sockets: [], run: `${LOAD_VIRTIO};obey` },
      ['-qmp', `unix:${machine.pathInside(monitor)},server=on,wait=off`],
    );
    guests.push(guest);
    const qmp = await Qmp.connect(monitor);
    await guest.until(/guest: up/);
    const rounds = 2;
    for (let round = 1; round <= rounds; round++) {
      for (const [i, device] of [gpu, edu].entries())
        await qmp.execute('device_add', {
          ...vfioUserDevice(machine, device.worker().socket),
          id: `plugged${i}`,
          bus: `slot${i}`,
        });
      guest.type('until grep -q 11e8 /sys/bus/pci/devices/*/device; do sleep 1; done; guest vfio 20');
      guest.type(`until [ -e /dev/dri/card0 ]; do sleep 1; done; display ${round}`);
      await guest.until(/vfio 20 of 20 rounds ok/);
      await expectPictures(guest, gpu, round);
      await guest.until(/display: done/);
      for (const i of [0, 1]) {
        await qmp.execute('device_del', { id: `plugged${i}` });
        await qmp.event('DEVICE_DELETED');
      }
    }
    guest.type('end');
    expect(await guest.ended).not.to.include('FAILED');
    qmp.close();
    await expectNothingLeft(gpu, edu);
    for (const device of [gpu, edu]) expect(device.worker().report!.clients).to.equal(rounds);
  });
});
