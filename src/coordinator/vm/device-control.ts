/**
 * Requests to a device: VFIO's device states, its migration stream, and its reset, over the control ring, one at a time.
 * If a device does not answer, only its request fails.
 */
import { after } from '#host';
import type { Frame, FrameKind } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';

/** Time limit of a device for a state transition, a piece of its stream or its reset. */
const DEVICE_ANSWER_TIMEOUT_MS = 20_000;

/** Frame with which a device answers each request. */
const ANSWERS = {
  deviceStateSet: 'deviceStateChanged',
  deviceDataRead: 'deviceData',
  deviceDataWrite: 'deviceDataWritten',
  deviceReset: 'deviceResetDone',
} as const;
type Request = keyof typeof ANSWERS;
type Answer<R extends Request> = FrameBodies[(typeof ANSWERS)[R]];

/** Thrown when a device refuses a request or fails to answer it. */
class DeviceRequestError extends Error {
  override name = 'DeviceRequestError';
}

/** The parts of a device that are used here. */
interface ControlledDevice {
  readonly name: string;
  /** Returns false if the ring has no room for the frame. */
  send<K extends FrameKind>(kind: K, body: FrameBodies[K]): boolean;
}

interface PendingRequest {
  readonly kind: FrameKind;
  resolve(body: unknown): void;
  reject(error: Error): void;
}

export class DeviceControl {
  readonly #device: ControlledDevice;
  readonly #timeoutMs: number;
  /** Answers still expected to requests that have timed out, in order. None of them answers the next request. */
  readonly #late: FrameKind[] = [];
  #pending: PendingRequest | undefined;
  /** Why the device is lost; empty while it is not. */
  #lostReason = '';
  /** Settles when all requests so far have ended. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(device: ControlledDevice, timeoutMs = DEVICE_ANSWER_TIMEOUT_MS) {
    this.#device = device;
    this.#timeoutMs = timeoutMs;
  }

  /** Makes the device enter a state. @throws DeviceRequestError with the device's reason */
  async setState(state: number): Promise<void> {
    const { error } = await this.#ask('deviceStateSet', { state });
    this.#check(error);
  }

  /** Returns the next bytes of the device's stream. @throws DeviceRequestError */
  async read(maxBytes: number): Promise<FrameBodies['deviceData']> {
    const data = await this.#ask('deviceDataRead', { maxBytes });
    this.#check(data.error);
    return data;
  }

  /** @throws DeviceRequestError for bytes that the device rejects */
  async write(data: Uint8Array): Promise<void> {
    const { error } = await this.#ask('deviceDataWrite', { data });
    this.#check(error);
  }

  /** Resets the function. Its DMA has ended and its pins are gone when the promise resolves. @throws DeviceRequestError */
  async reset(): Promise<void> {
    await this.#ask('deviceReset', {});
  }

  /** Handles an answer; ignores any other frame. */
  answered(frame: Frame): void {
    if (this.#late[0] === frame.kind) this.#late.shift();
    else if (this.#pending?.kind === frame.kind) this.#pending.resolve(frame.body);
  }

  /** Fails the pending request and, at once, every later one, because the device is lost. */
  lost(reason: string): void {
    this.#lostReason ||= reason;
    this.#fail(reason);
  }

  #fail(reason: string): void {
    this.#pending?.reject(new DeviceRequestError(`${this.#device.name} is lost: ${reason}`));
  }

  #check(error: string): void {
    if (error !== '') throw new DeviceRequestError(`${this.#device.name}: ${error}`);
  }

  #ask<R extends Request>(request: R, body: FrameBodies[R]): Promise<Answer<R>> {
    const answer = this.#last.then(() => this.#askNow(request, body));
    this.#last = answer.catch(() => {});
    return answer;
  }

  #askNow<R extends Request>(request: R, body: FrameBodies[R]): Promise<Answer<R>> {
    return new Promise<Answer<R>>((resolve, reject) => {
      const end = (act: () => void) => {
        this.#pending = undefined;
        cancel();
        act();
      };
      const cancel = after(this.#timeoutMs, () => {
        this.#late.push(ANSWERS[request]);
        this.#fail(`no answer to ${request} within ${this.#timeoutMs} ms`);
      });
      this.#pending = {
        kind: ANSWERS[request],
        resolve: (answer) => end(() => resolve(answer as Answer<R>)),
        reject: (error) => end(() => reject(error)),
      };
      if (this.#lostReason !== '') this.#fail(this.#lostReason);
      else if (!this.#device.send(request, body)) this.#fail(`its control ring has no room for ${request}`);
    });
  }
}
