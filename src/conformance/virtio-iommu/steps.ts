/**
 * Operations of a virtio-iommu vector's steps, with their results as texts to compare.
 */

import * as virtio from '../../abi/virtio.ts';
import * as format from '../../abi/virtio-iommu.ts';
import { hex } from '../../memory/address.ts';
import { DEFAULT_PROBE_SIZE } from '../../viommu/virtio/iommu.ts';
import { bytesHex } from '../vector-text.ts';
import type { InitSettings, RawAnswer, RawDescriptor, RecordedEvent, VirtioMachine } from './machine.ts';
import type { Step } from './vectors.ts';

/** Result of a step: one text for each compared value, by name. */
export type Got = Readonly<Record<string, string>>;

const NOTHING: Got = {};
const bytesOf = (text: string | undefined): Uint8Array => new Uint8Array(Buffer.from(text ?? '', 'hex'));
const number = (value: bigint | undefined): number => Number(value ?? 0n);

/** Returns an event as text without blanks. {@link parseEvents} reads it. */
const packEvent = ({ reason, flags, endpoint, address }: RecordedEvent): string =>
  `${reason},${flags},${endpoint},${address}`;

export function parseEvents(text: string): RecordedEvent[] {
  if (text === '') return [];
  return text.split(' ').map((event) => {
    const [reason, flags, endpoint, address] = event.split(',') as [string, string, string, string];
    return {
      reason: Number(reason),
      flags: Number(flags),
      endpoint: Number(endpoint),
      address: BigInt(address),
    };
  });
}

/** Machine and vector data that an operation may use. */
interface StepContext {
  readonly machine: VirtioMachine;
  readonly devices: readonly number[];
  readonly initial: InitSettings;
}

export type Operation = (step: Step, context: StepContext) => Got;

const CONFIG_FIELDS: Readonly<Record<string, { readonly offset: number; readonly size: number }>> = {
  page_size_mask: { offset: format.CONFIG_PAGE_SIZE_MASK, size: 8 },
  input_range_start: { offset: format.CONFIG_INPUT_START, size: 8 },
  input_range_end: { offset: format.CONFIG_INPUT_END, size: 8 },
  domain_range_start: { offset: format.CONFIG_DOMAIN_START, size: 4 },
  domain_range_end: { offset: format.CONFIG_DOMAIN_END, size: 4 },
  probe_size: { offset: format.CONFIG_PROBE_SIZE, size: 4 },
  bypass: { offset: format.CONFIG_BYPASS, size: 1 },
};

function configPlace(step: Step): { readonly offset: number; readonly size: number } {
  const field = step.field === undefined ? undefined : CONFIG_FIELDS[step.field];
  return field ?? { offset: number(step.off), size: number(step.size ?? 4n) };
}

export const OPERATIONS: Readonly<Record<Step['op'], Operation>> = {
  config_read: (step, { machine }) => {
    const { offset, size } = configPlace(step);
    return { value: hex(machine.read(virtio.CONFIG_REG + offset, size)) };
  },
  config_write: (step, { machine }) => {
    const { offset, size } = configPlace(step);
    machine.write(virtio.CONFIG_REG + offset, step.value ?? 0n, size);
    return NOTHING;
  },
  features_read: (_step, { machine }) => {
    const half = (select: number) => {
      machine.write(virtio.DEVICE_FEATURES_SEL_REG, select);
      return machine.read(virtio.DEVICE_FEATURES_REG);
    };
    return { value: hex(half(0) | (half(1) << 32n)) };
  },
  common_read: (step, { machine }) => ({ value: hex(commonField(step.field, machine)) }),
  queue_info: (step, { machine }) => {
    machine.write(virtio.QUEUE_SEL_REG, step.queue ?? 0n);
    const size = machine.read(virtio.QUEUE_SIZE_MAX_REG);
    return { queue: `size ${size} enabled ${machine.read(virtio.QUEUE_READY_REG)}` };
  },
  isr_read: (_step, { machine }) => {
    const value = machine.read(virtio.INTERRUPT_STATUS_REG);
    machine.write(virtio.INTERRUPT_ACK_REG, value);
    return { value: hex(value) };
  },
  device_status_write: (step, { machine }) => {
    machine.write(virtio.STATUS_REG, step.value ?? 0n);
    return NOTHING;
  },
  request: (step, { machine }) => request(step, machine),
  raw_request: (step, { machine }) => {
    const { indirect, head, avail_skip: skip } = step;
    const answer = machine.request(rawDescriptors(step), {
      ...(indirect && { indirect }),
      ...(head !== undefined && { head: Number(head) }),
      ...(skip !== undefined && { availSkip: Number(skip) }),
    });
    return rawGot(answer);
  },
  dma_read: (step, context) => dma(step, context, new Uint8Array(number(step.len)), false),
  dma_write: (step, context) => dma(step, context, bytesOf(step.data), true),
  events: (step, { machine }) => ({
    events: machine
      .takeEvents(step.recycle !== false)
      .map(packEvent)
      .join(' '),
  }),
  event_bufs: (step, { machine }) => {
    machine.postEventBuffers(number(step.count), step.len === undefined ? undefined : Number(step.len));
    return NOTHING;
  },
  mem_write: (step, { machine }) => {
    machine.ram.write(number(step.gpa), bytesOf(step.data));
    return NOTHING;
  },
  mem_read: (step, { machine }) => ({
    bytes: bytesHex(machine.ram.read(number(step.gpa), number(step.len))),
  }),
  mem_fill: (step, { machine }) => {
    machine.ram.write(number(step.gpa), pattern(number(step.gpa), number(step.len)));
    return NOTHING;
  },
  reset: (step, { machine, initial }) => {
    if (step.reinit !== false) {
      machine.init(initial);
      return NOTHING;
    }
    machine.write(virtio.STATUS_REG, 0);
    return { value: hex(machine.read(virtio.STATUS_REG)) };
  },
  init: (step, { machine, initial }) => {
    const accepted = machine.init({
      ...initial,
      ...(step.features !== undefined && { features: step.features }),
      ...(step.upto !== undefined && { upto: Number(step.upto) }),
      ...(step.event_bufs !== undefined && { eventBuffers: Number(step.event_bufs) }),
      ...(step.event_len !== undefined && { eventBytes: Number(step.event_len) }),
    });
    return { accepted: String(accepted) };
  },
  system_reset: (_step, { machine, initial }) => {
    machine.systemReset(initial);
    return NOTHING;
  },
};

/** MMIO has no register for the count of queues: queues with a size are counted. */
function commonField(field: string | undefined, machine: VirtioMachine): bigint {
  if (field === 'config_generation') return machine.read(virtio.CONFIG_GENERATION_REG);
  if (field !== 'num_queues') return machine.read(virtio.STATUS_REG);
  let queues = 0;
  for (; queues < 64; queues++) {
    machine.write(virtio.QUEUE_SEL_REG, queues);
    if (machine.read(virtio.QUEUE_SIZE_MAX_REG) === 0n) break;
  }
  return BigInt(queues);
}

export function rawDescriptors(step: Step): RawDescriptor[] {
  if (step.descs)
    return step.descs.map(({ data, len, w, next, gpa }) => ({
      ...(data !== undefined && !(len === 0n) && { data: bytesOf(data) }),
      ...(len !== undefined && { length: Number(len) }),
      ...(next !== undefined && { next: Number(next) }),
      ...(gpa !== undefined && { gpa: Number(gpa) }),
      writable: w === 1n,
    }));
  const length = number(step.writable_len);
  const readable = { data: bytesOf(step.bytes) };
  return length > 0 ? [readable, { length, writable: true }] : [readable];
}

function rawGot({ completed, usedLength, written }: RawAnswer): Got {
  const text = bytesHex(written).replace(/(cc)+$/, '');
  if (!completed) return { completed: 'false', written: text };
  return { completed: 'true', used_len: String(usedLength), written: text };
}

const MAP_FLAGS: Readonly<Record<string, number>> = {
  r: format.MAP_F_READ,
  w: format.MAP_F_WRITE,
  mmio: format.MAP_F_MMIO,
};

/** Type, length and fields (name, offset, bytes) of each request. */
const REQUESTS: Readonly<
  Record<
    string,
    {
      readonly type: number;
      readonly bytes: number;
      readonly fields: readonly [RequestField, number, 4 | 8][];
      readonly reserved: number;
    }
  >
> = {
  attach: {
    type: format.T_ATTACH,
    bytes: format.ATTACH_BYTES,
    fields: [
      ['domain', 4, 4],
      ['endpoint', 8, 4],
      ['flags', 12, 4],
    ],
    reserved: 16,
  },
  detach: {
    type: format.T_DETACH,
    bytes: format.DETACH_BYTES,
    fields: [
      ['domain', 4, 4],
      ['endpoint', 8, 4],
    ],
    reserved: 12,
  },
  map: {
    type: format.T_MAP,
    bytes: format.MAP_BYTES,
    fields: [
      ['domain', 4, 4],
      ['virt_start', 8, 8],
      ['virt_end', 16, 8],
      ['phys_start', 24, 8],
      ['flags', 32, 4],
    ],
    reserved: 36,
  },
  unmap: {
    type: format.T_UNMAP,
    bytes: format.UNMAP_BYTES,
    fields: [
      ['domain', 4, 4],
      ['virt_start', 8, 8],
      ['virt_end', 16, 8],
    ],
    reserved: 24,
  },
  probe: { type: format.T_PROBE, bytes: format.PROBE_BYTES, fields: [['endpoint', 4, 4]], reserved: 8 },
};

type RequestField = 'domain' | 'endpoint' | 'flags' | 'virt_start' | 'virt_end' | 'phys_start';

function requestBytes(step: Step): Uint8Array {
  const kind = REQUESTS[step.type as string] as (typeof REQUESTS)[string];
  const bytes = new Uint8Array(kind.bytes);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, kind.type);
  for (const [name, offset, size] of kind.fields) {
    const value = name === 'flags' ? flagsOf(step) : (step[name] ?? 0n);
    if (size === 8) view.setBigUint64(offset, value, true);
    else view.setUint32(offset, Number(value), true);
  }
  if (step.head_reserved !== undefined) bytes.set(bytesOf(step.head_reserved).subarray(0, 3), 1);
  if (step.reserved !== undefined)
    bytes.set(bytesOf(step.reserved).subarray(0, kind.bytes - kind.reserved), kind.reserved);
  return bytes;
}

function flagsOf({ flags }: Step): bigint {
  if (!Array.isArray(flags)) return flags ?? 0n;
  return BigInt(flags.reduce((sum, name) => sum | (MAP_FLAGS[name] ?? 0), 0));
}

function request(step: Step, machine: VirtioMachine): Got {
  const properties = step.type === 'probe' ? number(step.probe_size ?? BigInt(DEFAULT_PROBE_SIZE)) : 0;
  const answer = machine.request([
    { data: requestBytes(step) },
    { length: properties + format.TAIL_BYTES, writable: true },
  ]);
  const answered = answer.completed && answer.usedLength >= properties + format.TAIL_BYTES;
  const status = answered ? (answer.written[properties] as number) : undefined;
  const { completed: _, ...raw } = rawGot(answer);
  return {
    ...raw,
    status: status === undefined ? 'null' : (format.STATUS_NAMES[status] ?? String(status)),
    ...(status === format.S_OK && step.type === 'probe' && { properties: propertiesText(answer.written) }),
  };
}

function propertiesText(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found: string[] = [];
  for (let at = 0; at + 24 <= DEFAULT_PROBE_SIZE && view.getUint16(at, true) !== 0; ) {
    const subtype = view.getUint8(at + 4) === format.RESV_MEM_T_MSI ? 'msi' : 'reserved';
    found.push(`${subtype} ${hex(view.getBigUint64(at + 8, true))} ${hex(view.getBigUint64(at + 16, true))}`);
    at += 4 + view.getUint16(at + 2, true);
  }
  return found.join(', ');
}

function dma(step: Step, { machine, devices }: StepContext, bytes: Uint8Array, write: boolean): Got {
  const device = devices[number(step.dev)];
  if (device === undefined)
    throw new RangeError(`no device ${step.dev ?? 0n}: the vector has ${devices.length}`);
  const blocked = machine.dma(device, step.iova ?? 0n, bytes, write);
  const count = blocked.reduce((sum, one) => sum + one, 0);
  const outcome = count === 0 ? 'ok' : count === bytes.length ? 'fault' : 'partial';
  const parts = (step.parts ?? []).map(({ iova, len }) => {
    const at = Number(iova - (step.iova ?? 0n));
    return blocked.subarray(at, at + Number(len)).includes(1) ? 'fault' : 'ok';
  });
  return {
    dma: outcome,
    parts: parts.join(),
    ...(!write && outcome !== 'fault' && { data: bytesHex(bytes) }),
  };
}

/** The 8-byte word at address A is A * 0x9e3779b97f4a7c15, little endian. */
function pattern(gpa: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length + 16);
  const view = new DataView(bytes.buffer);
  const start = gpa - (gpa % 8);
  for (let at = 0; at < length + (gpa % 8); at += 8)
    view.setBigUint64(at, BigInt.asUintN(64, BigInt(start + at) * 0x9e3779b97f4a7c15n), true);
  return bytes.subarray(gpa % 8, (gpa % 8) + length);
}
