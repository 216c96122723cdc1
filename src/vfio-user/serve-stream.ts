/**
 * A served device on a stream of bytes instead of a socket: one client, no descriptors, everything in the calling thread.
 * For fuzzers, and for clients that write their messages to a pipe.
 */
import { ConnectionClosedError } from './message.ts';
import type { ServedDevice } from './served-device.ts';
import { VfioUserServer } from './server.ts';
import { MemoryTransport } from './transport.ts';

/** Bytes of one read. */
const READ_BYTES = 65_536;
/** Most steps of the model after the messages of one read, so that a model with endless work does not stop the stream. */
const STEPS_LIMIT = 10_000;

/** The stream's two directions. */
export interface ByteStream {
  /** Waits for bytes and stores them in `target`. Returns their count; 0 at the end of the stream. */
  read(target: Uint8Array): number;
  write(bytes: Uint8Array): void;
}

/** The end of a stream. */
export interface StreamEnd {
  readonly commands: number;
  readonly errors: number;
  readonly reason: string;
}

/** Serves until the stream ends, or holds what cannot be a message. Nothing is mapped then. */
export async function serveStream(device: ServedDevice, stream: ByteStream): Promise<StreamEnd> {
  const transport = new MemoryTransport();
  const server = new VfioUserServer(device, transport, () => {});
  const flush = () => {
    for (const { bytes } of transport.sent.splice(0)) stream.write(bytes);
  };
  let reason = '';
  try {
    for (;;) {
      const end = receive(transport, stream);
      for (let message = transport.receive(0); message; message = transport.receive(0)) {
        await server.handle(message);
        stepUntilIdle(device);
        flush();
      }
      if (end) throw end;
    }
  } catch (error) {
    if (!(error instanceof ConnectionClosedError)) device.fail(String(error));
    reason = error instanceof Error ? error.message : String(error);
  }
  flush();
  transport.close();
  await device.disconnected();
  return { ...server.counters, reason };
}

/**
 * Feeds the bytes of one read. Returns the error of bytes that cannot be a message; the messages before them are still
 * served.
 */
function receive(transport: MemoryTransport, stream: ByteStream): ConnectionClosedError | undefined {
  const bytes = new Uint8Array(READ_BYTES);
  const count = stream.read(bytes);
  try {
    if (count === 0) transport.end();
    else transport.feed(bytes.subarray(0, count));
    return undefined;
  } catch (error) {
    if (error instanceof ConnectionClosedError) return error;
    throw error;
  }
}

/** Steps the model until it waits for the client or has nothing to do. An error of its code breaks the device. */
function stepUntilIdle(device: ServedDevice): void {
  try {
    for (let steps = 0; steps < STEPS_LIMIT; steps++) if (device.step() !== 'more') return;
  } catch (error) {
    device.fail(String(error));
  }
}
