/**
 * The life of one device in its worker: serve the doorbell, step the model, answer the coordinator, until stopped.
 */
import { getHeapStatistics } from 'node:v8';
import { nowUs, wallMs } from '#host';
import type { Iova } from '../address/address.ts';
import { decodeFrame, encodeFrame, type FrameKind } from '../channel/codec.ts';
import { DeviceLink, DeviceState } from '../channel/device-link.ts';
import type { MmioServer } from '../channel/mmio-channel.ts';
import type { FrameBodies } from '../channel/schema.ts';
import { HostMemory, type HostMemoryHandle } from '../host/host-memory.ts';
import type { PinTableHandle } from '../pin-table/kernels.ts';
import { PinTableReader } from '../pin-table/reader.ts';
import { DeviceInstance } from './instance.ts';
import type { DeviceOptions, ModelFactory } from './model.ts';

/** Everything a device worker is given: shared memory and numbers. */
export interface DeviceTask {
  readonly process: number;
  readonly vm: number;
  readonly device: number;
  readonly name: string;
  /** A built-in model's name, or the URL of a file and its text; with no text the file is read. */
  readonly model: string;
  readonly modelSource: string;
  readonly options: DeviceOptions;
  readonly link: SharedArrayBuffer;
  readonly pinTable: SharedArrayBuffer | PinTableHandle;
  readonly readerSlot: number;
  readonly memory: HostMemoryHandle;
  /** The coordinator's doorbell, and this device's number on it. */
  readonly coordinatorDoorbell: SharedArrayBuffer;
  readonly coordinatorSenders: number;
  readonly coordinatorBit: number;
}

/** The coordinator's doorbell, as far as a device needs it. */
export interface Ringer {
  ring(sender: number): void;
}

/** MMIO entries served, and frames, between two steps. */
const BURST = 64;
/** A sleeping device looks around this often even if nobody rings. */
const IDLE_WAIT_MS = 1000;
/** How long a stalled device waits for the switch to end before it looks again. */
const STALL_WAIT_MS = 5;
/** How long a device waits for its fault to be recorded. */
const FAULT_WAIT_MS = 5000;
/** Violations sent one by one; the rest are only counted. */
const VIOLATION_LIMIT = 8;

/** How often a device at work looks at what its model has allocated: a look costs about 2 µs. */
const MEMORY_LOOK_US = 10_000;
/** Bytes of buffers one device may hold outside V8's heap, which has a limit of its own. */
export const BUFFER_BYTES_LIMIT: number = 192 * 2 ** 20;

/** Thrown in a device's thread when its model holds more buffers than it may. */
export class DeviceMemoryError extends Error {
  override name = 'DeviceMemoryError';
}

export class DeviceRuntime {
  readonly #task: DeviceTask;
  readonly #link: DeviceLink;
  readonly #mmio: MmioServer;
  readonly #coordinator: Ringer;
  readonly #device: DeviceInstance;
  readonly #counts = { stalls: 0, interrupts: 0, faultsDropped: 0 };
  readonly #violations = new Map<string, number>();
  #stopping = false;
  #lookedUs = 0;
  #faultsSent = 0;

  constructor(task: DeviceTask, coordinator: Ringer, factory: ModelFactory) {
    this.#task = task;
    this.#link = new DeviceLink(task.link);
    this.#mmio = this.#link.mmioServer();
    this.#coordinator = coordinator;
    this.#device = new DeviceInstance(
      {
        name: task.name,
        table: new PinTableReader(task.pinTable, task.readerSlot),
        memory: new HostMemory(task.memory),
        options: task.options,
      },
      {
        fault: (iova, write, denied) => this.#sendFault(iova, write, denied),
        violation: (kind, detail) => this.#sendViolation(kind, detail),
        interrupt: (vector) => this.#interrupt(vector),
        log: (text, watchdog) => void this.#send('deviceLog', { text, watchdog }),
        nowUs,
      },
      factory,
    );
  }

  /** Runs until the coordinator says stop. `threadId` lets the supervisor find this thread. */
  run(threadId: number): void {
    // The state first: who has heard that the device is ready must find it so.
    this.#link.setState(DeviceState.ready);
    this.#send('deviceReady', { threadId, model: this.#task.model });
    while (!this.#stopping) this.turn(IDLE_WAIT_MS);
    this.#device.close();
    const report = { ...this.#device.report(), ...this.#counts };
    this.#sendViolationTotals();
    this.#send('deviceReport', report);
    this.#link.setState(DeviceState.stopped);
  }

  /** One turn: what was rung for, one step, and a wait of at most `idleMs` if there was nothing to do. */
  turn(idleMs: number): void {
    const sequence = this.#link.doorbell.sequence;
    this.#link.beginTurn();
    this.#link.doorbell.take(() => {});
    const moreMmio = this.#mmio.serve(this.#device, BURST);
    const moreControl = this.#serveControl();
    const result = this.#stopping ? 'more' : this.#device.step();
    this.#lookAtMemory();
    if (result === 'more' || moreMmio || moreControl) return;
    if (result === 'stalled') this.#counts.stalls++;
    const wait = result === 'stalled' ? Math.min(STALL_WAIT_MS, idleMs) : idleMs;
    this.#link.endTurn();
    this.#link.doorbell.wait(sequence, Math.min(wait, this.#device.timers.waitUs / 1000));
  }

  /** V8 limits a worker's heap, not the buffers that it refers to. @throws DeviceMemoryError */
  #lookAtMemory(): void {
    const now = nowUs();
    if (now - this.#lookedUs < MEMORY_LOOK_US) return;
    this.#lookedUs = now;
    const { external_memory: bytes } = getHeapStatistics();
    if (bytes > BUFFER_BYTES_LIMIT)
      throw new DeviceMemoryError(
        `holds ${Math.ceil(bytes / 2 ** 20)} MiB of buffers; accepted: up to ${BUFFER_BYTES_LIMIT / 2 ** 20} MiB`,
      );
  }

  /** Serves at most BURST frames. True if more may be waiting. */
  #serveControl(): boolean {
    for (let served = 0; served < BURST; served++) {
      const bytes = this.#link.toDevice.shift();
      if (!bytes) return false;
      const frame = decodeFrame(bytes);
      if (frame.kind === 'deviceStop') this.#stopping = true;
      else if (frame.kind === 'dmaUnmap') {
        const { iova, size } = frame.body;
        const released = this.#device.dmaUnmap(iova as Iova, size);
        this.#send('dmaUnmapDone', { iova, size, released });
      }
    }
    return true;
  }

  #interrupt(vector: number): void {
    this.#counts.interrupts++;
    this.#link.interrupt(vector);
  }

  #sendFault(iova: Iova, write: boolean, denied: boolean): void {
    // Waiting also keeps a device that faults without end at the coordinator's pace. The coordinator never waits for
    // a device without serving the others, so this cannot be a circle.
    if (this.#send('dmaFault', { iova, write, denied })) this.#faultsSent++;
    else this.#counts.faultsDropped++;
    this.#link.waitFaults(this.#faultsSent, FAULT_WAIT_MS);
    // It waited for the coordinator: that is no time of the model's.
    this.#link.beginTurn();
  }

  #sendViolation(kind: string, detail: string): void {
    const seen = this.#violations.get(kind) ?? 0;
    this.#violations.set(kind, seen + 1);
    if (seen < VIOLATION_LIMIT) this.#send('violation', { kind, detail, repeats: 0 });
  }

  #sendViolationTotals(): void {
    for (const [kind, count] of this.#violations)
      if (count > VIOLATION_LIMIT)
        this.#send('violation', { kind, detail: 'and more of the same', repeats: count - VIOLATION_LIMIT });
  }

  #send<K extends FrameKind>(kind: K, body: FrameBodies[K]): boolean {
    const { process, vm, device } = this.#task;
    const sent = this.#link.fromDevice.push(
      encodeFrame({ timeUs: wallMs() * 1000, process, vm, device }, kind, body),
    );
    if (sent) this.#coordinator.ring(this.#task.coordinatorBit);
    return sent;
  }
}
