/**
 * Gate at which the calls of a thread wait while it is closed, as a virtual CPU's instructions do while its VM is paused.
 */
export class Gate {
  #pending: Promise<void> | undefined;
  #resolve = () => {};

  /** Promise of the opening while the gate is closed; undefined while it is open. */
  get pending(): Promise<void> | undefined {
    return this.#pending;
  }

  close(): void {
    this.#pending ??= new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  open(): void {
    this.#pending = undefined;
    this.#resolve();
  }
}
