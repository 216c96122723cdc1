/**
 * The server of one connection: performs a client's commands on a device, whatever the transport and the device are.
 *
 * A command that fails is answered by a header with an errno. Only a peer whose stream cannot be followed, or that does
 * not begin with VERSION, loses its connection.
 */
import { constants } from 'node:os';
import type { Completion } from '../platform/completion.ts';
import type { Errno } from '../platform/errno.ts';
import { VfioError } from '../vfio/errors.ts';
import type { VfioDevice } from './device.ts';
import { deviceFeature, migrationRead, migrationWrite } from './features.ts';
import { IRQ_TYPES } from './irqs.ts';
import { ConnectionClosedError, encodeReply, isReply, type Message, writeReplyHeader } from './message.ts';
import {
  Command,
  DEVICE_FLAG_PCI,
  DEVICE_FLAG_RESET,
  DEVICE_INFO,
  DMA_MAP,
  DMA_UNMAP,
  FLAG_NO_REPLY,
  IRQ_INFO,
  MESSAGE_FDS_MAX,
  REGIONS,
  SET_IRQS,
  TYPE_COMMAND,
  TYPE_MASK,
  UNMAP_FLAG_ALL,
} from './protocol.ts';
import { regionInfo, regionIoFds, regionRead, regionWrite, regionWriteMulti } from './regions.ts';
import { type Answer, checkArgsz, type Handler, NOTHING, readFixed, type Session } from './session.ts';
import type { Transport } from './transport.ts';
import { negotiate } from './version.ts';

const HANDLERS: Readonly<Record<number, Handler>> = {
  [Command.DMA_MAP]: dmaMap,
  [Command.DMA_UNMAP]: dmaUnmap,
  [Command.DEVICE_GET_INFO]: deviceInfo,
  [Command.DEVICE_GET_REGION_INFO]: regionInfo,
  [Command.DEVICE_GET_REGION_IO_FDS]: regionIoFds,
  [Command.DEVICE_GET_IRQ_INFO]: irqInfo,
  [Command.DEVICE_SET_IRQS]: setIrqs,
  [Command.REGION_READ]: regionRead,
  [Command.REGION_WRITE]: regionWrite,
  [Command.REGION_WRITE_MULTI]: regionWriteMulti,
  [Command.DEVICE_RESET]: ({ device }) => {
    device.reset();
    return NOTHING;
  },
  [Command.DEVICE_FEATURE]: deviceFeature,
  [Command.MIG_DATA_READ]: migrationRead,
  [Command.MIG_DATA_WRITE]: migrationWrite,
};

/** Counts of one connection. */
interface ServerCounters {
  commands: number;
  errors: number;
}

/** Serves one connection. Its owner receives the messages. */
export class VfioUserServer {
  readonly counters: ServerCounters = { commands: 0, errors: 0 };
  readonly #device: VfioDevice;
  readonly #transport: Transport;
  readonly #closeFd: (fd: number) => void;
  #session: Session | undefined;

  constructor(device: VfioDevice, transport: Transport, closeFd: (fd: number) => void) {
    this.#device = device;
    this.#transport = transport;
    this.#closeFd = closeFd;
  }

  /**
   * Handles one message. Complete when its reply is sent.
   * @throws ConnectionClosedError, also as the promise's rejection, when the connection must end
   */
  handle(message: Message): Completion {
    let work: Completion;
    try {
      work = this.#perform(message);
    } finally {
      if (!work) this.#closeFds(message);
    }
    return work?.finally(() => this.#closeFds(message));
  }

  #perform(message: Message): Completion {
    if (isReply(message)) {
      this.#device.client.reply(message);
      return undefined;
    }
    this.counters.commands++;
    try {
      const type = message.flags & TYPE_MASK;
      if (type !== TYPE_COMMAND) throw new VfioError('EINVAL', `message type ${type}`);
      if (message.fds.length > MESSAGE_FDS_MAX)
        throw new VfioError(
          'EINVAL',
          `${message.fds.length} descriptors; accepted: up to ${MESSAGE_FDS_MAX}`,
        );
      const answer = this.#session ? handlerOf(message)(this.#session, message) : this.#begin(message);
      if (!(answer instanceof Promise)) return this.#reply(message, answer);
      return answer.then(
        (done) => this.#reply(message, done),
        (error: unknown) => this.#refuse(message, error),
      );
    } catch (error) {
      return this.#refuse(message, error);
    }
  }

  /** Negotiates the version, with which a client must begin. */
  #begin(message: Message): Answer {
    if (message.command !== Command.VERSION)
      throw new VfioError('EINVAL', `command ${message.command} before VERSION`);
    const { limits, reply } = negotiate(message.payload);
    this.#session = { device: this.#device, limits };
    this.#device.client.connect({
      send: (bytes) => this.#transport.send(bytes),
      dataBytesMax: limits.dataBytes,
    });
    return { payload: reply };
  }

  #reply(message: Message, { payload, room, fds = NO_FDS }: Answer): undefined {
    if ((message.flags & FLAG_NO_REPLY) !== 0) return undefined;
    if (room) writeReplyHeader(message, room);
    this.#transport.send(room ?? encodeReply(message, payload), fds);
    return undefined;
  }

  #refuse(message: Message, error: unknown): undefined {
    if (!(error instanceof VfioError)) throw error;
    this.counters.errors++;
    const number = errnoNumber(error.errno);
    if ((message.flags & FLAG_NO_REPLY) === 0) this.#transport.send(encodeReply(message, NO_BYTES, number));
    if (!this.#session) throw new ConnectionClosedError(error.message);
    return undefined;
  }

  #closeFds({ fds }: Message): void {
    for (let i = 0; i < fds.length; i++) if ((fds[i] as number) >= 0) this.#closeFd(fds[i] as number);
  }
}

const NO_BYTES = new Uint8Array();
const NO_FDS: readonly number[] = [];

const errnoNumber = (errno: Errno): number =>
  (constants.errno as Readonly<Record<string, number>>)[errno] ?? constants.errno.EINVAL;

/** @throws VfioError EINVAL for a command that no server answers */
function handlerOf({ command }: Message): Handler {
  const handler = HANDLERS[command];
  if (!handler) throw new VfioError('EINVAL', `command ${command}`);
  return handler;
}

function dmaMap({ device }: Session, { id, payload, fds }: Message): Answer {
  const request = readFixed(DMA_MAP, payload);
  const { argsz, flags, offset, address, size } = request;
  checkArgsz(DMA_MAP.name, argsz, DMA_MAP.size);
  if (fds.length > 1) throw new VfioError('EINVAL', `DMA_MAP with ${fds.length} descriptors; accepted: 0, 1`);
  device.dma.map({ address, size, offset, flags, fd: fds[0] });
  device.recorder?.map(id, request, fds[0]);
  return NOTHING;
}

function dmaUnmap({ device }: Session, { id, payload }: Message): Answer | Promise<Answer> {
  const request = readFixed(DMA_UNMAP, payload);
  const { argsz, flags, address, size } = request;
  checkArgsz(DMA_UNMAP.name, argsz, DMA_UNMAP.size);
  if ((flags & ~UNMAP_FLAG_ALL) !== 0 || (flags === UNMAP_FLAG_ALL && (address !== 0n || size !== 0n)))
    throw new VfioError('EINVAL', `DMA_UNMAP with flags ${flags}; accepted: 0, or 2 with no range`);
  const work = flags === UNMAP_FLAG_ALL ? device.dma.unmapAll() : device.dma.unmap(address, size);
  device.recorder?.unmap(id, request, device.dma.lastRemoved);
  const answer = { payload: DMA_UNMAP.encode({ ...request, argsz: DMA_UNMAP.size }) };
  return work ? work.then(() => answer) : answer;
}

function deviceInfo(_session: Session, { payload }: Message): Answer {
  const { argsz } = readFixed(DEVICE_INFO, payload);
  checkArgsz(DEVICE_INFO.name, argsz, DEVICE_INFO.size);
  const flags = DEVICE_FLAG_RESET | DEVICE_FLAG_PCI;
  return {
    payload: DEVICE_INFO.encode({ argsz: DEVICE_INFO.size, flags, regions: REGIONS, irqs: IRQ_TYPES }),
  };
}

function irqInfo({ device }: Session, { payload }: Message): Answer {
  const { argsz, index } = readFixed(IRQ_INFO, payload);
  checkArgsz(IRQ_INFO.name, argsz, IRQ_INFO.size);
  if (index >= IRQ_TYPES)
    throw new VfioError('EINVAL', `interrupt type ${index}; accepted: 0 to ${IRQ_TYPES - 1}`);
  const { irqs } = device;
  return {
    payload: IRQ_INFO.encode({
      argsz: IRQ_INFO.size,
      flags: irqs.flags(index),
      index,
      count: irqs.count(index),
    }),
  };
}

function setIrqs({ device }: Session, { payload, fds }: Message): Answer {
  const { argsz, flags, index, start, count } = readFixed(SET_IRQS, payload);
  checkArgsz(SET_IRQS.name, argsz, SET_IRQS.size);
  device.irqs.set({ flags, index, start, count, bools: payload.subarray(SET_IRQS.size) }, fds);
  return NOTHING;
}
