/**
 * Protobuf frames: the one form of every control message, in rings, between processes and in trace files.
 */
import protobuf from 'protobufjs/light.js';
import { DESCRIPTOR, type FrameBodies } from './schema.ts';

/** Where a frame comes from; `device` is -1 if it concerns none. */
export interface FrameHeader {
  readonly timeUs: number;
  readonly process: number;
  readonly vm: number;
  readonly device: number;
}

export type FrameKind = keyof FrameBodies;

/** A decoded frame: `kind` says which message `body` is. */
export type Frame = {
  [K in FrameKind]: { readonly header: FrameHeader; readonly kind: K; readonly body: FrameBodies[K] };
}[FrameKind];

/** Largest frame that is decoded; results carry histograms of a few kB. */
export const FRAME_BYTES_LIMIT = 4 * 1024 * 1024;

/** Thrown for bytes that are not a frame. */
export class FrameError extends Error {
  override name = 'FrameError';
}

// Addresses are below 2^53: plain numbers, not the Long objects the library would make for 64-bit fields.
protobuf.util.Long = undefined as unknown as typeof protobuf.util.Long;
protobuf.configure();

const frameType = protobuf.Root.fromJSON(JSON.parse(DESCRIPTOR)).lookupType('mdevsim.Frame');

export function encodeFrame<K extends FrameKind>(
  header: FrameHeader,
  kind: K,
  body: FrameBodies[K],
): Uint8Array {
  return frameType
    .encode({
      timeUs: Math.round(header.timeUs),
      process: header.process,
      vm: header.vm,
      device: header.device + 1,
      [kind]: body,
    } as object)
    .finish();
}

/** @throws FrameError */
export function decodeFrame(bytes: Uint8Array): Frame {
  if (bytes.length > FRAME_BYTES_LIMIT)
    throw new FrameError(`frame of ${bytes.length} bytes; accepted: up to ${FRAME_BYTES_LIMIT}`);
  let message: Record<string, unknown>;
  try {
    message = frameType.decode(bytes) as unknown as Record<string, unknown>;
  } catch (error) {
    throw new FrameError(`not a frame: ${error instanceof Error ? error.message : String(error)}`);
  }
  const kind = message.body as FrameKind | undefined;
  if (!kind) throw new FrameError('frame carries no known message');
  const header: FrameHeader = {
    timeUs: message.timeUs as number,
    process: message.process as number,
    vm: message.vm as number,
    device: (message.device as number) - 1,
  };
  return { header, kind, body: message[kind] } as Frame;
}

/** A frame's body as plain JSON, all fields present: for printing. */
export function bodyToJson(frame: Frame): Record<string, unknown> {
  const type = frameType.fields[frame.kind]?.resolvedType as protobuf.Type;
  return type.toObject(frame.body as unknown as protobuf.Message, { defaults: true, bytes: String });
}
