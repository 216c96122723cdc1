/**
 * Device model of a project that uses the package: a register that reads as the complement of what was written.
 */
import { type DeviceBehaviour, defineDevice } from 'mdevsim/device';

export default defineDevice({
  identity: {
    vendorId: 0x1234,
    deviceId: 0x5678,
    subsystemVendorId: 0x1234,
    subsystemId: 1,
    revision: 1,
    classCode: 0x00ff00,
  },
  bars: {
    0: {
      bytes: 64,
      registers: [{ name: 'Liveness', offset: 4, size: 4, rw: 0xffff_ffffn }],
    },
  },
  create(context): DeviceBehaviour {
    const registers = context.bar(0);
    registers.onWrite('Liveness', (value) => registers.set('Liveness', ~value));
    return {};
  },
});
