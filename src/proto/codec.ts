/**
 * Protobuf frames: the form of all control messages, in rings, between processes and in trace files.
 */
import protobuf from 'protobufjs/minimal.js';
import { BODY_CODECS, type BodyCodec, FRAME_TAGS, type FrameBodies } from './schema.ts';

/** Origin of a frame. `device` is -1 if the frame concerns no device. */
export interface FrameHeader {
  readonly timeUs: number;
  readonly process: number;
  readonly vm: number;
  readonly device: number;
}

export type FrameKind = keyof FrameBodies;

/** A decoded frame. `kind` names the message in `body`. */
export type Frame = {
  [K in FrameKind]: { readonly header: FrameHeader; readonly kind: K; readonly body: FrameBodies[K] };
}[FrameKind];

/** Size of the largest frame that is decoded. Results carry histograms of a few kB. */
export const FRAME_BYTES_LIMIT = 4 * 1024 * 1024;

/** Thrown for bytes that are not a valid frame. */
export class FrameError extends Error {
  override name = 'FrameError';
}

// Addresses are below 2^53, so that 64-bit fields are plain numbers instead of the library's Long objects.
protobuf.util.Long = undefined as unknown as typeof protobuf.util.Long;
protobuf.configure();

const kindOfTag: ReadonlyMap<number, FrameKind> = new Map(
  (Object.keys(BODY_CODECS) as FrameKind[]).map((kind) => [BODY_CODECS[kind].tag, kind]),
);

/** Returns the bytes of a frame. */
export function encodeFrame<K extends FrameKind>(
  header: FrameHeader,
  kind: K,
  body: FrameBodies[K],
): Uint8Array {
  const codec: BodyCodec<FrameBodies[K]> = BODY_CODECS[kind];
  const w = protobuf.Writer.create();
  w.uint32(FRAME_TAGS.timeUs).uint64(Math.round(header.timeUs));
  w.uint32(FRAME_TAGS.process).uint32(header.process);
  w.uint32(FRAME_TAGS.vm).uint32(header.vm);
  w.uint32(FRAME_TAGS.device).uint32(header.device + 1);
  return codec.write(body, w.uint32(codec.tag).fork()).ldelim().finish();
}

/** @throws FrameError */
export function decodeFrame(bytes: Uint8Array): Frame {
  if (bytes.length > FRAME_BYTES_LIMIT)
    throw new FrameError(`frame of ${bytes.length} bytes; accepted: up to ${FRAME_BYTES_LIMIT}`);
  try {
    return readFrame(protobuf.Reader.create(bytes));
  } catch (error) {
    if (error instanceof FrameError) throw error;
    throw new FrameError(`not a frame: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function readFrame(r: protobuf.Reader): Frame {
  const header = { timeUs: 0, process: 0, vm: 0, device: -1 };
  let found: Pick<Frame, 'kind' | 'body'> | undefined;
  while (r.pos < r.len) {
    const tag = r.uint32();
    const kind = kindOfTag.get(tag);
    if (kind) {
      const end = r.uint32() + r.pos;
      if (end > r.len) throw new FrameError(`${kind} reaches ${end - r.len} bytes beyond its frame`);
      found = { kind, body: BODY_CODECS[kind].read(r, end) };
    } else if (tag === FRAME_TAGS.timeUs) header.timeUs = Number(r.uint64());
    else if (tag === FRAME_TAGS.process) header.process = r.uint32();
    else if (tag === FRAME_TAGS.vm) header.vm = r.uint32();
    else if (tag === FRAME_TAGS.device) header.device = r.uint32() - 1;
    else r.skipType(tag & 7);
  }
  if (!found) throw new FrameError('frame carries no known message');
  return { header, ...found } as Frame;
}

/** Returns a frame's body in a form that JSON can carry, with bytes as base64. */
export function bodyToJson(frame: Frame): Record<string, unknown> {
  return toJson(frame.body) as Record<string, unknown>;
}

function toJson(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (Array.isArray(value)) return value.map(toJson);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, toJson(field)]));
}
