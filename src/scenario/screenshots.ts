/**
 * Pictures of devices on demand, while a run runs.
 */
import { after } from '#host';
import type { FrameBodies } from '../proto/schema.ts';

/** Maximum count of requests without an answer, and the time limit of one. */
export const SCREENSHOTS_PENDING = 16;
const ANSWER_TIMEOUT_MS = 10_000;

/** Thrown if there is no picture; the message says why. */
export class ScreenshotError extends Error {
  override name = 'ScreenshotError';
}

/** Sends a request to the host process of a VM. Returns false if the VM does not run. */
type Request = (vm: number, device: number, id: number) => boolean;

export class Screenshots {
  readonly #request: Request;
  readonly #answers = new Map<number, (answer: Omit<FrameBodies['screenshot'], 'id'>) => void>();
  #last = 0;

  constructor(request: Request) {
    this.#request = request;
  }

  /** Resolves to a PNG of what a device displays. @throws ScreenshotError */
  async take(vm: number, device: number): Promise<Uint8Array> {
    if (this.#answers.size >= SCREENSHOTS_PENDING)
      throw new ScreenshotError(`${SCREENSHOTS_PENDING} pictures are being taken; no more are accepted now`);
    const id = ++this.#last;
    if (!this.#request(vm, device, id))
      throw new ScreenshotError(`VM ${vm} does not run; accepted: a running VM`);
    const { png, error } = await new Promise<Omit<FrameBodies['screenshot'], 'id'>>((resolve) => {
      this.#answers.set(id, resolve);
      const error = `no answer within ${ANSWER_TIMEOUT_MS} ms`;
      after(ANSWER_TIMEOUT_MS, () => resolve({ png: new Uint8Array(), error }));
    });
    this.#answers.delete(id);
    if (error !== '') throw new ScreenshotError(error);
    return png;
  }

  /** A host process has answered. */
  answered({ id, ...answer }: FrameBodies['screenshot']): void {
    this.#answers.get(id)?.(answer);
  }
}
