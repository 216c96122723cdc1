/**
 * The coordinator's way to a device's migration interface: VFIO's device states and its data stream, as requests over
 * the control ring, one at a time. A device that does not answer fails its request, nothing else.
 */
import { after } from '#host';
import type { Frame, FrameKind } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';

/** How long a device may take for a change of state or a piece of its stream. */
export const DEVICE_ANSWER_TIMEOUT_MS = 20_000;

/** What a device answers to each request. */
const ANSWERS = {
  deviceStateSet: 'deviceStateChanged',
  deviceDataRead: 'deviceData',
  deviceDataWrite: 'deviceDataWritten',
} as const;
type Request = keyof typeof ANSWERS;
type Answer<R extends Request> = FrameBodies[(typeof ANSWERS)[R]];

/** A device refused, or could not do, what a migration asked of it. */
export class DeviceMigrationError extends Error {
  override name = 'DeviceMigrationError';
}

/** The device, as far as this needs it. */
export interface ControlledDevice {
  readonly name: string;
  /** False if the frame found no room. */
  send<K extends FrameKind>(kind: K, body: FrameBodies[K]): boolean;
}

interface Waiting {
  readonly kind: FrameKind;
  resolve(body: unknown): void;
  reject(error: Error): void;
}

export class DeviceControl {
  readonly #device: ControlledDevice;
  readonly #timeoutMs: number;
  /** Answers to requests that were given up, still to come: they are in order, and none is the next request's. */
  readonly #late: FrameKind[] = [];
  #waiting: Waiting | undefined;
  /** Requests take their turn. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(device: ControlledDevice, timeoutMs = DEVICE_ANSWER_TIMEOUT_MS) {
    this.#device = device;
    this.#timeoutMs = timeoutMs;
  }

  /** Has the device enter a state. @throws DeviceMigrationError with the device's reason */
  async setState(state: number): Promise<void> {
    const { error } = await this.#ask('deviceStateSet', { state });
    this.#check(error);
  }

  /** The next bytes of the device's stream. @throws DeviceMigrationError */
  async read(maxBytes: number): Promise<FrameBodies['deviceData']> {
    const data = await this.#ask('deviceDataRead', { maxBytes });
    this.#check(data.error);
    return data;
  }

  /** @throws DeviceMigrationError for bytes that the device cannot use */
  async write(data: Uint8Array): Promise<void> {
    const { error } = await this.#ask('deviceDataWrite', { data });
    this.#check(error);
  }

  /** Takes an answer; anything else is left alone. */
  answered(frame: Frame): void {
    if (this.#late[0] === frame.kind) this.#late.shift();
    else if (this.#waiting?.kind === frame.kind) this.#waiting.resolve(frame.body);
  }

  /** The device is gone: nobody will answer. */
  lost(reason: string): void {
    this.#waiting?.reject(new DeviceMigrationError(`${this.#device.name} is lost: ${reason}`));
  }

  #check(error: string): void {
    if (error !== '') throw new DeviceMigrationError(`${this.#device.name}: ${error}`);
  }

  #ask<R extends Request>(request: R, body: FrameBodies[R]): Promise<Answer<R>> {
    const answer = this.#turn.then(() => this.#askNow(request, body));
    this.#turn = answer.catch(() => {});
    return answer;
  }

  #askNow<R extends Request>(request: R, body: FrameBodies[R]): Promise<Answer<R>> {
    return new Promise<Answer<R>>((resolve, reject) => {
      const end = (act: () => void) => {
        this.#waiting = undefined;
        cancel();
        act();
      };
      const cancel = after(this.#timeoutMs, () => {
        this.#late.push(ANSWERS[request]);
        this.lost(`no answer to ${request} within ${this.#timeoutMs} ms`);
      });
      this.#waiting = {
        kind: ANSWERS[request],
        resolve: (answer) => end(() => resolve(answer as Answer<R>)),
        reject: (error) => end(() => reject(error)),
      };
      if (!this.#device.send(request, body)) this.lost(`its control ring has no room for ${request}`);
    });
  }
}
