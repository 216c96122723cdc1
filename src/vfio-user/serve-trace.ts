/**
 * Trace of one served device: frames as a run's devices send them, encoded in the worker and written by the main thread.
 */
import { wallMs } from '#host';
import { encodeFrame, type FrameKind } from '../proto/codec.ts';
import type { FrameBodies } from '../proto/schema.ts';

/** Most frames of one device, so that a guest that faults or switches without end does not fill the main thread. */
const FRAMES_LIMIT = 100_000;

/** Receiver of a device's frames. */
export type FrameSink = <K extends FrameKind>(kind: K, body: FrameBodies[K]) => void;

/** Returns a sink that sends encoded frames of the device with this index, up to FRAMES_LIMIT. */
export function frameSink(device: number, send: (frame: Uint8Array) => void): FrameSink {
  let left = FRAMES_LIMIT;
  return (kind, body) => {
    if (left-- <= 0) return;
    send(encodeFrame({ timeUs: wallMs() * 1000, process: 0, vm: 0, device }, kind, body));
  };
}
