/**
 * A QEMU's monitor (QMP) for the tests.
 */
import { connect, type Socket } from 'node:net';
import { until } from '../support/until.ts';

/** A message of QEMU. */
interface QmpMessage {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly event?: string;
}

export class Qmp {
  readonly events: string[] = [];
  readonly #socket: Socket;
  readonly #replies = new Map<number, QmpMessage>();
  #text = '';
  #id = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (data) => this.#receive(data.toString()));
    // The end of QEMU.
    socket.on('error', () => {});
  }

  /** Connects to QEMU, which listens soon after its start. */
  static async connect(path: string): Promise<Qmp> {
    let socket: Socket | undefined;
    let isTrying = false;
    const attempt = (): boolean => {
      if (socket || isTrying) return socket !== undefined;
      isTrying = true;
      const candidate = connect(path);
      candidate.once('connect', () => {
        socket = candidate;
      });
      candidate.once('error', () => {
        isTrying = false;
      });
      return false;
    };
    await until(attempt, `QEMU listens at ${path}`);
    const qmp = new Qmp(socket!);
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  /** Executes a command. @throws Error with QEMU's text */
  async execute(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const id = ++this.#id;
    this.#socket.write(JSON.stringify({ execute: command, arguments: args, id }));
    await until(() => this.#replies.has(id), `a reply to ${command}`);
    const { error, return: result } = this.#replies.get(id)!;
    if (error) throw new Error(`${command}: ${error.desc}`);
    return result;
  }

  /** Waits for the next event of that name, and takes it. */
  async event(name: string): Promise<void> {
    await until(() => this.events.includes(name), `the event ${name}`);
    this.events.splice(this.events.indexOf(name), 1);
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(text: string): void {
    const lines = (this.#text + text).split('\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines.filter((each) => each.trim() !== '')) {
      const message: QmpMessage = JSON.parse(line);
      if (message.id !== undefined) this.#replies.set(message.id, message);
      if (message.event !== undefined) this.events.push(message.event);
    }
  }
}
