/**
 * The parents on the recorded kernels: Linux's samples mtty and mdpy, and two test drivers of the recording.
 */
import { MdevError } from './errors.ts';
import { parseUnsigned, parseWord } from './parse.ts';
import type { AttributeSpec, ParentSpec, TypeSpec } from './spec.ts';

const API = 'vfio-pci';

// ---- mtty: serial ports, 24 in total (samples/vfio-mdev/mtty.c)

const MTTY_PORTS = 24;
const MTTY_ATTRIBUTES: readonly AttributeSpec[] = [
  { path: 'vendor/sample_mdev_dev', initial: (uuid) => `This is MDEV ${uuid}` },
];

export const MTTY: ParentSpec = {
  name: 'mtty',
  driver: 'mtty',
  device: '/sys/devices/virtual/mtty/mtty',
  subsystem: '/sys/class/mtty',
  capacity: { kind: 'units', total: MTTY_PORTS },
  types: [
    { id: 'mtty-1', name: 'Single port serial', deviceApi: API, share: 1, attributes: MTTY_ATTRIBUTES },
    { id: 'mtty-2', name: 'Dual port serial', deviceApi: API, share: 2, attributes: MTTY_ATTRIBUTES },
  ],
};

// ---- mdpy: displays, 4 in total (samples/vfio-mdev/mdpy.c)

const mdpyType = (id: string, resolution: string): TypeSpec => ({
  id,
  name: id,
  description: `virtual display, ${resolution} framebuffer\n`,
  deviceApi: API,
  attributes: [{ path: 'vendor/resolution', initial: () => resolution }],
});

export const MDPY: ParentSpec = {
  name: 'mdpy',
  driver: 'mdpy',
  device: '/sys/devices/virtual/mdpy/mdpy',
  subsystem: '/sys/class/mdpy',
  capacity: { kind: 'instances', total: 4 },
  types: [
    mdpyType('mdpy-vga', '640x480'),
    mdpyType('mdpy-xga', '1024x768'),
    mdpyType('mdpy-hd', '1920x1080'),
  ],
};

// ---- the recording's test drivers: orc pins pages, tdev has attributes of all kinds

export const ORC: ParentSpec = {
  name: 'orc',
  driver: 'orc',
  device: '/sys/devices/virtual/orc/orc',
  subsystem: '/sys/class/orc',
  capacity: { kind: 'instances', total: 8 },
  types: [
    { id: 'orc-std', name: 'pins, with dma_unmap', deviceApi: API },
    { id: 'orc-nocb', name: 'no dma_unmap callback', deviceApi: API },
  ],
};

const LEVEL_MAX = 9;

function storeLevel(text: string): string {
  const level = parseUnsigned(text);
  if (level > LEVEL_MAX) throw new MdevError('ERANGE', `level ${level}; accepted: 0 to ${LEVEL_MAX}`);
  return String(level);
}

const TDEV_ATTRIBUTES: readonly AttributeSpec[] = [
  { path: 'color', initial: () => 'none', store: parseWord },
  { path: 'ctl/mode', initial: () => 'normal', store: parseWord },
  { path: 'level', initial: () => '0', store: storeLevel },
  { path: 'serial', initial: (uuid) => `S-${uuid}` },
];

const TDEV_TYPES: readonly TypeSpec[] = [
  {
    id: 'tdev-a',
    name: 'Test type "A"',
    description: 'num_heads=4, frl_config=60\nmax_resolution=4096x2160\n',
    deviceApi: API,
    attributes: TDEV_ATTRIBUTES,
  },
  { id: 'tdev-b', name: 'b', description: '', deviceApi: API, attributes: TDEV_ATTRIBUTES },
  { id: 'tdev-bad', name: 'probe fails', description: '', deviceApi: API, probeErrno: 'EIO' },
];

const tdev = (name: string): ParentSpec => ({
  name,
  driver: 'tdev',
  device: `/sys/devices/virtual/tdev/${name}`,
  subsystem: '/sys/class/tdev',
  capacity: { kind: 'instances', total: 3 },
  types: TDEV_TYPES,
});

const TDEVS: readonly ParentSpec[] = ['tdev0', '0000:5e:00.0', '0000:AF:00.0'].map(tdev);

/** The parents during the recording of the vectors of section A. */
export const VECTOR_PARENTS: readonly ParentSpec[] = [MTTY, MDPY, ORC];
/** The parents during the recording of the sysfs trees. */
export const TREE_PARENTS: readonly ParentSpec[] = [...VECTOR_PARENTS, ...TDEVS];

/** The instances at the start of each vector, in order of creation: parent, type, UUID. */
export const VECTOR_INSTANCES: readonly (readonly [parent: string, type: string, uuid: string])[] = [
  ['orc', 'orc-std', 'a0000000-0000-0000-0000-000000000000'],
  ['orc', 'orc-std', 'a0000000-0000-0000-0000-000000000001'],
  ['orc', 'orc-nocb', 'b0000000-0000-0000-0000-000000000000'],
  ['mtty', 'mtty-1', 'c0000000-0000-0000-0000-000000000000'],
  ['mtty', 'mtty-2', 'c0000000-0000-0000-0000-000000000001'],
  ['mdpy', 'mdpy-vga', 'd0000000-0000-0000-0000-000000000000'],
];
