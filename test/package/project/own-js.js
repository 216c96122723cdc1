/**
 * Scenario in JavaScript: the guest drives the project's own device.
 */
import { scenario } from 'mdevsim';

export default scenario({
  name: 'own-js',
  model: './inverter.ts',
  async guest(vm) {
    await vm.eachDevice(async (device) => {
      await device.write(0, 4, 4, 5);
      const value = await device.read(0, 4, 4);
      vm.verify.check(value === 0xffff_fffan, `${device.name} reads ${value}`);
    });
  },
});
