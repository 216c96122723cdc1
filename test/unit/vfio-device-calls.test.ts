/**
 * Calls on devices and across processes, in the form of recorded vectors.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runVector } from '../../src/conformance/vfio/run.ts';
import type { Step } from '../../src/conformance/vfio/vector-file.ts';

type Fields = Readonly<Record<string, unknown>>;

const ok = { ret: 0, errno: null };
const refused = (errno: string) => ({ ret: -1, errno });
const step = (op: string, fields: Fields = {}, expected: Fields = ok): Step => ({
  op,
  ...fields,
  ...expected,
});

/** Opens an mdev's device as d0 in container c0 of type1 v2. */
const opened = (mdev: string): Step[] => [
  step('open_container', { container: 'c0' }, {}),
  step('open_group', { group: 'g0', mdev }, {}),
  step('group_set_container', { group: 'g0', container: 'c0' }),
  step('set_iommu', { container: 'c0', type: 3 }),
  step('group_get_device_fd', { group: 'g0', device: 'd0', name: mdev }, {}),
];

/** Runs steps on a device; returns the differences from what the steps expect. */
const differences = (mdev: string, ...steps: readonly Step[]) =>
  runVector({ name: 'made here', desc: '', steps: [...opened(mdev), ...steps] }, 'a test').differences;

const irqs = (data: unknown, expected: Fields, index = 0, action = 'action_trigger'): Step =>
  step(
    'device_set_irqs',
    { device: 'd0', flags: ['data_eventfd', action], index, start: 0, count: 1, data },
    expected,
  );
const trigger = (expected: Fields, index = 0): Step =>
  step(
    'device_set_irqs',
    { device: 'd0', flags: ['data_none', 'action_trigger'], index, start: 0, count: 1 },
    expected,
  );

describe('calls on a device', () => {
  it('are ENOTTY if its driver does not have them', () => {
    for (const mdev of ['m0', 'n0'])
      expect(
        differences(
          mdev,
          step('device_get_irq_info', { device: 'd0', index: 0 }, refused('ENOTTY')),
          step('device_reset', { device: 'd0' }, refused('ENOTTY')),
          irqs('badfd', refused('ENOTTY')),
          step('device_get_info', { device: 'd0', argsz: 24 }, { ...ok, num_irqs: 0 }),
        ),
      ).to.deep.equal([]);
  });

  it('are EINVAL if its driver has them and no interrupts: mdpy', () => {
    expect(
      differences('y0', step('device_reset', { device: 'd0' }), irqs('badfd', refused('EINVAL'))),
    ).to.deep.equal([]);
  });

  for (const index of [0, 1])
    for (const none of [-1, '-1', 'fd:-1'])
      it(`take eventfd ${JSON.stringify(none)} for the end of interrupt ${index}`, () => {
        expect(
          differences(
            't0',
            step('device_reset', { device: 'd0' }),
            step('device_get_info', { device: 'd0', argsz: 24 }),
            step('eventfd', { eventfd: 'e0' }, {}),
            irqs(none, ok, index),
            irqs('e0', ok, index),
            trigger(ok, index),
            irqs(none, ok, index),
            trigger(refused('EINVAL'), index),
            step('eventfd_read', { eventfd: 'e0' }, { ...ok, count: 1 }),
            irqs('e0', ok, 1 - index),
            irqs('badfd', refused('EBADF'), 1 - index),
          ),
        ).to.deep.equal([]);
      });
});

describe('calls across processes', () => {
  const map = (iova: string) =>
    step('map_dma', { container: 'c0', iova, size: '0x1000', vaddr: 'buf+0x0', flags: ['r', 'w'] });
  const rw = (iova: string, write: number, expected: Fields, fields: Fields = {}) =>
    step('dma_rw', { device: 'd0', iova, len: 16, write, ...fields }, expected);

  it('are EFAULT for dma_rw in the memory of another process, and EPERM after its end', () => {
    expect(
      differences(
        'm0',
        map('0x100000'),
        step('in_child', {}, {}),
        map('0x101000'),
        rw('0x101000', 0, ok),
        rw('0x100000', 0, refused('EFAULT')),
        rw('0x100000', 1, refused('EFAULT')),
        rw('0x100000', 0, ok, { from_kthread: 1 }),
        step('child_exit', {}, {}),
        rw('0x100000', 0, ok),
        rw('0x101000', 0, refused('EPERM')),
      ),
    ).to.deep.equal([]);
  });

  it('leave a warning for each pin beyond RLIMIT_MEMLOCK', () => {
    const pin = (iova: string, npage: number, expected: Fields) =>
      step('pin_pages', { device: 'd0', iova, npage, prot: 3 }, expected);
    const warned = { ...refused('ENOMEM'), klog: ['RLIMIT_MEMLOCK exceeded'] };
    expect(
      differences(
        'm0',
        step('drop_cap_ipc_lock'),
        step('set_rlimit_memlock', { pages: 1 }),
        map('0x100000'),
        map('0x101000'),
        pin('0x100000', 1, { ret: 1, errno: null }),
        pin('0x100000', 2, { ...warned, vmlck_kb: 4 }),
        pin('0x101000', 1, { ...warned, vmlck_kb: 4 }),
        pin('0x100000', 1, { ret: 1, errno: null }),
      ),
    ).to.deep.equal([]);
  });
});
