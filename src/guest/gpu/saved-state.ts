/**
 * Saved state of a vgpu's guest driver: what the driver knows beside guest RAM, as plain JSON. The shape is checked
 * when the state arrives at another host. It is built on restore alone, so that the start of a guest worker does not
 * pay for it.
 */
import { z } from 'zod';
import * as vgpu from '../../abi/vgpu/vgpu.ts';
import { type Gpa, PAGE_SIZE } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';

/** Limits of the driver that restores the state. */
interface SavedGpuLimits {
  /** Count of lower-level page tables. */
  readonly pageTables: number;
  /** Slots of each ring. */
  readonly ringEntries: number;
  /** Commands that wait for room in a ring. */
  readonly waiting: number;
}

/** Thrown for a saved driver that cannot be restored; the message names the field and what is accepted. */
class SavedGpuError extends Error {
  override name = 'SavedGpuError';
}

const WORD_MAX = 0xffff_ffff;

const textOf = (value: unknown): string =>
  Array.isArray(value) ? `a list of ${value.length}` : String(value).slice(0, 40);

const accepting = (text: string) => ({
  error: ({ input }: { readonly input?: unknown }) => `is ${textOf(input)}; accepted: ${text}`,
});

const integer = (max: number) =>
  z.custom<number>(
    (value) => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= max,
    accepting(`integers from 0 to ${max}`),
  );

const list = <Item extends z.ZodType>(item: Item, limit: number) => {
  const accepted = accepting(`a list of up to ${limit} entries`);
  return z.array(item, accepted).max(limit, accepted).readonly();
};

function stateShape(ram: GuestRam, { pageTables, ringEntries, waiting }: SavedGpuLimits) {
  const word = integer(WORD_MAX);
  const slot = integer(ringEntries - 1);
  const page = z.custom<Gpa>(
    (value) =>
      Number.isSafeInteger(value) &&
      (value as number) % PAGE_SIZE === 0 &&
      ram.contains(value as number, PAGE_SIZE),
    accepting('pages of guest RAM'),
  );
  const object = accepting('an object');
  const commandWords = accepting(`a list of ${vgpu.COMMAND_WORDS} words`);
  const ring = z.object(
    {
      ring: page,
      completions: page,
      tail: slot,
      /** Handled interrupts of VECTOR_ERROR. */
      faultInterrupts: word,
      /** Commands without a completion yet, in order of submission. */
      outstanding: list(z.object({ sequence: word, slot }, object), ringEntries - 1),
      /** Words of the commands that wait for room in the ring, in order of submission. */
      waiting: list(z.array(word).length(vgpu.COMMAND_WORDS, commandWords).readonly(), waiting),
    },
    object,
  );
  const context = z.object(
    {
      base: integer(vgpu.GPU_VA_LIMIT_3),
      /** Root, directory and tables. */
      tablePages: list(page, vgpu.GPU_TABLE_ENTRIES),
    },
    object,
  );
  return z.object(
    {
      rings: z.object({ copy: ring, compute: ring }, object),
      /** Of the last command, whichever ring holds it. */
      sequence: word,
      directory: page,
      tables: z
        .array(page)
        .length(pageTables, accepting(`a list of ${pageTables} pages`))
        .readonly(),
      contextTable: page,
      hangs: word,
      /** The first has ID 1. */
      contexts: list(context, vgpu.CONTEXTS_LIMIT - 1),
      /** Entries of the global table: index, low and high word. */
      global: list(
        z.tuple([integer(vgpu.GLOBAL_TABLE_ENTRIES - 1), word, word], accepting('index, low and high word')),
        vgpu.GLOBAL_TABLE_ENTRIES,
      ),
    },
    object,
  );
}

/** State of the driver. */
export type SavedGpu = z.infer<ReturnType<typeof stateShape>>;
/** State of the ring of one engine. */
export type SavedRing = SavedGpu['rings']['copy'];
/** State of a context. */
export type SavedContext = SavedGpu['contexts'][number];

/**
 * Checks what another host has sent.
 * @param name of the device, for messages
 * @throws SavedGpuError
 */
export function readSavedGpu(name: string, saved: unknown, ram: GuestRam, limits: SavedGpuLimits): SavedGpu {
  const { data, error } = stateShape(ram, limits).safeParse(saved);
  if (data) return data;
  const [issue] = error.issues;
  throw new SavedGpuError(`saved driver of ${name}: ${issue?.path.join('.') || 'driver'} ${issue?.message}`);
}
