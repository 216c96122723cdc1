/**
 * Runs recorded virtio-iommu vectors against the model. Each step must give the specification's result: `spec` of the
 * step, or `expect` where QEMU agrees with the specification. With `quirks: 'qemu'` it must give QEMU's result.
 */

import * as format from '../../abi/virtio-iommu.ts';
import { hex } from '../../memory/address.ts';
import type { Quirks } from '../../viommu/quirks.ts';
import { DEFAULT_PROBE_SIZE } from '../../viommu/virtio/iommu.ts';
import { type StepFailure, VectorFormatError, type VectorOutcome } from '../outcome.ts';
import { vectorList } from '../vector-list.ts';
import { q35Ram, type VectorRam } from '../vector-ram.ts';
import { requesterIdOf } from '../vector-text.ts';
import { EXPECTATIONS } from './expect.ts';
import { DEFAULT_EVENT_BUFFERS, type InitSettings, type RecordedEvent, VirtioMachine } from './machine.ts';
import { type Got, OPERATIONS, parseEvents, rawDescriptors } from './steps.ts';
import { type Step, type Vector, vectorShape } from './vectors.ts';

export interface VirtioIommuRunOptions {
  readonly quirks: Quirks;
}

/** Maximum failures kept for one vector. */
const FAILURE_LIMIT = 32;

const GRANULES = { '4k': 4096, '8k': 8192, '16k': 16384, '64k': 65536 } as const;

/**
 * Runs each vector on a new machine.
 * @param vectors parsed content of a vector file: one vector or an array of vectors
 * @throws VectorFormatError
 */
export function runVirtioIommuVectors(vectors: unknown, options: VirtioIommuRunOptions): VectorOutcome[] {
  const list = vectorList(Array.isArray(vectors) ? vectors : [vectors], 'virtio-iommu vectors');
  const parsed = list.map((vector, i) => parseVector(vector, i));
  const ram = q35Ram();
  return parsed.map((vector) => {
    ram.clear();
    return new VectorRun(ram, vector, options.quirks).run();
  });
}

function parseVector(vector: unknown, index: number): Vector {
  const result = vectorShape.safeParse(vector);
  if (result.success) return result.data;
  const named = (vector as { name?: unknown } | null | undefined)?.name;
  const [issue] = result.error.issues;
  const where = issue?.path.join('.') || 'vector';
  throw new VectorFormatError(
    `virtio-iommu vector ${index}${typeof named === 'string' ? ` (${named})` : ''}: ${where}: ${issue?.message}`,
  );
}

class VectorRun {
  readonly #vector: Vector;
  readonly #quirks: Quirks;
  readonly #machine: VirtioMachine;
  readonly #devices: readonly number[];
  readonly #granule: bigint;
  /** False once the recorded run has left what the recorder's model of the specification covers. */
  #followed = true;
  #broken = false;
  #attached = false;

  constructor(ram: VectorRam, vector: Vector, quirks: Quirks) {
    const { granule, aw_bits: awBits, boot_bypass: bootBypass } = vector.iommu;
    this.#vector = vector;
    this.#quirks = quirks;
    this.#devices = (vector.devices ?? (vector.device ? [vector.device] : [])).map(({ bdf }) =>
      requesterIdOf(bdf),
    );
    this.#granule = BigInt(GRANULES[granule]);
    const devices = this.#devices;
    this.#machine = new VirtioMachine(ram, {
      granule: GRANULES[granule],
      awBits,
      bootBypass,
      quirks,
      devices,
    });
    if (!vector.no_init) this.#machine.init(this.#initial());
  }

  run(): VectorOutcome {
    const failures: StepFailure[] = [];
    for (const [index, step] of this.#vector.steps.entries()) {
      const got = this.#perform(step, index);
      const wrong = this.#compare(step, got);
      if (wrong && failures.length < FAILURE_LIMIT) failures.push({ step: index, op: step.op, ...wrong });
    }
    return { name: this.#vector.name, status: failures.length > 0 ? 'failed' : 'passed', failures };
  }

  #initial(): InitSettings {
    const { driver_features: features, event_bufs: eventBuffers = DEFAULT_EVENT_BUFFERS } = this.#vector;
    return { eventBuffers, ...(features !== undefined && { features }) };
  }

  /** @throws VectorFormatError for a step that names memory or a device that the machine does not have */
  #perform(step: Step, index: number): Got {
    const context = { machine: this.#machine, devices: this.#devices, initial: this.#initial() };
    try {
      return OPERATIONS[step.op](step, context);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new VectorFormatError(`${this.#vector.name}, step ${index} (${step.op}): ${error.message}`);
    }
  }

  /** Returns the first difference; undefined if there is no difference or the step is not binding. */
  #compare(step: Step, got: Got): { expected: string; got: string } | undefined {
    const followed = this.#followed;
    this.#follow(step, got);
    if (step.impl_defined) return undefined;
    const wanted = this.#wanted(step, followed);
    for (const [what, choices] of Object.entries(wanted)) {
      const found = what === 'events' ? this.#fold(got.events as string, step) : got[what];
      if (found === undefined || choices.some((choice) => matches(found, choice))) continue;
      return { expected: `${what} ${choices.join(' or ')}`, got: `${what} ${found}` };
    }
    return undefined;
  }

  /**
   * Tracks whether the recorder's model of the specification covers the next steps. It stops at a device that is left
   * in reset and at one that needs a reset. The record then has only QEMU's answers. They differ from the specification
   * if endpoints were attached at the reset, because QEMU keeps them attached.
   */
  #follow(step: Step, got: Got): void {
    if (step.op === 'request' && step.type === 'attach' && got.status === 'OK') this.#attached = true;
    if (step.needs_reset) this.#broken = true;
    const stops = step.op === 'reset' && (step.reinit === false || this.#broken);
    if (stops && this.#attached) this.#followed = false;
    if (step.op === 'system_reset') [this.#followed, this.#broken, this.#attached] = [true, false, false];
  }

  #wanted(step: Step, followed: boolean): Readonly<Record<string, readonly string[]>> {
    const spec = this.#quirks === 'spec' ? step.spec : undefined;
    if (this.#quirks === 'spec' && !spec && unfollowed(step, followed)) return {};
    return EXPECTATIONS[step.op]?.(step, spec, this.#quirks) ?? {};
  }

  /** Returns events in the form of the record, where the accesses of one DMA in one page are one event. */
  #fold(events: string, step: Step): string {
    const named = this.#quirks === 'qemu';
    const flagsTell = named || !step.spec;
    const folded: RecordedEvent[] = [];
    let last: RecordedEvent | undefined;
    for (const event of parseEvents(events)) {
      const distance = last ? event.address - last.address : 0n;
      const same =
        last !== undefined &&
        event.reason === last.reason &&
        event.endpoint === last.endpoint &&
        (event.flags === last.flags || !flagsTell) &&
        distance > 0n &&
        distance <= 4n &&
        event.address / this.#granule === last.address / this.#granule;
      if (!same) folded.push(event);
      last = event;
    }
    return folded.map((event) => eventText(event, named)).join(' ');
  }
}

/** True for a step whose `spec` is missing because the recorder's model did not cover it, not because it agrees. */
function unfollowed(step: Step, followed: boolean): boolean {
  if (!followed && ['dma_read', 'dma_write', 'events', 'mem_read', 'request'].includes(step.op)) return true;
  // Raw PROBEs with too small a buffer. As `request` steps they have a `spec`.
  if (step.op !== 'raw_request') return false;
  const descriptors = rawDescriptors(step);
  const writable = descriptors.reduce((sum, { writable, length }) => sum + (writable ? (length ?? 0) : 0), 0);
  const type = descriptors[0]?.data?.[0];
  return type === format.T_PROBE && writable < DEFAULT_PROBE_SIZE + format.TAIL_BYTES;
}

const eventText = ({ reason, flags, endpoint, address }: RecordedEvent, named: boolean): string =>
  `${format.FAULT_NAMES[reason] ?? reason}@${endpoint}:${hex(address)}${named ? `+flags${hex(flags)}` : ''}`;

/** The recorder cuts long texts and marks them with an ellipsis. */
const matches = (found: string, wanted: string): boolean =>
  wanted.endsWith('...') ? found.startsWith(wanted.slice(0, -3)) : found === wanted;
