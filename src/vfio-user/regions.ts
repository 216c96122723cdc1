/**
 * Commands on a device's regions: information, reads and writes.
 */
import { hex } from '../memory/address.ts';
import { VfioError } from '../vfio/errors.ts';
import type { ServedRegion } from './device.ts';
import { type Message, word } from './message.ts';
import {
  CAP_SPARSE_MMAP,
  DATA_BYTES_MAX,
  HEADER,
  REGION_ACCESS,
  REGION_FLAG_CAPS,
  REGION_FLAG_MMAP,
  REGION_FLAG_READ,
  REGION_FLAG_WRITE,
  REGION_INFO,
  REGION_IO_FDS,
  REGIONS,
  SPARSE_AREA,
  SPARSE_MMAP,
  WRITE_MULTI,
  WRITE_MULTI_DATA_BYTES,
} from './protocol.ts';
import { type Answer, checkArgsz, readFixed, type Session } from './session.ts';

/** Bytes of one write of REGION_WRITE_MULTI. */
const WRITE_BYTES: number = REGION_ACCESS.size + WRITE_MULTI_DATA_BYTES;

/** @throws VfioError EINVAL for an index without a region */
function regionAt({ device }: Session, index: number): ServedRegion {
  if (index >= REGIONS) throw new VfioError('EINVAL', `region ${index}; accepted: 0 to ${REGIONS - 1}`);
  return device.region(index);
}

/**
 * Answers GET_REGION_INFO. If the client's buffer has no room for the capabilities, the reply has the size it needs and
 * where they would be, but no part of them and no descriptor.
 */
export function regionInfo(session: Session, { payload }: Message): Answer {
  const { argsz, index } = readFixed(REGION_INFO, payload);
  checkArgsz(REGION_INFO.name, argsz, REGION_INFO.size);
  const { size, flags, shared } = regionAt(session, index);
  const info = { flags, index, size: BigInt(size), offset: 0n };
  if (!shared) return { payload: REGION_INFO.encode({ ...info, argsz: REGION_INFO.size, capOffset: 0 }) };
  const needed = REGION_INFO.size + SPARSE_MMAP.size + shared.areas.length * SPARSE_AREA.size;
  const fits = argsz >= needed && session.limits.fds > 0;
  const reply = REGION_INFO.encode(
    {
      ...info,
      flags: flags | REGION_FLAG_MMAP | REGION_FLAG_CAPS,
      argsz: needed,
      capOffset: REGION_INFO.size,
    },
    fits ? needed - REGION_INFO.size : 0,
  );
  if (!fits) return { payload: reply };
  const head = { id: CAP_SPARSE_MMAP, version: 1, next: 0, areas: shared.areas.length, reserved: 0 };
  SPARSE_MMAP.write(reply, head, REGION_INFO.size);
  for (const [i, area] of shared.areas.entries())
    SPARSE_AREA.write(
      reply,
      { offset: BigInt(area.offset), size: BigInt(area.size) },
      REGION_INFO.size + SPARSE_MMAP.size + i * SPARSE_AREA.size,
    );
  return { payload: reply, fds: [shared.fd] };
}

/** Answers GET_REGION_IO_FDS: no part of a region is reached by descriptors. */
export function regionIoFds(session: Session, { payload }: Message): Answer {
  const { argsz, flags, index, count } = readFixed(REGION_IO_FDS, payload);
  checkArgsz(REGION_IO_FDS.name, argsz, REGION_IO_FDS.size);
  if (flags !== 0 || count !== 0)
    throw new VfioError('EINVAL', `GET_REGION_IO_FDS with flags ${flags}, count ${count}; accepted: 0`);
  if (regionAt(session, index).size === 0) throw new VfioError('EINVAL', `region ${index} is absent`);
  return { payload: REGION_IO_FDS.encode({ argsz: REGION_IO_FDS.size, flags: 0, index, count: 0 }) };
}

/** Returns the offset of an access that the region allows. @throws VfioError EINVAL */
function checkAccess(session: Session, index: number, offset: number, count: number, flag: number): number {
  const { size, flags } = regionAt(session, index);
  if ((flags & flag) === 0 || count === 0 || offset + count > size)
    throw new VfioError(
      'EINVAL',
      `access of ${count} bytes at ${hex(offset)} of region ${index}, which has ${hex(size)}`,
    );
  return offset;
}

const [OFFSET_AT] = REGION_ACCESS.fields.offset;
const [REGION_AT] = REGION_ACCESS.fields.region;
const [COUNT_AT] = REGION_ACCESS.fields.count;

/** Returns the offset of an access. It is not exact beyond 2^53, where no region is. */
const offsetOf = (payload: Uint8Array, at: number): number =>
  word(payload, at + OFFSET_AT) + word(payload, at + OFFSET_AT + 4) * 2 ** 32;

/** @throws VfioError EINVAL */
function checkLength(payload: Uint8Array): void {
  if (payload.length < REGION_ACCESS.size)
    throw new VfioError('EINVAL', `an access of ${payload.length} bytes; accepted: ${REGION_ACCESS.size}`);
}

export function regionRead(session: Session, { payload }: Message): Answer {
  checkLength(payload);
  const region = word(payload, REGION_AT);
  const count = word(payload, COUNT_AT);
  if (count > DATA_BYTES_MAX)
    throw new VfioError('EINVAL', `read of ${count} bytes; accepted: up to ${DATA_BYTES_MAX}`);
  const at = checkAccess(session, region, offsetOf(payload, 0), count, REGION_FLAG_READ);
  const room = new Uint8Array(HEADER.size + REGION_ACCESS.size + count);
  for (let i = 0; i < REGION_ACCESS.size; i++) room[HEADER.size + i] = payload[i] as number;
  session.device.read(region, at, room.subarray(HEADER.size + REGION_ACCESS.size));
  return { payload: room, room };
}

export function regionWrite(session: Session, { payload }: Message): Answer {
  checkLength(payload);
  const region = word(payload, REGION_AT);
  const count = word(payload, COUNT_AT);
  if (payload.length !== REGION_ACCESS.size + count)
    throw new VfioError('EINVAL', `write of ${count} bytes with ${payload.length - REGION_ACCESS.size}`);
  const at = checkAccess(session, region, offsetOf(payload, 0), count, REGION_FLAG_WRITE);
  session.device.write(region, at, payload.subarray(REGION_ACCESS.size));
  return { payload: payload.slice(0, REGION_ACCESS.size) };
}

/** Performs REGION_WRITE_MULTI in order, up to the first write that is not allowed. */
export function regionWriteMulti(session: Session, { payload }: Message): Answer {
  const { count } = readFixed(WRITE_MULTI, payload);
  if (BigInt(payload.length - WRITE_MULTI.size) !== count * BigInt(WRITE_BYTES))
    throw new VfioError('EINVAL', `${count} writes in ${payload.length - WRITE_MULTI.size} bytes`);
  for (let i = WRITE_MULTI.size; i < payload.length; i += WRITE_BYTES) {
    const region = word(payload, i + REGION_AT);
    const bytes = word(payload, i + COUNT_AT);
    if (bytes > WRITE_MULTI_DATA_BYTES) throw new VfioError('EINVAL', `write of ${bytes} bytes; accepted: 8`);
    const at = checkAccess(session, region, offsetOf(payload, i), bytes, REGION_FLAG_WRITE);
    const data = i + REGION_ACCESS.size;
    session.device.write(region, at, payload.subarray(data, data + bytes));
  }
  return { payload: WRITE_MULTI.encode({ count }) };
}
