/**
 * Something that is started when it is first asked for, or was there from the beginning.
 */
export class Lazy<Value> {
  #value: Value | undefined;
  #promise: Promise<Value> | undefined;
  #starting = false;

  /** @param value undefined to have it started */
  constructor(value?: Value) {
    this.#value = value;
    if (value !== undefined) this.#promise = Promise.resolve(value);
  }

  /** Undefined before it has started, and for good if that failed. */
  get value(): Value | undefined {
    return this.#value;
  }

  get starting(): boolean {
    return this.#starting;
  }

  /** The one that there is; `start` is called once in all. Rejects as that did. */
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
