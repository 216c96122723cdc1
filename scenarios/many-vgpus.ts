/**
 * Many vGPUs: how much memory and start-up time does each need, and do all work at the same time?
 *
 * Every vGPU runs in its own worker. Phases of each VM: identity work → enable translation → strict churn → disable
 * translation → identity work. Baseline workers, idle threads of the same run, are the baseline for both.
 */
import { churnRound, type GuestGpu, type GuestVm, SteadyLoad, scenario } from 'mdevsim';

const LOAD_VA = 0x00_0000;
const CHURN_VA = 0x20_0000;
const LOAD_PAGES = 2;
const LOADED_ROUNDS = 3;
const CHURN_ROUNDS = 4;

export default scenario({
  name: 'many-vgpus',
  question: 'How much does a vGPU cost, and do many of them work at the same time?',
  vms: 8,
  vgpus: 4,
  ramMiB: 32,
  params: {},
  timeoutMs: 300_000,
  baselineWorkers: 32,

  async guest(vm: GuestVm): Promise<void> {
    const loads = new Map<GuestGpu, SteadyLoad>();
    for (const gpu of vm.gpus) loads.set(gpu, new SteadyLoad(vm, gpu, LOAD_VA, LOAD_PAGES));
    const everyLoad = (work: (load: SteadyLoad, gpu: GuestGpu) => Promise<void>) =>
      vm.eachGpu((gpu) => work(loads.get(gpu) as SteadyLoad, gpu));
    const work = () => everyLoad((load) => load.atLeast(LOADED_ROUNDS));

    await vm.phase('identity');
    await everyLoad((load) => load.start());
    await work();

    if (vm.viommu === 'none') {
      await everyLoad((load) => load.stop());
      vm.note(`VM ${vm.id}: no vIOMMU: nothing but identity work`);
      return;
    }

    await vm.phase('enable translation');
    const iommu = await vm.iommu();
    await everyLoad(async (load, gpu) => {
      await vm.translate(gpu, load.pages);
    });
    await vm.timedSwitch(() => iommu.enableTranslation());
    await work();

    await vm.phase('strict churn');
    await vm.eachGpu(async (gpu) => {
      for (let round = 0; round < CHURN_ROUNDS; round++) await churnRound(vm, gpu, CHURN_VA, 2, round === 0);
    });
    await vm.audit();

    await vm.phase('disable translation');
    await vm.timedSwitch(() => iommu.disableTranslation());
    for (const gpu of vm.gpus) gpu.dma.setDomain(undefined);
    await work();
    await everyLoad((load) => load.stop());
  },
});
