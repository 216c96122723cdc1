/**
 * The channel of a host process to the command.
 */
import type { Frame, FrameKind } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';

/** The channel to the CLI process. */
export interface HostChannel {
  /** Sends a frame; resolves when the channel has taken it. */
  send(frame: Uint8Array): Promise<void> | void;
  /** Registers `onFrame` for every frame after the request. */
  listen?(onFrame: (bytes: Uint8Array, frame: Frame) => void): void;
  /** Registers a function that is called, perhaps at once, when the run is interrupted. */
  onAbort?(listener: () => void): void;
  /** Registers a function for errors of this process that nothing has caught. */
  onError?(listener: (error: unknown) => void): void;
}

export type Encode = <K extends FrameKind>(
  kind: K,
  vm: number,
  body: FrameBodies[K],
  device?: number,
) => Uint8Array;
export type Send = <K extends FrameKind>(
  kind: K,
  vm: number,
  body: FrameBodies[K],
  device?: number,
) => Promise<void> | void;
