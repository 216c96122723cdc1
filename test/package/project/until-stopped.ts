import { scenario } from 'mdevsim';

export default scenario({
  name: 'until-stopped',
  vms: 2,
  hosts: 2,
  ramMiB: 16,
  async guest(vm) {
    console.log('the guest works');
    for (;;) await vm.sleep(10);
  },
});
