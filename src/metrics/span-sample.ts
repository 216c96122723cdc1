/**
 * A sample of spans of time in a bounded count: every one at first, then every second one, every fourth, and so on, so
 * that the sample is spread over all of the run.
 */
export class SpanSample<Span> {
  readonly #limit: number;
  #kept: Span[] = [];
  /** Count of spans offered so far, and the distance of those that are kept. */
  #offered = 0;
  #stride = 1;

  /** @param limit maximum count of spans kept */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Returns whether the next span is to be kept, and counts it. */
  wantsNext(): boolean {
    return this.#offered++ % this.#stride === 0;
  }

  /** Keeps a span for which {@link wantsNext} has returned true. */
  keep(span: Span): void {
    this.#kept.push(span);
    if (this.#kept.length <= this.#limit) return;
    this.#kept = this.#kept.filter((_, i) => i % 2 === 0);
    this.#stride *= 2;
  }

  /** Spans in the order in which they were kept. */
  get spans(): readonly Span[] {
    return this.#kept;
  }

  /** Returns the spans and starts anew, with all of them. */
  take(): readonly Span[] {
    const spans = this.#kept;
    this.#kept = [];
    this.#offered = 0;
    this.#stride = 1;
    return spans;
  }
}
