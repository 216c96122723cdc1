/**
 * Sends what a guest's metrics gain, once a second, to its coordinator.
 */
import { every, nowUs } from '#host';
import type { Metrics } from '../metrics/metrics.ts';
import { toMessages } from '../metrics/wire.ts';
import type { VmControl } from './protocol.ts';

const SEND_INTERVAL_MS = 1000;
const US_PER_SECOND = 1e6;

export class MetricsSender {
  readonly #metrics: Metrics;
  readonly #control: VmControl;
  #startUs: number;
  readonly #stop: () => void;

  constructor(metrics: Metrics, control: VmControl) {
    this.#metrics = metrics;
    this.#control = control;
    this.#startUs = nowUs();
    // A coordinator that refuses a message has ended this VM; its error must not end the worker another time.
    this.#stop = every(SEND_INTERVAL_MS, () => void this.send().catch(() => {}));
  }

  /** Sets the start of the run's clock. */
  start(startUs: number): void {
    this.#startUs = startUs;
  }

  /** Sends what has been gained so far. */
  async send(): Promise<void> {
    // An interval of one second belongs to the second in which most of it lies.
    const middle = nowUs() - this.#startUs - (SEND_INTERVAL_MS * 1000) / 2;
    const second = Math.max(0, Math.floor(middle / US_PER_SECOND));
    for (const message of toMessages(second, this.#metrics.take())) await this.#control.metrics(message);
  }

  /** Sends the rest. */
  async end(): Promise<void> {
    this.#stop();
    await this.send();
  }
}
