/**
 * Expected results of each step of a virtio-iommu vector: accepted texts by the name of the compared value.
 */

import * as format from '../../abi/virtio-iommu.ts';
import { hex } from '../../memory/address.ts';
import type { Quirks } from '../../viommu/quirks.ts';
import { MSI_REGION } from '../../viommu/virtio/iommu.ts';
import type { Expected, RecordedEvents, Step } from './vectors.ts';

type Expectation = (
  step: Step,
  spec: Expected | undefined,
  quirks: Quirks,
) => Readonly<Record<string, readonly string[]>>;

const value: Expectation = (step) =>
  step.expect === undefined ? {} : { value: [hex(BigInt(step.expect as string | number))] };

const transfer: Expectation = (step, spec) => ({
  dma: texts(spec?.expect ?? step.expect),
  ...(!spec && step.parts && { parts: [step.parts.map(({ expect }) => expect).join()] }),
  ...dataText(step, spec),
});

/** Expected data of a DMA read. A `spec` that changes the outcome without data accepts any data. */
function dataText(step: Step, spec: Expected | undefined): Record<string, readonly string[]> {
  if (step.op !== 'dma_read') return {};
  const data = spec?.data ?? (spec?.expect === undefined ? step.data : undefined);
  return data === undefined ? {} : { data: texts(data) };
}

const NOT_THERE: readonly string[] = ['INVAL', 'NOENT'];

/**
 * Returns the accepted status texts of a request. If a request breaks two rules, the specification does not define
 * which one is reported, but the recording has one. Examples: DETACH of an endpoint in no domain, MAP into a reserved
 * region of a domain that does not exist.
 */
function statusTexts(step: Step, quirks: Quirks): readonly string[] {
  const text = step.status ?? 'null';
  const { virt_start: start = 0n, virt_end: end = 0n } = step;
  const reserved = step.type === 'map' && start <= MSI_REGION.end && end >= MSI_REGION.start;
  const either = quirks === 'spec' && (step.type === 'detach' || reserved) && NOT_THERE.includes(text);
  return either ? NOT_THERE : [text];
}

const answered: Expectation = (step, spec, quirks) => {
  if (spec?.used_len !== undefined)
    return {
      completed: ['true'],
      used_len: texts(spec.used_len),
      ...(spec.used_len === 0n && { written: [''] }),
    };
  if (spec) return { ...(spec.status !== undefined && { status: texts(spec.status) }) };
  return {
    ...(step.completed !== undefined && { completed: [String(step.completed)] }),
    ...(step.op === 'request' && step.status !== undefined && { status: statusTexts(step, quirks) }),
    ...(step.used_len !== undefined && { used_len: [String(step.used_len)] }),
    ...(step.written !== undefined && { written: [step.written] }),
    ...(step.properties && {
      properties: [step.properties.map((p) => `${p.subtype} ${p.start} ${p.end}`).join(', ')],
    }),
  };
};

export const EXPECTATIONS: Readonly<Partial<Record<Step['op'], Expectation>>> = {
  config_read: value,
  features_read: value,
  common_read: value,
  isr_read: value,
  queue_info: ({ expect }) => {
    const { size, enabled } = expect as { size: number; enabled: number | boolean };
    return { queue: [`size ${Number(size)} enabled ${Number(enabled)}`] };
  },
  request: answered,
  raw_request: answered,
  dma_read: transfer,
  dma_write: transfer,
  events: (step, spec, quirks) => ({
    events: [eventsText(spec?.expect ?? step.expect, quirks === 'qemu')],
  }),
  mem_read: (step, spec) => ({ bytes: texts(spec?.expect ?? step.expect) }),
  reset: ({ expect_status }) => (expect_status === undefined ? {} : { value: [hex(expect_status)] }),
  init: ({ features_ok }) => (features_ok === undefined ? {} : { accepted: [String(features_ok)] }),
};

/** Returns one accepted text or several. */
const texts = (given: unknown): readonly string[] => (Array.isArray(given) ? given : [given]).map(String);

const EVENT_FLAGS: Readonly<Record<string, number>> = {
  read: format.FAULT_F_READ,
  write: format.FAULT_F_WRITE,
  exec: format.FAULT_F_EXEC,
  address: format.FAULT_F_ADDRESS,
};

/** The specification leaves the flags to the device, so they are compared only with quirks 'qemu' (`named`). */
function eventsText(expect: unknown, named: boolean): string {
  return (expect as RecordedEvents)
    .map(({ reason, flags, endpoint, address }) => {
      const bits = flags?.reduce((sum, name) => sum | (EVENT_FLAGS[name] ?? 0), 0);
      return `${reason}@${BigInt(endpoint)}:${hex(BigInt(address))}${named ? `+flags${hex(bits ?? 0)}` : ''}`;
    })
    .join(' ');
}
