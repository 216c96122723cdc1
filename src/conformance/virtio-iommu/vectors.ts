/**
 * Format of recorded virtio-iommu vectors. Numbers are JSON numbers or "0x…" strings and are parsed to BigInt.
 */
import { z } from 'zod';

/** Maximum steps of one vector. */
const STEP_LIMIT = 100_000;
/** Maximum descriptors of one chain. */
const DESCRIPTOR_LIMIT = 1024;

const MAX = 2n ** 64n - 1n;

const integer = z
  .union([z.number().int().nonnegative(), z.string().regex(/^(0x[0-9a-f]+|\d+)$/i)])
  .transform((value, context) => {
    const wide = BigInt(value);
    if (wide > MAX) context.addIssue({ code: 'custom', message: 'more than 64 bits' });
    return wide;
  });
const hexBytes = z.string().regex(/^(?:[0-9a-f]{2})*$/i, 'not an even number of hexadecimal digits');
/** Bytes written by a device. The recorder cuts long ones and adds an ellipsis. */
const written = z.string().regex(/^(?:[0-9a-f]{2})*(\.\.\.)?$/i);
const bdf = z.strictObject({ bdf: z.string().regex(/^[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/i) });
const small = integer.refine((value) => value <= 2n ** 20n, 'more than 1 MiB');

const OPS = [
  'config_read',
  'config_write',
  'features_read',
  'common_read',
  'queue_info',
  'isr_read',
  'device_status_write',
  'request',
  'raw_request',
  'dma_read',
  'dma_write',
  'events',
  'event_bufs',
  'mem_write',
  'mem_read',
  'mem_fill',
  'reset',
  'init',
  'system_reset',
] as const;

const eventShape = z.array(
  z.strictObject({
    reason: z.enum(['UNKNOWN', 'DOMAIN', 'MAPPING']),
    flags: z.array(z.enum(['read', 'write', 'exec', 'address'])).optional(),
    endpoint: integer,
    address: integer,
    /** Count of equal events in a row of the recorded program. It depends on the program's access size: not compared. */
    count: integer.optional(),
  }),
);

/** Fault events in a vector. */
export type RecordedEvents = z.infer<typeof eventShape>;

const specShape = z.strictObject({
  status: z.union([z.string(), z.null(), z.array(z.string())]).optional(),
  expect: z.unknown().optional(),
  data: z.union([z.string(), z.array(z.string())]).optional(),
  used_len: integer.optional(),
});

/** The specification's answers where QEMU differs. */
export type Expected = z.infer<typeof specShape>;

const stepShape = z.strictObject({
  op: z.enum(OPS),
  field: z.string().optional(),
  off: integer.optional(),
  size: integer.optional(),
  value: integer.optional(),
  queue: integer.optional(),
  expect: z.unknown().optional(),
  expect_status: integer.optional(),
  type: z.enum(['attach', 'detach', 'map', 'unmap', 'probe']).optional(),
  domain: integer.optional(),
  endpoint: integer.optional(),
  virt_start: integer.optional(),
  virt_end: integer.optional(),
  phys_start: integer.optional(),
  flags: z.union([integer, z.array(z.enum(['r', 'w', 'mmio']))]).optional(),
  reserved: hexBytes.optional(),
  head_reserved: hexBytes.optional(),
  probe_size: small.optional(),
  status: z.string().nullable().optional(),
  properties: z
    .array(z.strictObject({ type: z.string(), subtype: z.string(), start: z.string(), end: z.string() }))
    .optional(),
  bytes: hexBytes.optional(),
  writable_len: small.optional(),
  descs: z
    .array(
      z.strictObject({
        data: hexBytes.optional(),
        len: integer.optional(),
        w: integer.optional(),
        next: integer.optional(),
        gpa: integer.optional(),
      }),
    )
    .max(DESCRIPTOR_LIMIT)
    .optional(),
  indirect: z.boolean().optional(),
  head: integer.optional(),
  avail_skip: integer.optional(),
  completed: z.boolean().optional(),
  used_len: integer.optional(),
  written: written.optional(),
  dev: integer.optional(),
  iova: integer.optional(),
  gpa: integer.optional(),
  len: small.optional(),
  data: hexBytes.optional(),
  parts: z.array(z.strictObject({ iova: integer, len: small, expect: z.enum(['ok', 'fault']) })).optional(),
  recycle: z.boolean().optional(),
  count: integer.optional(),
  reinit: z.boolean().optional(),
  features: integer.optional(),
  features_ok: z.boolean().optional(),
  upto: integer.optional(),
  event_len: integer.optional(),
  event_bufs: integer.optional(),
  needs_reset: z.boolean().optional(),
  impl_defined: z.boolean().optional(),
  spec: specShape.optional(),
});

export type Step = z.infer<typeof stepShape>;

/** Required fields of each kind of step. */
const REQUIRED: Readonly<Partial<Record<Step['op'], readonly (keyof Step)[]>>> = {
  config_read: ['expect'],
  config_write: ['value'],
  features_read: ['expect'],
  common_read: ['field', 'expect'],
  queue_info: ['queue', 'expect'],
  isr_read: ['expect'],
  device_status_write: ['value'],
  request: ['type', 'status'],
  dma_read: ['iova', 'len', 'expect'],
  dma_write: ['iova', 'data', 'expect'],
  events: ['expect'],
  event_bufs: ['count'],
  mem_write: ['gpa', 'data'],
  mem_read: ['gpa', 'len', 'expect'],
  mem_fill: ['gpa', 'len'],
};

/** Format of `expect`, also inside `spec`, by kind of step. */
const EXPECT: Readonly<Partial<Record<Step['op'], z.ZodType>>> = {
  config_read: integer,
  features_read: integer,
  common_read: integer,
  isr_read: integer,
  queue_info: z.strictObject({ size: integer, enabled: z.union([z.boolean(), integer]) }),
  dma_read: z.enum(['ok', 'fault', 'partial']),
  dma_write: z.enum(['ok', 'fault', 'partial']),
  events: eventShape,
  mem_read: hexBytes,
};

const checkedStep = stepShape.superRefine((step, context) => {
  for (const name of REQUIRED[step.op] ?? [])
    if (step[name] === undefined)
      context.addIssue({ code: 'custom', path: [name], message: `${step.op} has no ${name}` });
  for (const [path, given] of [
    [['expect'], step.expect],
    [['spec', 'expect'], step.spec?.expect],
  ] as const) {
    const form = EXPECT[step.op];
    for (const one of form && given !== undefined ? choices(step.op, given) : []) {
      const result = (form as z.ZodType).safeParse(one);
      if (!result.success)
        context.addIssue({ code: 'custom', path: [...path], message: result.error.issues[0]?.message ?? '' });
    }
  }
});

/** Returns the accepted answers: the elements of a list, except for `events`, whose answer is itself a list. */
const choices = (op: Step['op'], given: unknown): unknown[] =>
  Array.isArray(given) && op !== 'events' ? given : [given];

export const vectorShape = z.strictObject({
  name: z.string(),
  iommu: z.strictObject({
    granule: z.enum(['4k', '8k', '16k', '64k']),
    aw_bits: z.number().int().min(32).max(64),
    boot_bypass: z.boolean(),
  }),
  device: bdf.optional(),
  devices: z.array(bdf).optional(),
  driver_features: integer.optional(),
  event_bufs: integer.transform(Number).optional(),
  no_init: z.boolean().optional(),
  steps: z.array(checkedStep).max(STEP_LIMIT),
});

export type Vector = z.infer<typeof vectorShape>;
