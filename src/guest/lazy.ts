/**
 * A value that is started on first use, or is given at construction.
 */
export class Lazy<Value> {
  #value: Value | undefined;
  #promise: Promise<Value> | undefined;
  #starting = false;

  /** @param value undefined to start it on first use */
  constructor(value?: Value) {
    this.#value = value;
    if (value !== undefined) this.#promise = Promise.resolve(value);
  }

  /** The value; undefined before the start has completed, and forever if it failed. */
  get value(): Value | undefined {
    return this.#value;
  }

  /** True from the start until it has completed or failed. */
  get starting(): boolean {
    return this.#starting;
  }

  /** Resolves to the value. The first call runs `start`; later calls share its result, also its rejection. */
  get(start: () => Promise<Value>): Promise<Value> {
    this.#promise ??= this.#start(start);
    return this.#promise;
  }

  async #start(start: () => Promise<Value>): Promise<Value> {
    this.#starting = true;
    try {
      this.#value = await start();
      return this.#value;
    } finally {
      this.#starting = false;
    }
  }
}
