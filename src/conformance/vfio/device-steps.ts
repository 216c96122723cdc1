/**
 * Recorded operations on a device itself: information, regions, interrupts, eventfds.
 */
import { hex } from '../../memory/address.ts';
import { VfioError } from '../../vfio/errors.ts';
import { bytesHex } from '../vector-text.ts';
import * as api from './device-model.ts';
import { Eventfd, type SetIrqs } from './device-model.ts';
import type { VfioMachine } from './machine.ts';
import { deviceOf, lengthOf, notOpen, type Operation, type Output, operation } from './step-inputs.ts';
import type { StepInputs } from './vector-file.ts';

/** Minimum `argsz`: the bytes up to the last required field. */
const DEVICE_INFO_ARGSZ = 16;
const REGION_INFO_ARGSZ = 32;
/** VFIO_DEVICE_FLAGS_PCI. The recorder's own driver sets it too. */
const DEVICE_PCI = 2;

const IRQ_FLAGS = {
  data_none: api.DATA_NONE,
  data_bool: api.DATA_BOOL,
  data_eventfd: api.DATA_EVENTFD,
  action_mask: api.ACTION_MASK,
  action_unmask: api.ACTION_UNMASK,
  action_trigger: api.ACTION_TRIGGER,
};

const modelOf = (input: StepInputs, machine: VfioMachine) => deviceOf(input, machine).mdev.model;

function checkArgsz(input: StepInputs, least: number): number {
  const argsz = input.number('argsz');
  if (argsz < least) throw new VfioError('EINVAL', `argsz ${argsz}; accepted: at least ${least}`);
  return argsz;
}

function deviceInfo(input: StepInputs, machine: VfioMachine, output: Output): void {
  const argsz = checkArgsz(input, DEVICE_INFO_ARGSZ);
  const { regions, irqs } = modelOf(input, machine).info();
  Object.assign(output, { argsz_out: argsz, flags: DEVICE_PCI, num_regions: regions, num_irqs: irqs });
}

function regionInfo(input: StepInputs, machine: VfioMachine, output: Output): void {
  const argsz = checkArgsz(input, REGION_INFO_ARGSZ);
  const { flags, size, offset } = modelOf(input, machine).region(input.number('index'));
  const place = { size: hex(BigInt(size)), offset: hex(BigInt(offset)) };
  Object.assign(output, { argsz_out: argsz, flags, cap_offset: 0, ...place });
}

function irqInfo(input: StepInputs, machine: VfioMachine, output: Output): void {
  Object.assign(output, modelOf(input, machine).irq(input.number('index')));
}

function regionRead(input: StepInputs, machine: VfioMachine, output: Output): void {
  const bytes = new Uint8Array(lengthOf(input, 'len'));
  modelOf(input, machine).read(input.number('region'), Number(input.u64('offset')), bytes);
  Object.assign(output, { ret: bytes.length, data: bytesHex(bytes) });
}

function regionWrite(input: StepInputs, machine: VfioMachine, output: Output): void {
  const bytes = input.bytes('data');
  modelOf(input, machine).write(input.number('region'), Number(input.u64('offset')), bytes);
  output.ret = bytes.length;
}

function regionMmap(input: StepInputs, machine: VfioMachine): void {
  const shared = input.number('shared') === 1;
  modelOf(input, machine).mmap(input.number('region'), Number(input.u64('len')), shared);
}

/** Returns whether the step's data is the descriptor -1, as a number or in text: `-1`, `fd:-1`. */
const isNoEventfd = (data: unknown): boolean => /^(fd:)?-1$/.test(String(data));

/**
 * Converts the step's `data`: the name of an eventfd, the descriptor -1, `badfd`, `missing`, a bool as a number, or
 * absent.
 */
function irqData(
  input: StepInputs,
  { eventfds }: VfioMachine,
  count: number,
): Pick<SetIrqs, 'eventfd' | 'bool'> {
  const data = input.raw('data');
  if (data === undefined || data === 'missing') return { eventfd: undefined, bool: undefined };
  if (isNoEventfd(data)) return { eventfd: 'none', bool: undefined };
  if (typeof data === 'number') return { eventfd: undefined, bool: data };
  if (data === 'badfd') return { eventfd: 'bad', bool: undefined };
  const eventfd = eventfds.get(String(data));
  if (!eventfd) return { eventfd: 'bad', bool: undefined };
  return { eventfd: count > 1 ? undefined : eventfd, bool: undefined };
}

function setIrqs(input: StepInputs, machine: VfioMachine): void {
  const count = input.number('count');
  modelOf(input, machine).setIrqs({
    flags: input.flags('flags', IRQ_FLAGS),
    index: input.number('index'),
    start: input.number('start'),
    count,
    ...irqData(input, machine, count),
  });
}

function openEventfd(input: StepInputs, { eventfds }: VfioMachine, output: Output): void {
  eventfds.set(input.text('eventfd'), new Eventfd());
  output.ret = 'fd';
}

function readEventfd(input: StepInputs, { eventfds }: VfioMachine, output: Output): void {
  const eventfd = eventfds.get(input.text('eventfd'));
  output.count = (eventfd ?? notOpen('eventfd', input.text('eventfd'))).read();
}

/** Start of the recorder's note of calls that it made but did not record. */
const FETCHED = 'driver: device_get_info';

/** Repeats those calls: a sample driver sets its own limits when it returns its information. */
function note(input: StepInputs, { devices }: VfioMachine): void {
  if (!input.text('text').startsWith(FETCHED)) return;
  for (const { mdev } of devices.values()) mdev.model.info();
}

export const DEVICE_OPERATIONS: readonly (readonly [name: string, operation: Operation])[] = [
  ['device_get_info', operation(deviceInfo, 'argsz_out', 'flags', 'num_regions', 'num_irqs')],
  ['device_get_region_info', operation(regionInfo, 'argsz_out', 'flags', 'cap_offset', 'size', 'offset')],
  ['device_get_irq_info', operation(irqInfo, 'flags', 'count')],
  ['device_reset', operation((input, machine) => modelOf(input, machine).reset())],
  ['device_set_irqs', operation(setIrqs)],
  ['region_read', operation(regionRead, 'data')],
  ['region_write', operation(regionWrite)],
  ['region_mmap', operation(regionMmap)],
  ['eventfd', operation(openEventfd)],
  ['eventfd_read', operation(readEventfd, 'count')],
  ['note', operation(note)],
];
