/**
 * DEVICE_FEATURE and the messages of migration data: device states, migration streams, DMA logging.
 */
import { hex } from '../memory/address.ts';
import { type Completion, whenDone } from '../platform/completion.ts';
import { VfioError } from '../vfio/errors.ts';
import { type IovaRange, LOGGED_RANGES_LIMIT } from './dirty-log.ts';
import type { Message } from './message.ts';
import {
  DATA_BYTES_MAX,
  DEVICE_FEATURE,
  FEATURE_GET,
  FEATURE_MASK,
  FEATURE_PROBE,
  FEATURE_SET,
  Feature,
  LOGGING_CONTROL,
  LOGGING_RANGE,
  LOGGING_REPORT,
  MIG_DATA,
  MIG_STATE,
  MIGRATION,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
} from './protocol.ts';
import { type Answer, checkArgsz, NOTHING, readFixed, type Session } from './session.ts';

/** The page size of the log, and the smallest of a report. */
const LOG_PAGE_BYTES = 4096n;
/** No descriptor: migration data come by messages. */
const NO_DATA_FD = 0xffff_ffff;
const OPERATIONS = FEATURE_GET | FEATURE_SET | FEATURE_PROBE;

/** One feature: the operations that it supports, and their work. */
interface FeatureRow {
  readonly operations: number;
  readonly needsMigration: boolean;
  /** Returns the data of a GET, behind the header. `needed` is the size of a reply that has no room. */
  get?(session: Session, data: Uint8Array, room: number): Uint8Array | { readonly needed: number };
  /** Performs a SET. May change the data, which is the reply. */
  set?(session: Session, data: Uint8Array): Completion;
}

const FEATURES: Readonly<Record<number, FeatureRow>> = {
  [Feature.MIGRATION]: {
    operations: FEATURE_GET,
    needsMigration: true,
    get: () => MIGRATION.encode({ flags: MIGRATION_STOP_COPY | MIGRATION_PRE_COPY }),
  },
  [Feature.MIG_DEVICE_STATE]: {
    operations: FEATURE_GET | FEATURE_SET,
    needsMigration: true,
    get: ({ device }) => MIG_STATE.encode({ state: device.migration.state, dataFd: NO_DATA_FD }),
    set: ({ device }, data) => {
      device.migration.setState(readFixed(MIG_STATE, data).state);
      return undefined;
    },
  },
  [Feature.DMA_LOGGING_START]: { operations: FEATURE_SET, needsMigration: false, set: startLogging },
  [Feature.DMA_LOGGING_STOP]: {
    operations: FEATURE_SET,
    needsMigration: false,
    set: ({ device }) => {
      device.log.stop();
      return undefined;
    },
  },
  [Feature.DMA_LOGGING_REPORT]: { operations: FEATURE_GET, needsMigration: false, get: reportLogging },
};

/** Answers DEVICE_FEATURE. */
export function deviceFeature(session: Session, { payload }: Message): Answer | Promise<Answer> {
  const { argsz, flags } = readFixed(DEVICE_FEATURE, payload);
  checkArgsz(DEVICE_FEATURE.name, argsz, DEVICE_FEATURE.size);
  const index = flags & FEATURE_MASK;
  const feature = FEATURES[index];
  const isKnown = feature && (!feature.needsMigration || session.device.migration.supported);
  if (!isKnown) throw new VfioError('ENOTTY', `feature ${index}`);
  const operations = flags & OPERATIONS;
  const asked = operations & ~FEATURE_PROBE;
  if ((flags & ~(OPERATIONS | FEATURE_MASK)) !== 0 || (asked & ~feature.operations) !== 0)
    throw new VfioError('EINVAL', `flags ${hex(flags)} of feature ${index}`);
  if ((operations & FEATURE_PROBE) !== 0) return { payload: payload.slice() };
  if (asked !== FEATURE_GET && asked !== FEATURE_SET)
    throw new VfioError('EINVAL', `flags ${hex(flags)}; accepted: one of GET and SET, or PROBE`);
  const reply = payload.slice();
  const data = reply.subarray(DEVICE_FEATURE.size);
  if (asked === FEATURE_SET) {
    const answer = { payload: reply };
    const work = feature.set!(session, data);
    return work ? work.then(() => answer) : answer;
  }
  const got = feature.get!(session, data, argsz - DEVICE_FEATURE.size);
  if (got instanceof Uint8Array && got.length <= argsz - DEVICE_FEATURE.size) {
    const whole = DEVICE_FEATURE.encode({ argsz: DEVICE_FEATURE.size + got.length, flags }, got.length);
    whole.set(got, DEVICE_FEATURE.size);
    return { payload: whole };
  }
  const needed = got instanceof Uint8Array ? got.length : got.needed;
  return { payload: DEVICE_FEATURE.encode({ argsz: DEVICE_FEATURE.size + needed, flags }) };
}

function startLogging({ device }: Session, data: Uint8Array): Completion {
  const { pageSize, ranges: count } = readFixed(LOGGING_CONTROL, data);
  if (pageSize === 0n || (pageSize & (pageSize - 1n)) !== 0n)
    throw new VfioError('EINVAL', `logging by pages of ${pageSize} bytes; accepted: a power of two`);
  if (count > LOGGED_RANGES_LIMIT)
    throw new VfioError('E2BIG', `${count} ranges; accepted: up to ${LOGGED_RANGES_LIMIT}`);
  if (data.length < LOGGING_CONTROL.size + count * LOGGING_RANGE.size)
    throw new VfioError('EINVAL', `${count} ranges in ${data.length} bytes`);
  const ranges: IovaRange[] = [];
  for (let i = 0; i < count; i++) {
    const { iova, length } = LOGGING_RANGE.read(data, LOGGING_CONTROL.size + i * LOGGING_RANGE.size);
    if (length === 0n || iova + length > 2n ** 64n)
      throw new VfioError('EINVAL', `range ${hex(iova)} +${hex(length)}`);
    ranges.push({ iova: Number(iova), length: Number(length) });
  }
  return whenDone(device.log.start(ranges), () =>
    LOGGING_CONTROL.write(data, { pageSize: LOG_PAGE_BYTES, ranges: count, reserved: 0 }),
  );
}

function reportLogging({ device }: Session, data: Uint8Array, room: number): Uint8Array | { needed: number } {
  const request = readFixed(LOGGING_REPORT, data);
  const { iova, length, pageSize } = request;
  if (!device.log.logging) throw new VfioError('EINVAL', 'DMA logging has not started');
  if (pageSize < LOG_PAGE_BYTES || (pageSize & (pageSize - 1n)) !== 0n)
    throw new VfioError(
      'EINVAL',
      `a report by pages of ${pageSize} bytes; accepted: powers of two from 4096`,
    );
  if (length === 0n || iova % pageSize !== 0n || iova + length > 2n ** 53n)
    throw new VfioError('EINVAL', `a report of ${hex(iova)} +${hex(length)}`);
  const words = (length + pageSize * 64n - 1n) / (pageSize * 64n);
  const needed = LOGGING_REPORT.size + Number(words) * 8;
  if (needed > DATA_BYTES_MAX)
    throw new VfioError('E2BIG', `a report of ${needed} bytes; accepted: ${DATA_BYTES_MAX}`);
  // Marks that the client cannot take must stay.
  if (needed > room) return { needed };
  const reply = LOGGING_REPORT.encode(request, needed - LOGGING_REPORT.size);
  reply.set(device.log.report(Number(iova), Number(length), Number(pageSize)), LOGGING_REPORT.size);
  return reply;
}

/** Answers MIG_DATA_READ. The reply has room for all that was asked for; its size field counts the data. */
export function migrationRead({ device }: Session, { payload }: Message): Answer {
  const { argsz, size } = readFixed(MIG_DATA, payload);
  if (size > DATA_BYTES_MAX)
    throw new VfioError('EINVAL', `read of ${size} bytes; accepted: up to ${DATA_BYTES_MAX}`);
  checkArgsz(MIG_DATA.name, argsz, MIG_DATA.size + size);
  if (!device.migration.supported) throw new VfioError('EINVAL', 'the device cannot be migrated');
  const data = device.migration.read(size);
  const reply = MIG_DATA.encode({ argsz: MIG_DATA.size + data.length, size: data.length }, size);
  reply.set(data, MIG_DATA.size);
  return { payload: reply };
}

export function migrationWrite({ device }: Session, { payload }: Message): Answer {
  const { size } = readFixed(MIG_DATA, payload);
  if (payload.length !== MIG_DATA.size + size)
    throw new VfioError('EINVAL', `write of ${size} bytes with ${payload.length - MIG_DATA.size}`);
  if (!device.migration.supported) throw new VfioError('EINVAL', 'the device cannot be migrated');
  device.migration.write(payload.subarray(MIG_DATA.size));
  return NOTHING;
}
