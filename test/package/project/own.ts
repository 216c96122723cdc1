/**
 * Scenario of a project that uses the package: can a vGPU still reach a page after its unmap?
 */
import { churnRound, type GuestVm, scenario } from 'mdevsim';
import { ROUNDS } from './rounds.ts';

export default scenario({
  name: 'own',
  vms: 2,
  async guest(vm: GuestVm) {
    const iommu = await vm.iommu();
    for (const gpu of vm.gpus) await vm.translate(gpu);
    await vm.timedSwitch(() => iommu.enableTranslation());
    await vm.eachGpu(async (gpu) => {
      for (let round = 0; round < ROUNDS; round++) await churnRound(vm, gpu, 0, 4, true);
    });
    await vm.audit();
  },
});
