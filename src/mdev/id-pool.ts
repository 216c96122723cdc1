/**
 * Small numbers, the lowest free one first, as the kernel's ida gives them.
 */
export class IdPool {
  readonly #limit: number;
  /** Numbers given back, the lowest last. */
  readonly #free: number[] = [];
  #next = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** The lowest free number, or undefined when all `limit` are taken. */
  take(): number | undefined {
    return this.#free.pop() ?? (this.#next < this.#limit ? this.#next++ : undefined);
  }

  give(id: number): void {
    let [low, high] = [0, this.#free.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#free[middle] as number) > id) low = middle + 1;
      else high = middle;
    }
    this.#free.splice(low, 0, id);
  }
}
