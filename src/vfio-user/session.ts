/**
 * Parts shared by the handlers of commands: the session, the answer, and the check of a payload's fixed part.
 */
import { VfioError } from '../vfio/errors.ts';
import type { VfioDevice } from './device.ts';
import type { Layout, Values } from './layout.ts';
import type { Message } from './message.ts';
import type { ClientLimits } from './version.ts';

/** The answer to a command: a payload, and descriptors that stay the server's. */
export interface Answer {
  readonly payload: Uint8Array;
  /** The payload with room for a header before it, if it was made so. */
  readonly room?: Uint8Array;
  readonly fds?: readonly number[];
}

/** The context of a command. */
export interface Session {
  readonly device: VfioDevice;
  readonly limits: ClientLimits;
}

/** Performs a command. @throws VfioError for a command that fails */
export type Handler = (session: Session, message: Message) => Answer | Promise<Answer>;

/** The answer without a payload. */
export const NOTHING: Answer = { payload: new Uint8Array() };

/** Returns the structure at the begin of a payload. @throws VfioError EINVAL for a payload that is too short */
export function readFixed<F extends ConstructorParameters<typeof Layout>[2]>(
  layout: Layout<F>,
  payload: Uint8Array,
): Values<F> {
  if (payload.length < layout.size)
    throw new VfioError('EINVAL', `${layout.name} of ${payload.length} bytes; accepted: ${layout.size}`);
  return layout.read(payload);
}

/** Checks that the client takes a reply of `needed` bytes. @throws VfioError EINVAL */
export function checkArgsz(name: string, argsz: number, needed: number): void {
  if (argsz < needed) throw new VfioError('EINVAL', `${name} with argsz ${argsz}; accepted: from ${needed}`);
}
