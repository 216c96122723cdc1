/**
 * What a vgpu's guest driver carries to another host beside guest RAM: plain JSON, checked where it arrives.
 */

import * as vgpu from '../../abi/vgpu/vgpu.ts';
import { type Gpa, hex, PAGE_SIZE } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';

export interface SavedContext {
  readonly id: number;
  readonly base: number;
  /** Root, directory and tables. */
  readonly tablePages: readonly Gpa[];
}

export interface SavedRing {
  readonly ring: Gpa;
  readonly completions: Gpa;
  readonly tail: number;
  /** Interrupts of VECTOR_ERROR that have been looked into. */
  readonly faultInterrupts: number;
  /** Commands without a completion yet, in their order. */
  readonly outstanding: readonly { readonly sequence: number; readonly slot: number }[];
}

export interface SavedGpu {
  readonly rings: Readonly<Record<vgpu.GpuEngine, SavedRing>>;
  /** Of the last command, whichever ring it went into. */
  readonly sequence: number;
  readonly directory: Gpa;
  readonly tables: readonly Gpa[];
  readonly contextTable: Gpa;
  readonly hangs: number;
  readonly contexts: readonly SavedContext[];
  /** Entries of the global table: index, low and high word. */
  readonly global: readonly (readonly [number, number, number])[];
}

/** A saved driver that cannot be taken up: what is wrong, what is accepted. */
export class SavedGpuError extends Error {
  override name = 'SavedGpuError';
}

const WORD_MAX = 0xffff_ffff;

type Fields = Readonly<Record<string, unknown>>;

/** Checks what came from another host. @throws SavedGpuError */
export class SavedGpuReader {
  readonly #name: string;
  readonly #ram: GuestRam;

  /** `name` of the device, for messages. */
  constructor(name: string, ram: GuestRam) {
    this.#name = name;
    this.#ram = ram;
  }

  /** `pageTables`, `ringEntries`: what this driver has. */
  read(saved: unknown, pageTables: number, ringEntries: number): SavedGpu {
    const fields = this.#object('driver', saved);
    const list = (name: string, limit: number) => this.#list(name, fields[name], limit);
    const contexts = list('contexts', vgpu.CONTEXTS_LIMIT - 1).map((each, i) => this.#context(each, i + 1));
    const tables = list('tables', pageTables).map((each) => this.#page('tables', each));
    if (tables.length !== pageTables)
      throw this.#error('tables', `has ${tables.length} pages`, `${pageTables}`);
    return {
      rings: this.#rings(fields.rings, ringEntries),
      sequence: this.#integer('sequence', fields.sequence, WORD_MAX),
      directory: this.#page('directory', fields.directory),
      contextTable: this.#page('contextTable', fields.contextTable),
      tables,
      hangs: this.#integer('hangs', fields.hangs, WORD_MAX),
      contexts,
      global: list('global', vgpu.GLOBAL_TABLE_ENTRIES).map((each) => this.#globalEntry(each)),
    };
  }

  #rings(saved: unknown, entries: number): SavedGpu['rings'] {
    const fields = this.#object('rings', saved);
    return { copy: this.#ring(fields.copy, entries), compute: this.#ring(fields.compute, entries) };
  }

  #ring(saved: unknown, entries: number): SavedRing {
    const fields = this.#object('ring', saved);
    return {
      ring: this.#page('ring', fields.ring),
      completions: this.#page('completions', fields.completions),
      tail: this.#integer('tail', fields.tail, entries - 1),
      faultInterrupts: this.#integer('faultInterrupts', fields.faultInterrupts, WORD_MAX),
      outstanding: this.#list('outstanding', fields.outstanding, entries - 1).map((each) => {
        const command = this.#object('outstanding', each);
        return {
          sequence: this.#integer('sequence', command.sequence, WORD_MAX),
          slot: this.#integer('slot', command.slot, entries - 1),
        };
      }),
    };
  }

  #context(saved: unknown, id: number): SavedContext {
    const { base, tablePages } = this.#object('contexts', saved);
    const pages = this.#list('tablePages', tablePages, vgpu.GPU_TABLE_ENTRIES);
    return {
      id,
      base: this.#integer('base', base, vgpu.GPU_VA_LIMIT_3),
      tablePages: pages.map((each) => this.#page('tablePages', each)),
    };
  }

  #globalEntry(saved: unknown): readonly [number, number, number] {
    const [index, low, high] = this.#list('global', saved, 3);
    return [
      this.#integer('global', index, vgpu.GLOBAL_TABLE_ENTRIES - 1),
      this.#integer('global', low, WORD_MAX),
      this.#integer('global', high, WORD_MAX),
    ];
  }

  #page(name: string, value: unknown): Gpa {
    const page = this.#integer(name, value, Number.MAX_SAFE_INTEGER);
    if (page % PAGE_SIZE !== 0 || !this.#ram.contains(page, PAGE_SIZE))
      throw this.#error(name, `has ${hex(page)}`, 'pages of guest RAM');
    return page as Gpa;
  }

  #integer(name: string, value: unknown, max: number): number {
    if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= max) return value as number;
    throw this.#error(name, `is ${String(value).slice(0, 40)}`, `integers from 0 to ${max}`);
  }

  #list(name: string, value: unknown, limit: number): readonly unknown[] {
    if (Array.isArray(value) && value.length <= limit) return value;
    throw this.#error(name, 'is no list that can be', `up to ${limit} entries`);
  }

  #object(name: string, value: unknown): Fields {
    if (typeof value === 'object' && value !== null) return value as Fields;
    throw this.#error(name, `is ${String(value).slice(0, 40)}`, 'an object');
  }

  #error(name: string, wrong: string, accepted: string): SavedGpuError {
    return new SavedGpuError(`saved driver of ${this.#name}: ${name} ${wrong}; accepted: ${accepted}`);
  }
}
