/**
 * Version negotiation: the versions and capabilities of both sides.
 */
import { isObject } from '../platform/is-object.ts';
import { VfioError } from '../vfio/errors.ts';
import { SERVED_MAPS_LIMIT } from './dma-space.ts';
import {
  CLIENT_FDS_DEFAULT,
  DATA_BYTES_MAX,
  DMA_MAPS_DEFAULT,
  MESSAGE_FDS_MAX,
  VERSION,
  VERSION_MAJOR,
  VERSION_MINOR,
} from './protocol.ts';

/** Page sizes of DMA maps, as a sum. */
const PAGE_SIZES = 4096;
/** Most bytes of a client's capabilities. */
const CAPABILITIES_BYTES_MAX = 65_536;

/** The client's limits, as negotiated. */
export interface ClientLimits {
  readonly fds: number;
  readonly dataBytes: number;
}

/** Result of a negotiation: the client's limits and the payload of the reply. */
interface Negotiated {
  readonly limits: ClientLimits;
  readonly reply: Uint8Array;
}

/**
 * Answers a VERSION message. The minor version is the lower one of both sides, and each capability is one that the
 * client has proposed or that the specification gives a default.
 * @throws VfioError EINVAL for another major version or invalid capabilities
 */
export function negotiate(payload: Uint8Array): Negotiated {
  if (payload.length < VERSION.size) throw new VfioError('EINVAL', `VERSION of ${payload.length} bytes`);
  const { major, minor } = VERSION.read(payload);
  if (major !== VERSION_MAJOR)
    throw new VfioError('EINVAL', `major version ${major}; accepted: ${VERSION_MAJOR}`);
  const proposed = capabilitiesOf(payload.subarray(VERSION.size));
  const dataBytes = limit(proposed, 'max_data_xfer_size', DATA_BYTES_MAX, 1);
  const capabilities: Record<string, unknown> = {
    max_msg_fds: MESSAGE_FDS_MAX,
    max_data_xfer_size: DATA_BYTES_MAX,
    max_dma_maps: Math.min(SERVED_MAPS_LIMIT, limit(proposed, 'max_dma_maps', DMA_MAPS_DEFAULT, 1)),
    pgsizes: PAGE_SIZES,
  };
  if (isObject(proposed.migration)) capabilities.migration = { pgsize: PAGE_SIZES };
  if (proposed.write_multiple === true) capabilities.write_multiple = true;
  const text = Buffer.from(`${JSON.stringify({ capabilities })}\0`);
  const reply = new Uint8Array(VERSION.size + text.length);
  VERSION.write(reply, { major: VERSION_MAJOR, minor: Math.min(minor, VERSION_MINOR) });
  reply.set(text, VERSION.size);
  return {
    limits: { fds: limit(proposed, 'max_msg_fds', CLIENT_FDS_DEFAULT, 0), dataBytes },
    reply,
  };
}

/** Returns the capabilities of version data: NUL-terminated JSON, or nothing. @throws VfioError EINVAL */
function capabilitiesOf(data: Uint8Array): Readonly<Record<string, unknown>> {
  if (data.length === 0) return {};
  const refuse = (why: string): never => {
    throw new VfioError('EINVAL', `version data: ${why}`);
  };
  if (data.length > CAPABILITIES_BYTES_MAX) refuse(`${data.length} bytes`);
  if (data.indexOf(0) !== data.length - 1) refuse('not terminated by one NUL');
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(data.subarray(0, -1)).toString('utf8'));
  } catch {
    refuse('not JSON');
  }
  if (!isObject(parsed)) return refuse('not an object');
  const { capabilities = {} } = parsed;
  return isObject(capabilities) ? capabilities : refuse('capabilities are not an object');
}

/** Returns a proposed limit. @throws VfioError EINVAL for anything but an integer from `least` */
function limit(
  proposed: Readonly<Record<string, unknown>>,
  name: string,
  initial: number,
  least: number,
): number {
  const value = proposed[name] ?? initial;
  if (!Number.isSafeInteger(value) || (value as number) < least)
    throw new VfioError('EINVAL', `capability ${name}; accepted: integers from ${least}`);
  return value as number;
}
