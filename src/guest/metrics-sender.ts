/**
 * Sends what a guest's metrics gain to its coordinator: once a second in a declared load, four times in a script of its own,
 * which is usually short.
 */
import { every, nowUs } from '#host';
import type { Metrics } from '../metrics/metrics.ts';
import { type IterationMessage, iterationsMessage, toMessages } from '../metrics/wire.ts';
import type { VmControl } from './protocol.ts';

const SEND_INTERVAL_MS = 1000;
const SCRIPT_INTERVAL_MS = 250;
const US_PER_SECOND = 1e6;

export class MetricsSender {
  readonly #metrics: Metrics;
  readonly #control: VmControl;
  #startUs: number;
  readonly #stop: () => void;
  readonly #intervalMs: number;
  /** The messages in flight. */
  #sending: Promise<void> | undefined;
  /** Returns a sample of the iterations since the last call. */
  takeIterations: () => readonly IterationMessage[] = () => [];

  constructor(metrics: Metrics, control: VmControl, isDeclared: boolean) {
    this.#intervalMs = isDeclared ? SEND_INTERVAL_MS : SCRIPT_INTERVAL_MS;
    this.#metrics = metrics;
    this.#control = control;
    this.#startUs = nowUs();
    // While the receiver is late, the metrics add up here, and no messages do.
    this.#stop = every(this.#intervalMs, () => {
      if (!this.#sending) void this.#send();
    });
  }

  /** Sets the start of the run's clock. */
  start(startUs: number): void {
    this.#startUs = startUs;
  }

  /** Sends what has been gained so far, after the messages in flight. */
  async send(): Promise<void> {
    while (this.#sending) await this.#sending;
    await this.#send();
  }

  #send(): Promise<void> {
    const sending = this.#sendAll()
      // A coordinator that refuses a message has ended this VM; its error must not end the worker another time.
      .catch(() => {})
      .finally(() => {
        this.#sending = undefined;
      });
    this.#sending = sending;
    return sending;
  }

  async #sendAll(): Promise<void> {
    // An interval belongs to the second in which most of it lies.
    const middle = nowUs() - this.#startUs - (this.#intervalMs * 1000) / 2;
    const second = Math.max(0, Math.floor(middle / US_PER_SECOND));
    for (const message of toMessages(second, this.#metrics.take())) await this.#control.metrics(message);
    const iterations = this.takeIterations();
    if (iterations.length > 0) await this.#control.metrics(iterationsMessage(second, iterations));
  }

  /** Sends the rest. */
  async end(): Promise<void> {
    this.#stop();
    await this.send();
  }
}
