/**
 * The loop of one served device: waits for its client and for its own timers, performs commands, steps the model.
 *
 * One client is served at a time; others wait for it in the socket's backlog. When a client goes, its maps, event
 * counters and descriptors go with it, and the device keeps its state for the next one.
 */
import { readSync } from 'node:fs';
import { nowUs, yieldTurn } from '#host';
import type { Completion } from '../platform/completion.ts';
import { closeFile, waitReadable } from './linux.ts';
import { ConnectionClosedError, isReply } from './message.ts';
import type { ServedDevice } from './served-device.ts';
import { VfioUserServer } from './server.ts';
import type { SocketListener, SocketTransport } from './socket.ts';

/** Most commands between two steps of the model. */
const BURST = 64;
/** A waiting device wakes up at this interval even if nothing happens, so that its thread can be ended. */
const IDLE_WAIT_MS = 500;
/** Interval at which a busy thread lets its event loop run. */
const YIELD_US = 500_000;
/** A timer that is due earlier is waited for by poll, which ends in time. */
const HOT_TIMER_US = 30_000;
/** Interval at which a stalled model is stepped again. */
const STALL_WAIT_MS = 5;

/** Counts over all clients of one device. */
interface LoopCounters {
  clients: number;
  commands: number;
  errors: number;
}

/** The worker that runs the loop. */
interface LoopOwner {
  /** An event counter that ends a wait. */
  readonly wakeFd: number;
  /** Returns true when the loop must end. */
  stopRequested(): boolean;
  /** Called in the turn after a wake-up, between two steps of the model. */
  woken(): void;
  connected(): void;
  disconnected(reason: string): void;
  /** The model is about to be called, or has returned. */
  busy(isBusy: boolean): void;
}

export class ServeLoop {
  readonly counters: LoopCounters = { clients: 0, commands: 0, errors: 0 };
  readonly #device: ServedDevice;
  readonly #listener: SocketListener;
  readonly #owner: LoopOwner;
  #transport: SocketTransport | undefined;
  #server: VfioUserServer | undefined;
  #stalled = false;
  /** The client has just sent a message, and may be about to send the next one. */
  #isHot = false;
  #yieldedUs = nowUs();
  #stopping = false;
  /** The owner has woken the loop since the last turn. */
  #woken = false;

  constructor(device: ServedDevice, listener: SocketListener, owner: LoopOwner) {
    this.#device = device;
    this.#listener = listener;
    this.#owner = owner;
  }

  /** Runs until its owner wants it to stop. Then the client is gone and nothing is mapped. */
  async run(): Promise<void> {
    while (!this.#stopping) {
      this.#wait();
      this.#owner.busy(true);
      try {
        const work = this.#transport && this.#serve();
        if (work) await work;
        this.#step();
        if (this.#woken) this.#owner.woken();
        this.#woken = false;
        if (nowUs() - this.#yieldedUs > YIELD_US) await this.#yield();
      } catch (error) {
        await this.#ended(error);
      }
      this.#owner.busy(false);
    }
    await this.#ended(new ConnectionClosedError('the server ends'));
    this.#listener.close();
  }

  /** Waits for a message, a client, a wake-up or a timer. */
  #wait(): void {
    if (this.#transport?.buffered) return;
    const isFree = !this.#stalled && !this.#device.sharesEngine;
    if (this.#isHot && isFree && this.#device.waitUs > HOT_TIMER_US) return;
    this.#isHot = false;
    const { wakeFd } = this.#owner;
    const stepMs = this.#stalled ? STALL_WAIT_MS : this.#device.waitUs / 1000;
    const other = this.#transport?.fd ?? this.#listener.fd;
    const ready = waitReadable([other, wakeFd], Math.min(stepMs, IDLE_WAIT_MS));
    if ((ready & 2) !== 0) {
      readSync(wakeFd, new Uint8Array(8));
      this.#stopping = this.#owner.stopRequested();
      this.#woken = true;
    }
    if ((ready & 1) !== 0 && !this.#transport) this.#accept();
  }

  #accept(): void {
    const transport = this.#listener.accept();
    this.#transport = transport;
    this.#server = new VfioUserServer(this.#device, transport, closeFile);
    this.counters.clients++;
    this.#device.recorder?.begin();
    this.#owner.connected();
  }

  /** Performs the commands that have arrived, up to the first that has to wait. */
  #serve(): Completion {
    const transport = this.#transport!;
    const server = this.#server!;
    for (let handled = 0; handled < BURST; handled++) {
      const message = this.#isHot ? transport.receiveSoon() : transport.receive(0);
      this.#isHot = message !== undefined;
      if (!message) break;
      const work = server.handle(message);
      if (work) return work;
      // A reply is what a stalled model waits for: its step comes before the next command.
      if (isReply(message)) {
        this.#device.wake();
        break;
      }
      if (!transport.buffered) break;
    }
    return undefined;
  }

  /** Lets the thread's event loop run: objects with native parts are freed there. */
  async #yield(): Promise<void> {
    await yieldTurn();
    // A client that never pauses keeps the loop from its other waits.
    this.#stopping ||= this.#owner.stopRequested();
    this.#woken = true;
    this.#yieldedUs = nowUs();
  }

  #step(): void {
    // A vGPU asks for the engine after each wait, because the engine's owner may have died.
    if (this.#device.waitUs > 0 && !this.#stalled && !this.#device.sharesEngine) return;
    try {
      this.#stalled = this.#device.step() === 'stalled';
    } catch (error) {
      if (error instanceof ConnectionClosedError) throw error;
      this.#device.fail(textOf(error));
    }
  }

  /** Ends the connection. An error that is no end of it is one of the model's code. */
  async #ended(error: unknown): Promise<void> {
    if (!(error instanceof ConnectionClosedError)) this.#device.fail(textOf(error));
    const transport = this.#transport;
    const server = this.#server;
    if (!transport || !server) return;
    [this.#transport, this.#server] = [undefined, undefined];
    this.counters.commands += server.counters.commands;
    this.counters.errors += server.counters.errors;
    transport.close();
    await this.#device.disconnected();
    this.#device.windows.clear();
    this.#device.wake();
    this.#owner.disconnected(textOf(error));
  }
}

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
