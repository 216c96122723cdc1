/**
 * First light: do vGPUs keep working, byte for byte, while their guest enables and disables translation under load?
 *
 * Phases of each VM: identity work → enable translation → strict map/unmap churn → one device to pass-through and
 * back → domain change → deliberate faults → disable translation → identity work. All changes happen under load.
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

/** GPU addresses: the steady load, the churn, and the window whose pages change under the device. */
const LOAD_VA = 0x00_0000;
const CHURN_VA = 0x20_0000;
const WINDOW_VA = 0x40_0000;

const LOAD_PAGES = 4;
const WINDOW_PAGES = 2;
const IDENTITY_ROUNDS = 20;
const CHURN_ROUNDS = 30;
const PROBE_EVERY = 5;
/** Rounds of load before each switch, and again after it. */
const LOADED_ROUNDS = 4;

/** A vGPU with its load, and with a window: one IOVA range whose pages differ between address spaces. */
interface TestedGpu {
  readonly gpu: GuestGpu;
  readonly load: SteadyLoad;
  /** Pages of the window without translation, in the first domain and in the second. */
  readonly identity: readonly Gpa[];
  readonly inA: readonly Gpa[];
  readonly inB: readonly Gpa[];
  /** IOVAs of the window: the GPAs of its identity pages. */
  readonly window: readonly Iova[];
}

async function prepare(vm: GuestVm, gpu: GuestGpu): Promise<TestedGpu> {
  const identity = allocatePages(vm, WINDOW_PAGES, true);
  const window = identity.map(toIova);
  const load = new SteadyLoad(vm, gpu, LOAD_VA, LOAD_PAGES);
  const inA = allocatePages(vm, WINDOW_PAGES);
  const inB = allocatePages(vm, WINDOW_PAGES);
  await gpu.driver.map(WINDOW_VA, window);
  return { gpu, load, identity, inA, inB, window };
}

/**
 * Fills the window by the device and expects the bytes in `pages` alone. The GPU page table never changes, so a stale
 * shadow entry would write to the pages of another address space.
 */
async function checkWindow(
  vm: GuestVm,
  { gpu, identity, inA, inB }: TestedGpu,
  pages: readonly Gpa[],
): Promise<void> {
  const value = vm.prng.next32();
  const others = [identity, inA, inB].filter((each) => each !== pages);
  const before = others.map((each) => each.map((page) => vm.ram.read(page, PAGE_SIZE)));
  const length = WINDOW_PAGES * PAGE_SIZE;
  const { status } = await submit(vm, gpu, { opcode: Opcode.fill, target: WINDOW_VA, length, value });
  vm.verify.check(status === CompletionStatus.ok, `${gpu.name} window fill ended with status ${status}`);
  vm.verify.pages(pages, filled(WINDOW_PAGES, value), `${gpu.name} window`);
  others.forEach((each, i) => {
    vm.verify.pages(each, Buffer.concat(before[i] as Uint8Array[]), `${gpu.name} page outside the window`);
  });
}

/** Maps the window to `pages`. */
const mapWindow = (domain: GuestDomain, { window }: TestedGpu, pages: readonly Gpa[]): Promise<void> =>
  domain.mapAll(pages.map((gpa, i) => ({ iova: window[i] as Iova, gpa, size: PAGE_SIZE, perm: PERM_RW })));

/** Causes one fault and expects its record, if the vIOMMU reports faults to the guest. */
async function checkFaultRecord(vm: GuestVm, iommu: GuestIommu, { gpu }: TestedGpu): Promise<void> {
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

/** The phases of one VM, in the order in which they run. */
class FirstLight {
  readonly #vm: GuestVm;
  readonly #tested = new Map<GuestGpu, TestedGpu>();
  /** The domain in which the window of each device is `inA`. */
  readonly #domainA = new Map<GuestGpu, GuestDomain>();

  constructor(vm: GuestVm) {
    this.#vm = vm;
  }

  async identity(): Promise<void> {
    await this.#vm.phase('identity');
    await this.#vm.eachGpu(async (gpu) => {
      this.#tested.set(gpu, await prepare(this.#vm, gpu));
    });
    await this.#all(async (tested) => {
      await tested.gpu.driver.map(LOAD_VA, tested.load.pages.map(toIova));
      await this.#identityRounds(tested);
      await checkWindow(this.#vm, tested, tested.identity);
    });
  }

  /** Resolves to the started driver of the vIOMMU. */
  async enableTranslation(): Promise<GuestIommu> {
    await this.#vm.phase('enable translation');
    const iommu = await this.#vm.iommu();
    for (const [gpu, tested] of this.#tested) {
      const domain = await this.#vm.translate(gpu, tested.load.pages);
      await mapWindow(domain, tested, tested.inA);
      this.#domainA.set(gpu, domain);
    }
    await this.#underLoad(() => this.#vm.timedSwitch(() => iommu.enableTranslation()));
    await this.#all((tested) => checkWindow(this.#vm, tested, tested.inA));
    await this.#vm.audit();
    return iommu;
  }

  async churn(): Promise<void> {
    await this.#vm.phase('strict churn');
    await this.#underLoad(() =>
      this.#all(async ({ gpu }) => {
        for (let round = 0; round < CHURN_ROUNDS; round++)
          await churnRound(this.#vm, gpu, CHURN_VA, 2, round % PROBE_EVERY === 0);
      }),
    );
    await this.#vm.audit();
  }

  async passThroughAndBack(iommu: GuestIommu): Promise<void> {
    const vm = this.#vm;
    const first = this.#tested.get(vm.gpus[0] as GuestGpu);
    if (!iommu.capabilities.passThrough)
      vm.note(`VM ${vm.id}: '${vm.viommu}' has no pass-through: that phase is left out`);
    if (!iommu.capabilities.passThrough || !first?.gpu.driver.alive) return;
    await vm.phase('pass-through and back');
    const { requesterId } = first.gpu;
    await this.#underLoad(() => vm.timedSwitch(() => iommu.setPassThrough(requesterId)));
    await this.#all((tested) => checkWindow(vm, tested, tested === first ? tested.identity : tested.inA));
    await vm.audit();
    const domain = this.#domainA.get(first.gpu) as GuestDomain;
    await this.#underLoad(() => vm.timedSwitch(() => iommu.attach(requesterId, domain)));
    await this.#all((tested) => checkWindow(vm, tested, tested.inA));
  }

  async changeDomains(iommu: GuestIommu): Promise<void> {
    const vm = this.#vm;
    await vm.phase('domain change');
    await this.#underLoad(() =>
      this.#all(async (tested) => {
        const { gpu, load, inB } = tested;
        // The domain is complete before the switch: the device works meanwhile.
        const domain = iommu.createDomain();
        await vm.mapIdentity(domain, gpu, load.pages);
        await mapWindow(domain, tested, inB);
        await vm.timedSwitch(() => iommu.attach(gpu.requesterId, domain));
        gpu.dma.setDomain(domain);
      }),
    );
    await this.#all((tested) => checkWindow(vm, tested, tested.inB));
    await vm.audit();
  }

  /** Causes the faults one at a time: hardware with one fault record drops further ones. */
  async faults(iommu: GuestIommu): Promise<void> {
    const vm = this.#vm;
    await vm.phase('faults');
    if (!iommu.capabilities.faultRecords)
      vm.note(
        `VM ${vm.id}: '${vm.viommu}' reports no faults to the guest: the devices fault, no record is read`,
      );
    for (const tested of this.#tested.values())
      if (tested.gpu.driver.alive) await checkFaultRecord(vm, iommu, tested);
  }

  async disableTranslation(iommu: GuestIommu): Promise<void> {
    await this.#vm.phase('disable translation');
    await this.#underLoad(() => this.#vm.timedSwitch(() => iommu.disableTranslation()));
    for (const gpu of this.#vm.gpus) gpu.dma.setDomain(undefined);
    await this.#all((tested) => checkWindow(this.#vm, tested, tested.identity));
  }

  async identityAgain(): Promise<void> {
    await this.#vm.phase('identity again');
    await this.#all((tested) => this.#identityRounds(tested));
  }

  async #identityRounds({ gpu, load: { pages } }: TestedGpu): Promise<void> {
    for (let round = 0; round < IDENTITY_ROUNDS; round++)
      await verifiedRound(this.#vm, gpu, LOAD_VA, pages.slice(0, LOAD_PAGES), pages.slice(LOAD_PAGES));
  }

  #all(work: (tested: TestedGpu) => Promise<void>): Promise<void> {
    return this.#vm.eachGpu(async (gpu) => {
      const tested = this.#tested.get(gpu);
      if (tested) await work(tested);
    });
  }

  /** Runs `change` while every device works, with rounds of work before and after it. */
  async #underLoad(change: () => Promise<void>): Promise<void> {
    await this.#all(({ load }) => load.start());
    await this.#all(({ load }) => load.atLeast(LOADED_ROUNDS));
    await change();
    await this.#all(({ load }) => load.atLeast(LOADED_ROUNDS));
    await this.#all(({ load }) => load.stop());
  }
}

export default scenario({
  name: 'first-light',
  question: 'Do many vGPUs keep working, byte for byte, while their guests turn translation on and off?',
  vms: 4,
  vgpus: 4,
  ramMiB: 64,
  params: {},

  async guest(vm: GuestVm): Promise<void> {
    const run = new FirstLight(vm);
    await run.identity();
    if (vm.viommu === 'none') {
      vm.note(`VM ${vm.id}: no vIOMMU: nothing but identity work`);
      return;
    }
    const iommu = await run.enableTranslation();
    await run.churn();
    await run.passThroughAndBack(iommu);
    await run.changeDomains(iommu);
    await run.faults(iommu);
    await run.disableTranslation(iommu);
    await run.identityAgain();
  },
});
