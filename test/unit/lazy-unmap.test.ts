/**
 * Deferred unmaps of the DMA API, as Linux does them by default, on the models of the vIOMMUs.
 */
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import type { DmaBuffer } from '../../src/guest/iommu/dma-api.ts';
import type { GuestPciDevice } from '../../src/guest/pci-device.ts';
import type { Gpa } from '../../src/memory/address.ts';
import { GuestMachine } from '../fixtures/guest-machine.ts';
import { until } from '../support/until.ts';

/** Linux's size of a flush queue. */
const QUEUE_ENTRIES = 256;

describe('lazy unmaps', () => {
  let machine: GuestMachine | undefined;
  afterEach(() => machine?.stop());

  /** Returns a machine with translation on and a device whose DMA API is lazy. */
  async function lazyMachine(viommu: string) {
    const made = new GuestMachine({ viommu }, 1);
    machine = made;
    const device = made.vm.devices[0] as GuestPciDevice;
    await made.vm.translate(device);
    await (await made.vm.iommu()).enableTranslation();
    device.dma.lazy = true;
    const isMapped = (iova: number) =>
      made.mappings()[0]?.some(([at = 0, , size = 0]) => at <= iova && iova < at + size) ?? false;
    const mapPage = () => device.dma.map([made.vm.pages.allocate() as Gpa]);
    return { ...made, vm: made.vm, dma: device.dma, device, isMapped, mapPage };
  }

  for (const viommu of ['intel', 'intel-scalable', 'amd', 'virtio'])
    describe(`behind ${viommu}`, () => {
      it('leave a page to the device until the flush, and keep it from others', async () => {
        const { dma, isMapped, mapPage } = await lazyMachine(viommu);
        const buffer = await mapPage();
        const iova = buffer.iovas[0] as number;
        let released = false;
        await dma.unmap(buffer, undefined, () => {
          released = true;
        });
        expect([released, isMapped(iova)]).to.deep.equal([false, true]);
        expect((await mapPage()).iovas[0]).to.not.equal(iova);
        await dma.flush();
        expect([released, isMapped(iova)]).to.deep.equal([true, false]);
        expect((await mapPage()).iovas[0]).to.equal(iova);
      });

      it('are flushed after a time, and when the queue is full', async () => {
        const { dma, vm, mapPage } = await lazyMachine(viommu);
        let released = 0;
        const unmap = async () =>
          dma.unmap(await mapPage(), undefined, () => {
            released++;
          });
        await unmap();
        await until(() => released === 1, 'the flush of one unmap');
        const pages = Array.from({ length: QUEUE_ENTRIES }, () => vm.pages.allocate() as Gpa);
        const buffers: DmaBuffer[] = [];
        for (const page of pages) buffers.push(await dma.map([page]));
        await dma.beforeFlush(async () => {
          for (const [i, buffer] of buffers.slice(1).entries()) {
            await dma.unmap(buffer, undefined, () => {
              released++;
            });
            expect(released, `unmap ${i}`).to.equal(1);
          }
        });
        await dma.unmap(buffers[0] as DmaBuffer, undefined, () => {
          released++;
        });
        await dma.flush();
        expect(released).to.equal(1 + QUEUE_ENTRIES);
        const flushes = vm.metrics.take().find(({ name }) => name === 'invalidate_latency')?.count ?? 0;
        expect(flushes).to.be.below(10);
      });

      it('map for many flows at once', async () => {
        const { isMapped, mapPage } = await lazyMachine(viommu);
        const buffers = await Promise.all(Array.from({ length: QUEUE_ENTRIES }, mapPage));
        expect(buffers.every(({ iovas }) => isMapped(iovas[0] as number))).to.equal(true);
      });

      it('must be flushed before the guest is saved', async () => {
        const { dma, vm, mapPage } = await lazyMachine(viommu);
        const buffer = await mapPage();
        await dma.beforeFlush(async () => {
          await dma.unmap(buffer);
          expect(() => vm.save()).to.throw(/1 × lazy unmap in flight/);
        });
        await dma.flush();
        vm.save();
      });
    });

  it('take effect at once behind spapr', async () => {
    const { dma, isMapped, mapPage } = await lazyMachine('spapr');
    const buffer = await mapPage();
    let released = false;
    await dma.unmap(buffer, undefined, () => {
      released = true;
    });
    expect([released, isMapped(buffer.iovas[0] as number)]).to.deep.equal([true, false]);
  });
});
