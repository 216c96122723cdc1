/**
 * Transports of messages, apart from the protocol. The UNIX socket is in socket.ts; the one here has its bytes fed by
 * its owner: a test, or a stream of fuzzed bytes.
 */
import { ConnectionClosedError, type Message, MessageReader } from './message.ts';

/** One connection to a client. */
export interface Transport {
  /**
   * Returns the next message, or undefined if none comes within `timeoutMs`.
   * @throws ConnectionClosedError when the connection has ended
   */
  receive(timeoutMs: number): Message | undefined;
  /** Sends a whole message. @throws ConnectionClosedError, also for a peer that does not read */
  send(bytes: Uint8Array, fds?: readonly number[]): void;
  close(): void;
}

/** A message that a server has sent. */
interface SentMessage {
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
}

/** A transport in memory. Bytes may be fed in pieces of any size, and need not be messages. */
export class MemoryTransport implements Transport {
  readonly sent: SentMessage[] = [];
  readonly #reader: MessageReader;
  #ended = false;

  constructor(closeFd: (fd: number) => void = () => {}) {
    this.#reader = new MessageReader(closeFd);
  }

  /** Adds received bytes. @throws ConnectionClosedError for bytes that cannot be a message */
  feed(bytes: Uint8Array, fds: readonly number[] = []): void {
    this.#reader.feed(bytes, fds);
  }

  /** The peer has closed its end. */
  end(): void {
    this.#ended = true;
  }

  receive(_timeoutMs: number): Message | undefined {
    const message = this.#reader.next();
    if (!message && this.#ended) throw new ConnectionClosedError('the client has disconnected');
    return message;
  }

  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    this.sent.push({ bytes, fds });
  }

  close(): void {
    this.#reader.close();
    this.#ended = true;
  }
}
