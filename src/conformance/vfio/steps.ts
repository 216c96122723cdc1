/**
 * Table of the recorded operations: by name, the function that runs one and its output fields.
 */

import type { MdevError } from '../../mdev/registry.ts';
import { hex } from '../../memory/address.ts';
import type { UserBitmap } from '../../vfio/uapi/dirty-log.ts';
import * as uapi from '../../vfio/uapi/vfio-uapi.ts';
import { offsetOf, pageOf } from '../../vfio/uapi/vfio-uapi.ts';
import { bytesHex } from '../vector-text.ts';
import { DEVICE_OPERATIONS } from './device-steps.ts';
import type { Mdev, VfioMachine } from './machine.ts';
import { addressOfSymbol, pageName } from './process-memory.ts';
import { deviceOf, lengthOf, notOpen, type Operation, type Output, operation } from './step-inputs.ts';
import { POLICY_NAMES } from './test-driver.ts';
import { NotModelledError, type StepInputs } from './vector-file.ts';

const containerOf = (input: StepInputs, { containers }: VfioMachine) => {
  const name = input.text('container');
  return containers.get(name) ?? notOpen('container', name);
};
const groupOf = (input: StepInputs, { groups }: VfioMachine): Mdev => {
  const name = input.text('group');
  return groups.get(name) ?? notOpen('group', name);
};
const notModelled = (what: string): never => {
  throw new NotModelledError(what);
};

function vaddrOf(input: StepInputs): bigint {
  const text = input.text('vaddr');
  const address = addressOfSymbol(text);
  return address ?? notModelled(`the buffer ${text}`);
}

/** Returns one of the recorder's byte patterns: each byte is one more than the last. */
const pattern = (length: number, start: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => start + i);

const MAP_FLAGS = { r: uapi.MAP_READ, w: uapi.MAP_WRITE, vaddr: uapi.MAP_VADDR };
const UNMAP_FLAGS = {
  get_dirty_bitmap: uapi.UNMAP_DIRTY_BITMAP,
  all: uapi.UNMAP_ALL,
  vaddr: uapi.UNMAP_VADDR,
};
const FLAG_NAMES = ['viable', 'container_set'];

/** Maximum bytes of a bitmap that are allocated. A bitmap that states more is refused or covers less. */
const BITMAP_LIMIT = 2 ** 20;

function bitmapOf(input: StepInputs, output: Output): UserBitmap {
  const size = Math.max(0, input.number('bitmap_size'));
  const data = new Uint8Array(Math.min(size, BITMAP_LIMIT)).fill(input.number('bitmap_prefill', 0));
  // The bitmap is recorded also when the call fails; its bytes are then unchanged.
  Object.defineProperty(output, 'bitmap', { get: () => bytesHex(data), enumerable: true });
  return { pgsize: input.u64('bitmap_pgsize'), size: BigInt(size), data };
}

function mapDma(input: StepInputs, machine: VfioMachine): void {
  const map = {
    argsz: input.number('argsz', uapi.MAP_ARGSZ),
    flags: input.flags('flags', MAP_FLAGS),
    iova: input.u64('iova'),
    size: input.u64('size'),
    vaddr: vaddrOf(input),
  };
  containerOf(input, machine).requireIommu().map(map, machine.process);
}

function unmapDma(input: StepInputs, machine: VfioMachine, output: Output): void {
  const size = input.u64('size');
  output.size_out = hex(size);
  const bitmap = input.has('bitmap_size') ? bitmapOf(input, output) : undefined;
  const unmap = {
    argsz: input.number('argsz', uapi.UNMAP_ARGSZ + (bitmap ? uapi.BITMAP_BYTES : 0)),
    flags: input.flags('flags', UNMAP_FLAGS),
    iova: input.u64('iova'),
    size,
    ...(bitmap && { bitmap }),
  };
  output.size_out = hex(containerOf(input, machine).requireIommu().unmap(unmap));
}

function mapRepeat(input: StepInputs, machine: VfioMachine, output: Output): void {
  const iommu = containerOf(input, machine).requireIommu();
  const vaddr = vaddrOf(input);
  let iova = input.u64('iova_start');
  let succeeded = 0;
  Object.defineProperty(output, 'succeeded', { get: () => succeeded, enumerable: true });
  for (; succeeded < input.number('attempts'); succeeded++, iova += input.u64('stride'))
    iommu.map({ flags: MAP_FLAGS.r | MAP_FLAGS.w, iova, size: input.u64('size'), vaddr }, machine.process);
}

function getInfo(input: StepInputs, machine: VfioMachine, output: Output): void {
  const { argsz, flags, pgsizes, capOffset, caps } = containerOf(input, machine)
    .requireIommu()
    .getInfo(input.number('argsz'));
  Object.assign(output, {
    argsz_out: argsz,
    flags,
    iova_pgsizes: hex(pgsizes),
    cap_offset: capOffset,
    caps: caps
      ? [
          {
            id: 2,
            version: 1,
            name: 'migration',
            flags: 0,
            pgsize_bitmap: hex(caps.migration.pgsizes),
            max_dirty_bitmap_size: hex(caps.migration.maxBitmap),
          },
          { id: 3, version: 1, name: 'dma_avail', avail: caps.available },
        ]
      : [],
  });
}

function dirtyBitmap(input: StepInputs, machine: VfioMachine, output: Output): void {
  const bitmap = bitmapOf(input, output);
  const range = { iova: input.u64('iova'), size: input.u64('size'), bitmap };
  const argsz = input.number('argsz', uapi.DIRTY_ARGSZ + uapi.DIRTY_RANGE_BYTES);
  containerOf(input, machine).requireIommu().dirtyPages({ argsz, flags: uapi.DIRTY_GET_BITMAP, range });
}

const dirtyFlags: Operation['run'] = (input, machine) => {
  const argsz = input.number('argsz', uapi.DIRTY_ARGSZ);
  containerOf(input, machine)
    .requireIommu()
    .dirtyPages({ argsz, flags: input.number('flags') });
};

function openGroup(input: StepInputs, machine: VfioMachine, output: Output): void {
  const name = input.text('mdev');
  const mdev = machine.mdev(name) ?? notModelled(`mdev ${name}`);
  mdev.group.open();
  machine.groups.set(input.text('group'), mdev);
  output.ret = 'fd';
}

function setContainer(input: StepInputs, machine: VfioMachine): void {
  const name = input.text('container');
  // `fd:-1` is no file; a path is a file that is not a container.
  const file = name.startsWith('fd:') ? undefined : (machine.containers.get(name) ?? name);
  groupOf(input, machine).group.setContainer(file);
}

function pinPages(input: StepInputs, machine: VfioMachine, output: Output): void {
  output.pages_nonnull = 0;
  const { driver } = deviceOf(input, machine).mdev;
  const frames = driver.pin(input.u64('iova'), input.number('npage'), input.number('prot'));
  Object.assign(output, { ret: frames.length, pages: frames.map(pageName), pages_nonnull: frames.length });
}

function unpinPages(input: StepInputs, machine: VfioMachine, output: Output): void {
  output.ret = null;
  deviceOf(input, machine).mdev.driver.unpin(input.u64('iova'), input.number('npage'));
}

function dmaRw(input: StepInputs, machine: VfioMachine, output: Output): void {
  const length = lengthOf(input, 'len');
  const write = input.number('write') === 1;
  const data = write ? pattern(length, input.number('pattern_start', 0)) : new Uint8Array(length);
  if (!write) Object.defineProperty(output, 'data', { get: () => bytesHex(data), enumerable: true });
  const caller = input.number('from_kthread', 0) === 1 ? undefined : machine.process;
  deviceOf(input, machine).mdev.driver.rw(input.u64('iova'), data, write, caller);
}

function setPolicy(input: StepInputs, machine: VfioMachine): void {
  const mode = input.text('mode');
  if (!POLICY_NAMES.has(mode)) notModelled(`the policy ${mode}`);
  const { driver } = deviceOf(input, machine).mdev;
  driver.setPolicy(mode, input.number('arg', 0), input.number('unpin_on_close', 1) === 1);
}

function close(input: StepInputs, machine: VfioMachine): void {
  const name = input.text('obj');
  const device = machine.devices.get(name);
  const group = machine.groups.get(name);
  if (device) machine.closeDevice(name, device);
  group?.group.close();
  // A closed container exists as long as a group is attached to it.
  const others = [machine.groups, machine.containers, machine.eventfds].map((open) => open.delete(name));
  if (!device && !others.includes(true)) notOpen('obj', name);
}

function unknownCall(input: StepInputs, machine: VfioMachine): void {
  const name = input.text('obj');
  const target =
    machine.containers.get(name) ?? machine.groups.get(name)?.group ?? machine.devices.get(name)?.device;
  (target ?? notOpen('obj', name)).unknownCall();
}

/** Returns the start of an access to the process's own memory. */
function place(input: StepInputs): readonly [vpage: number, offset: number] {
  const vaddr = vaddrOf(input);
  return [pageOf(vaddr), offsetOf(vaddr)];
}

function peek(input: StepInputs, { process }: VfioMachine, output: Output): void {
  const bytes = new Uint8Array(lengthOf(input, 'len'));
  process.copyOut(...place(input), bytes);
  output.data = bytesHex(bytes);
}

const REMOVE = /\/([^/]+)\/remove$/;

function sysfsWrite(input: StepInputs, machine: VfioMachine, output: Output): void {
  const [path, text] = [input.text('path'), input.text('data')];
  const uuid = REMOVE.exec(path)?.[1] ?? '';
  const before = machine.registry.get(uuid) !== undefined;
  const waiting = machine.sysfs.write(path, text);
  const leaves = before && (waiting !== undefined || machine.registry.get(uuid) === undefined);
  if (leaves) machine.removed(uuid);
  output.ret = text.length;
}

/** Returns whether the write to `remove` has returned. It returns when the device is removed. */
const removalState = ({ registry, removing }: VfioMachine): 'done' | 'blocked' =>
  registry.get(removing) === undefined ? 'done' : 'blocked';

function sysfsWriteAsync(input: StepInputs, machine: VfioMachine, output: Output): void {
  sysfsWrite(input, machine, output);
  output.state_after_1500ms = removalState(machine);
}

/** Returns the errno, and the stage that failed: the open or the transfer. */
export function sysfsError({ errno, stage }: MdevError): Output {
  return { ret: -1, errno, stage };
}

/** The largest entry limit that is modelled: type1's default. */
const ENTRY_LIMIT_MAX = 65_535;

const INFO_FIELDS = ['argsz_out', 'flags', 'iova_pgsizes', 'cap_offset', 'caps'];
const CALLBACKS = 'dma_unmap_cb';

/** All known operations, by name. */
export const OPERATIONS: ReadonlyMap<string, Operation> = new Map<string, Operation>([
  [
    'open_container',
    operation((input, machine, output) => {
      machine.openContainer(input.text('container'));
      output.ret = 'fd';
    }),
  ],
  ['get_api_version', operation((i, m, output) => (output.ret = containerOf(i, m).apiVersion()))],
  [
    'check_extension',
    operation((i, m, output) => (output.ret = containerOf(i, m).checkExtension(i.number('ext')))),
  ],
  ['set_iommu', operation((i, m) => containerOf(i, m).setIommu(i.number('type')))],
  ['iommu_get_info', operation(getInfo, ...INFO_FIELDS)],
  ['map_dma', operation(mapDma)],
  ['map_dma_repeat', operation(mapRepeat, 'succeeded')],
  ['unmap_dma', operation(unmapDma, 'size_out', 'bitmap', CALLBACKS)],
  ['dirty_start', operation(dirtyFlags)],
  ['dirty_stop', operation(dirtyFlags)],
  ['dirty_raw', operation(dirtyFlags)],
  ['dirty_get_bitmap', operation(dirtyBitmap, 'bitmap')],
  ['open_group', operation(openGroup)],
  ['group_set_container', operation(setContainer)],
  ['group_unset_container', operation((i, m) => groupOf(i, m).group.unsetContainer())],
  [
    'group_status',
    operation((input, machine, output) => {
      const status = groupOf(input, machine).group.status();
      output.flags = FLAG_NAMES.filter((_, bit) => (status & (1 << bit)) !== 0);
    }, 'flags'),
  ],
  [
    'group_get_device_fd',
    operation((input, machine, output) => {
      machine.openDevice(input.text('device'), groupOf(input, machine), input.text('name'));
      output.ret = 'fd';
    }),
  ],
  ['pin_pages', operation(pinPages, 'pages', 'pages_nonnull')],
  ['unpin_pages', operation(unpinPages)],
  ['dma_rw', operation(dmaRw, 'data')],
  ['cb_policy', operation(setPolicy)],
  ['close', operation(close, CALLBACKS)],
  ['raw_ioctl', operation(unknownCall)],
  ['mem_peek', operation(peek, 'data')],
  [
    'mem_poke',
    operation((i, { process }) => {
      process.copyIn(...place(i), pattern(lengthOf(i, 'len'), i.number('pattern_start')));
    }),
  ],
  ['mem_munmap', operation((i, { process }) => process.unmap(place(i)[0], i.pages('size')))],
  [
    'mem_mmap_fixed_zero',
    operation((i, { process }) => process.mapZeros(place(i)[0], i.pages('size'), i.number('prot'))),
  ],
  [
    'set_dma_entry_limit',
    operation((i, machine) => (machine.entryLimit = Math.min(i.number('limit'), ENTRY_LIMIT_MAX))),
  ],
  ['drop_cap_ipc_lock', operation((_, { process }) => (process.locksFreely = false))],
  ['set_rlimit_memlock', operation((i, { process }) => (process.lockLimit = i.number('pages')))],
  ['in_child', operation((_, machine) => machine.fork())],
  ['child_exit', operation((_, machine) => machine.exitChild())],
  ['vmlck', operation(() => {})],
  ...DEVICE_OPERATIONS,
  [
    'sysfs_list',
    operation((i, { sysfs }, output) => (output.entries = sysfs.list(i.text('path'))), 'entries'),
  ],
  [
    'sysfs_read',
    operation((input, { sysfs }, output) => {
      const data = sysfs.read(input.text('path'));
      Object.assign(output, { ret: data.length, data });
    }, 'data'),
  ],
  ['sysfs_write', operation(sysfsWrite, 'stage')],
  ['sysfs_write_async', operation(sysfsWriteAsync, 'state_after_1500ms')],
  [
    'sysfs_write_async_result',
    operation((_, machine, output) => {
      output.state = removalState(machine);
      output.ret = output.state === 'done' ? 1 : null;
    }, 'state'),
  ],
]);
