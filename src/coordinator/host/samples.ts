/**
 * Samples of the devices of a host process: their address spaces and metrics, sent to the command once a second.
 */
import { nowUs } from '#host';
import { toMessages } from '../../metrics/wire.ts';
import type { ArrivedVm } from '../vm/config.ts';
import { stripsMessage } from '../vm/strip-recorder.ts';
import type { Send } from './host-channel.ts';

/** Time between two samples of a VM. */
export const SAMPLE_MS = 1000;
const US_PER_SECOND = 1e6;

export class Samples {
  readonly #send: Send;
  /** Start of the run's clock; undefined before it. */
  #clockUs: number | undefined;

  constructor(send: Send) {
    this.#send = send;
  }

  /** Starts the run's clock. What the devices have done while their guests booted is not part of the load. */
  start(startUs: number, vms: readonly ArrivedVm[]): void {
    this.#clockUs = startUs;
    for (const vm of vms) vm.sampler.take();
  }

  /** Sends the sample of a VM. @param isLast true when its devices have stopped */
  send(vm: ArrivedVm, isLast = false): void {
    const { vm: number, load } = vm.config;
    this.#send('vmAddressSpaces', number, stripsMessage(vm.devices));
    // A hand-written load has no clock here; its samples count from when they arrive.
    const startUs = load === '' ? nowUs() : this.#clockUs;
    if (startUs === undefined) return;
    const { changes, engineUse } = vm.sampler.take(isLast);
    const middle = nowUs() - startUs - (SAMPLE_MS * 1000) / 2;
    const second = Math.max(0, Math.floor(middle / US_PER_SECOND));
    for (const message of toMessages(second, changes, engineUse)) this.#send('vmMetrics', number, message);
  }
}
