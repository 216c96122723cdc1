/**
 * Allocator of small numbers that returns the lowest free one, like the kernel's ida.
 */
export class IdPool {
  readonly #limit: number;
  /** Released numbers, the lowest last. */
  readonly #free: number[] = [];
  #next = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Returns the lowest free number, or undefined if all `limit` are in use. */
  allocate(): number | undefined {
    return this.#free.pop() ?? (this.#next < this.#limit ? this.#next++ : undefined);
  }

  release(id: number): void {
    let [low, high] = [0, this.#free.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#free[middle] as number) > id) low = middle + 1;
      else high = middle;
    }
    this.#free.splice(low, 0, id);
  }
}
