/**
 * A sample of the iterations that have ended on a VM, for timelines.
 */
import { SpanSample } from '../../metrics/span-sample.ts';
import type { IterationMessage } from '../../metrics/wire.ts';
import type { RunClock } from './clock.ts';

/** The VU of an iteration, and its workload. */
export type IterationSource = Pick<IterationMessage, 'vgpu' | 'stage' | 'workload' | 'vu'>;

export class IterationLog {
  readonly #clock: RunClock;
  readonly #sample: SpanSample<IterationMessage>;

  /** @param limit maximum count of iterations between two calls of {@link take} */
  constructor(clock: RunClock, limit: number) {
    this.#clock = clock;
    this.#sample = new SpanSample(limit);
  }

  /** Adds an iteration. @param dueUs when it was due, on the scale of `nowUs()` */
  add(source: IterationSource, dueUs: number, tookUs: number): void {
    if (!this.#sample.wantsNext()) return;
    const startUs = Math.max(0, Math.round(dueUs - this.#clock.onProcessClock(0)));
    this.#sample.keep({ ...source, startUs, tookUs: Math.floor(tookUs) });
  }

  /** Returns the sample, and begins the next one. */
  take(): readonly IterationMessage[] {
    return this.#sample.take();
  }
}
