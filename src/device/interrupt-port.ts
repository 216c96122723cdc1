/**
 * A device's way for its interrupts: counted for the guest, or as messages to the coordinator while the vIOMMU remaps
 * interrupts.
 */
import type { DeviceLink } from '../channel/device-link.ts';
import type { MsiMessage } from '../pci/config-space.ts';
import type { InterruptTarget } from './interrupt-batch.ts';

interface InterruptPortOwner {
  /** Returns the message of a vector that the device's model has raised. */
  messageOf(vector: number): MsiMessage;
  ringCoordinator(): void;
}

export class InterruptPort implements InterruptTarget {
  readonly #link: DeviceLink;
  readonly #owner: InterruptPortOwner;
  #counted = false;
  #posted = false;

  constructor(link: DeviceLink, owner: InterruptPortOwner) {
    this.#link = link;
    this.#owner = owner;
  }

  countInterrupts(vector: number, count: number): void {
    if (this.#link.remapsInterrupts) {
      this.#link.postMessages(vector, this.#owner.messageOf(vector), count);
      this.#posted = true;
    } else {
      this.#link.countInterrupts(vector, count);
      this.#counted = true;
    }
  }

  wakeGuest(): void {
    if (this.#counted) this.#link.wakeGuest();
    if (this.#posted) this.#owner.ringCoordinator();
    this.#counted = false;
    this.#posted = false;
  }
}
