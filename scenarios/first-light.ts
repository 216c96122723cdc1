/**
 * First light: does a vGPU keep working, byte for byte, while its guest turns the vIOMMU on and off under it?
 *
 * Each VM: identity work → enable translation under load → strict map/unmap churn under load → one device to
 * pass-through and back → domain change → deliberate faults → disable translation → identity work.
 */
import {
  allocatePages,
  CompletionStatus,
  churnRound,
  filled,
  type Gpa,
  type GuestDomain,
  type GuestGpu,
  type GuestIommu,
  type GuestVm,
  type Iova,
  Opcode,
  PAGE_SIZE,
  PERM_RW,
  probeUnmapped,
  SteadyLoad,
  scenario,
  submit,
  toIova,
  verifiedRound,
} from 'mdevsim';

/** GPU addresses: the steady load, the churn, and the window whose meaning changes under the device. */
const LOAD_VA = 0x00_0000;
const CHURN_VA = 0x20_0000;
const WINDOW_VA = 0x40_0000;

const LOAD_PAGES = 4;
const WINDOW_PAGES = 2;
const IDENTITY_ROUNDS = 20;
const CHURN_ROUNDS = 30;
const PROBE_EVERY = 5;
/** Rounds of load before, and after, each switch. */
const LOADED_ROUNDS = 4;

/** One device's part in the scenario. */
interface DeviceSlot {
  readonly gpu: GuestGpu;
  readonly load: SteadyLoad;
  /** What the window's IOVA can mean: identity, domain A, domain B. */
  readonly identity: readonly Gpa[];
  readonly inA: readonly Gpa[];
  readonly inB: readonly Gpa[];
  /** The window's IOVA: the GPA of its identity pages. */
  readonly window: readonly Iova[];
}

async function makeStation(vm: GuestVm, gpu: GuestGpu): Promise<DeviceSlot> {
  const identity = allocatePages(vm, WINDOW_PAGES, true);
  const station: DeviceSlot = {
    gpu,
    load: new SteadyLoad(vm, gpu, LOAD_VA, LOAD_PAGES),
    identity,
    inA: allocatePages(vm, WINDOW_PAGES),
    inB: allocatePages(vm, WINDOW_PAGES),
    window: identity.map(toIova),
  };
  await gpu.driver.map(WINDOW_VA, station.window);
  return station;
}

/**
 * The sharp test: the device fills the same GPU address, whose GPU PTE never changes; only the pages that the
 * window means now may change. A stale shadow writes into the pages it meant before.
 */
async function checkWindow(
  vm: GuestVm,
  { gpu, identity, inA, inB }: DeviceSlot,
  meant: readonly Gpa[],
): Promise<void> {
  const value = vm.prng.next32();
  const others = [identity, inA, inB].filter((pages) => pages !== meant);
  const before = others.map((pages) => pages.map((page) => vm.ram.read(page, PAGE_SIZE)));
  const length = WINDOW_PAGES * PAGE_SIZE;
  const { status } = await submit(vm, gpu, { opcode: Opcode.fill, target: WINDOW_VA, length, value });
  vm.verify.check(status === CompletionStatus.ok, `${gpu.name} window fill ended with status ${status}`);
  vm.verify.pages(meant, filled(WINDOW_PAGES, value), `${gpu.name} window`);
  others.forEach((pages, i) => {
    vm.verify.pages(pages, Buffer.concat(before[i] as Uint8Array[]), `${gpu.name} page outside the window`);
  });
}

/** A domain in which the device's own pages are identity and its window means `window`. */
async function makeDomain(
  vm: GuestVm,
  iommu: GuestIommu,
  station: DeviceSlot,
  window: readonly Gpa[],
): Promise<GuestDomain> {
  const domain = iommu.createDomain();
  await vm.mapIdentity(domain, station.gpu, station.load.pages);
  await domain.mapAll(
    window.map((gpa, i) => ({ iova: station.window[i] as Iova, gpa, size: PAGE_SIZE, perm: PERM_RW })),
  );
  return domain;
}

/** Faults one at a time, so that the guest finds each of them where its hardware reports faults. */
async function checkFaultRecord(vm: GuestVm, iommu: GuestIommu, { gpu }: DeviceSlot): Promise<void> {
  await iommu.readFaults();
  const buffer = await gpu.dma.map(allocatePages(vm, 1));
  await gpu.driver.map(CHURN_VA, buffer.iovas);
  await gpu.dma.unmap(buffer);
  await probeUnmapped(vm, gpu, CHURN_VA, buffer);
  await gpu.driver.unmap(CHURN_VA, 1);
  if (!iommu.capabilities.faultRecords) return;
  const fault = await iommu.readFaults();
  vm.verify.check(
    fault?.requesterId === gpu.requesterId && fault.iova === buffer.iovas[0],
    `${gpu.name} vIOMMU recorded ${JSON.stringify(fault)}, expected one by ${gpu.requesterId} at ${buffer.iovas[0]}`,
  );
}

export default scenario({
  name: 'first-light',
  question: 'Do many vGPUs keep working, byte for byte, while their guests turn translation on and off?',
  vms: 4,
  vgpus: 4,
  ramMiB: 64,

  async guest(vm: GuestVm): Promise<void> {
    const stations = new Map<GuestGpu, DeviceSlot>();
    const all = (work: (station: DeviceSlot) => Promise<void>) =>
      vm.eachGpu(async (gpu) => {
        const station = stations.get(gpu);
        if (station) await work(station);
      });
    /** Lets every device work before, while and after `change`. */
    const underLoad = async (change: () => Promise<void>) => {
      await all(({ load }) => load.start());
      await all(({ load }) => load.atLeast(LOADED_ROUNDS));
      await change();
      await all(({ load }) => load.atLeast(LOADED_ROUNDS));
      await all(({ load }) => load.stop());
    };

    await vm.phase('identity');
    await vm.eachGpu(async (gpu) => {
      stations.set(gpu, await makeStation(vm, gpu));
    });
    await all(async (station) => {
      await station.gpu.driver.map(LOAD_VA, station.load.pages.map(toIova));
      const { pages } = station.load;
      for (let round = 0; round < IDENTITY_ROUNDS; round++)
        await verifiedRound(vm, station.gpu, LOAD_VA, pages.slice(0, LOAD_PAGES), pages.slice(LOAD_PAGES));
      await checkWindow(vm, station, station.identity);
    });

    if (vm.viommu === 'none') {
      vm.note(`VM ${vm.id}: no vIOMMU: nothing but identity work`);
      await vm.progress();
      return;
    }

    await vm.phase('enable translation');
    const iommu = await vm.iommu();
    const domainA = new Map<GuestGpu, GuestDomain>();
    for (const [gpu, station] of stations) {
      const domain = await makeDomain(vm, iommu, station, station.inA);
      domainA.set(gpu, domain);
      await iommu.attach(gpu.requesterId, domain);
    }
    await underLoad(() => vm.timedSwitch(() => iommu.enableTranslation()));
    await all((station) => checkWindow(vm, station, station.inA));
    await vm.audit();

    await vm.phase('strict churn');
    for (const [gpu, domain] of domainA) gpu.dma.setDomain(domain);
    await underLoad(() =>
      all(async ({ gpu }) => {
        for (let round = 0; round < CHURN_ROUNDS; round++)
          await churnRound(vm, gpu, CHURN_VA, 2, round % PROBE_EVERY === 0);
      }),
    );
    await vm.audit();

    const first = stations.get(vm.gpus[0] as GuestGpu);
    const { passThrough, faultRecords } = iommu.capabilities;
    if (!passThrough) vm.note(`VM ${vm.id}: '${vm.viommu}' has no pass-through: that phase is left out`);
    if (passThrough && first?.gpu.driver.alive) {
      await vm.phase('pass-through and back');
      const { requesterId } = first.gpu;
      await underLoad(() => vm.timedSwitch(() => iommu.setPassThrough(requesterId)));
      await all((station) => checkWindow(vm, station, station === first ? station.identity : station.inA));
      await vm.audit();
      const back = domainA.get(first.gpu) as GuestDomain;
      await underLoad(() => vm.timedSwitch(() => iommu.attach(requesterId, back)));
      await all((station) => checkWindow(vm, station, station.inA));
    }

    await vm.phase('domain change');
    await underLoad(() =>
      all(async (station) => {
        const domain = await makeDomain(vm, iommu, station, station.inB);
        await vm.timedSwitch(() => iommu.attach(station.gpu.requesterId, domain));
        station.gpu.dma.setDomain(domain);
      }),
    );
    await all((station) => checkWindow(vm, station, station.inB));
    await vm.audit();

    await vm.phase('faults');
    if (!faultRecords)
      vm.note(
        `VM ${vm.id}: '${vm.viommu}' tells the guest of no fault: the devices fault, no record is read`,
      );
    for (const station of stations.values())
      if (station.gpu.driver.alive) await checkFaultRecord(vm, iommu, station);

    await vm.phase('disable translation');
    await underLoad(() => vm.timedSwitch(() => iommu.disableTranslation()));
    for (const gpu of vm.gpus) gpu.dma.setDomain(undefined);
    await all((station) => checkWindow(vm, station, station.identity));

    await vm.phase('identity again');
    await all(async ({ gpu, load }) => {
      for (let round = 0; round < IDENTITY_ROUNDS; round++)
        await verifiedRound(vm, gpu, LOAD_VA, load.pages.slice(0, LOAD_PAGES), load.pages.slice(LOAD_PAGES));
    });
    await vm.progress();
  },
});
