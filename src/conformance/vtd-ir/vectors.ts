/**
 * Format of recorded interrupt remapping vectors of VT-d: a JSON array. Each vector has a unit, its devices, and steps that
 * run in order. `spec` and `spec_events` have the specification's answers where the recorded program differs.
 */
import { z } from 'zod';
import { VectorFormatError } from '../outcome.ts';
import { vectorList } from '../vector-list.ts';

/** Maximum bytes of one DMA or memory access. */
const LENGTH_LIMIT = 2 ** 24;

const hexNumber = z.string().regex(/^0x[0-9a-f]{1,16}$/i, 'expected a hex number such as 0x1000');
/** An address that a float64 holds exactly. */
const address = z.string().regex(/^0x[0-9a-f]{1,13}$/i, 'expected an address in hex, below 2^52');
const hexBytes = z.string().regex(/^(?:[0-9a-f]{2})*$/i, 'expected bytes in hex');
const length = z.int().min(0).max(LENGTH_LIMIT);
const registerSize = z.union([z.literal(4), z.literal(8)], 'expected 4 or 8');
const number = z.union([z.int().min(0), hexNumber], 'expected a number');
const messages = z.array(z.strictObject({ address: hexNumber, data: hexNumber }));

const marks = {
  impl_defined: z.boolean().optional(),
  quirk: z.string().optional(),
  events: messages.optional(),
  spec_events: messages.optional(),
};

const delivered = z.strictObject({
  dest: number,
  dest_mode: number,
  redir_hint: number,
  vector: number,
  delivery_mode: number,
  trigger_mode: number,
  remapped: z.boolean(),
  /** Informative: the messages that QEMU's APICs received. */
  qemu_apic: z.unknown().optional(),
});
const blocked = z.strictObject({
  reason: number,
  rid: number,
  index: number.optional(),
  addr: number.optional(),
});
const interrupt = z.union(
  [
    z.strictObject({ delivered }),
    z.strictObject({ blocked }),
    z.strictObject({ silent: z.literal(true) }),
    z.strictObject({ memory: z.literal(true) }),
  ],
  'expected delivered, blocked, silent or memory',
);

const step = z.discriminatedUnion('op', [
  z.strictObject({ op: z.literal('mem_write'), ...marks, gpa: address, data: hexBytes }),
  z.strictObject({ op: z.literal('mem_read'), ...marks, gpa: address, len: length, expect: hexBytes }),
  z.strictObject({
    op: z.literal('reg_write'),
    ...marks,
    off: hexNumber,
    size: registerSize,
    value: hexNumber,
  }),
  z.strictObject({
    op: z.literal('reg_read'),
    ...marks,
    off: hexNumber,
    size: registerSize,
    expect: hexNumber,
    spec: hexNumber.optional(),
  }),
  z.strictObject({
    op: z.literal('dma_write'),
    ...marks,
    dev: z.int().min(0).optional(),
    iova: address,
    len: length,
    data: hexBytes,
    expect: z.enum(['ok', 'fault']),
  }),
  z.strictObject({
    op: z.literal('msi'),
    ...marks,
    dev: z.int().min(0).optional(),
    address,
    data: hexNumber,
    via: z.enum(['msix', 'dma', 'ioapic']).optional(),
    vector: z.int().min(0).optional(),
    pin: z.int().min(0).optional(),
    rte: hexNumber.optional(),
    expect: interrupt,
    spec: interrupt.optional(),
  }),
]);

const device = z.strictObject({
  bdf: z.string().regex(/^[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/i, 'expected bus:device.function such as 00:04.0'),
  rid: hexNumber,
  model: z.string().optional(),
  bridge: z.boolean().optional(),
});

const vector = z.strictObject({
  name: z.string(),
  iommu: z.strictObject({
    caching_mode: z.boolean(),
    aw_bits: z.union([z.literal(39), z.literal(48)], 'expected 39 or 48'),
    scalable: z.boolean().optional(),
    dma_translation: z.boolean().optional(),
    intremap: z.boolean(),
    eim: z.boolean(),
  }),
  devices: z.array(device).min(1),
  steps: z.array(step),
});

export type IrVector = z.infer<typeof vector>;
export type IrStep = z.infer<typeof step>;
export type MsiStep = Extract<IrStep, { readonly op: 'msi' }>;
export type IrDmaStep = Extract<IrStep, { readonly op: 'dma_write' }>;
export type ExpectedInterrupt = z.infer<typeof interrupt>;

/** Checks a whole file. @param file named in errors @throws VectorFormatError for the first problem */
export function parseIrVectors(vectors: unknown, file = 'interrupt remapping vectors'): IrVector[] {
  return vectorList(vectors, file).map((each, index) => {
    const parsed = vector.safeParse(each);
    if (parsed.success) return checkedDevices(parsed.data, file);
    const [problem] = parsed.error.issues;
    throw new VectorFormatError(
      `${file}: ${nameOf(each, index)}${place(problem?.path ?? [])}: ${problem?.message}`,
    );
  });
}

/** Checks that every message and DMA names a device of its vector. */
function checkedDevices(parsed: IrVector, file: string): IrVector {
  for (const [index, each] of parsed.steps.entries())
    if ('dev' in each && (each.dev ?? 0) >= parsed.devices.length)
      throw new VectorFormatError(
        `${file}: ${parsed.name} step ${index}, dev: the vector has ${parsed.devices.length} devices`,
      );
  return parsed;
}

const nameOf = (each: unknown, index: number): string => {
  const name = (each as { name?: unknown } | null)?.name;
  return typeof name === 'string' ? name : `vector ${index}`;
};

/** Returns the path `steps.3.off` as " step 3, off". */
function place(path: readonly PropertyKey[]): string {
  const [first, second, ...rest] = path.map(String);
  if (first !== 'steps' || second === undefined)
    return path.length > 0 ? `, ${path.map(String).join('.')}` : '';
  return ` step ${second}${rest.length > 0 ? `, ${rest.join('.')}` : ''}`;
}
