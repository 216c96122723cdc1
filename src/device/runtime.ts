/**
 * The main loop of one device in its worker. It serves the doorbell, steps the model and answers the coordinator
 * until it is stopped.
 */
import { getHeapStatistics } from 'node:v8';
import { nowUs, wallMs } from '#host';
import { DEVICE_DATA_BYTES_MAX, DeviceLink, DeviceState } from '../channel/device-link.ts';
import {
  MMIO_RING_ENTRIES,
  type MmioServer,
  type MmioTarget,
  REGION_CONFIG,
} from '../channel/mmio-channel.ts';
import type { PeerOutcome } from '../channel/peer-block.ts';
import { PeerPort } from '../channel/peer-port.ts';
import type { Iova } from '../memory/address.ts';
import { HostMemory, type HostMemoryHandle } from '../memory/host-memory.ts';
import { PinTableReader } from '../pin-table/reader.ts';
import type { PinTableHandle } from '../pin-table/wasm/kernels.ts';
import { decodeFrame, encodeFrame, type Frame, type FrameKind } from '../proto/codec.ts';
import type { FrameBodies } from '../proto/schema.ts';
import { StateError } from '../proto/state-codec.ts';
import { DeviceInstance } from './instance.ts';
import { InterruptBatch } from './interrupt-batch.ts';
import { InterruptPort } from './interrupt-port.ts';
import { MigrationStateError } from './migration/migration.ts';
import { MigrationState } from './migration/states.ts';
import type { DeviceStreamPart } from './migration/stream-writer.ts';
import type { DeviceOptions, ModelFactory, StepResult } from './model.ts';

/** The task of a device worker: shared memory and numbers. */
export interface DeviceTask {
  readonly process: number;
  readonly vm: number;
  readonly device: number;
  readonly name: string;
  /** Name of a built-in model, or the URL of a file and its text. Without the text the file is read. */
  readonly model: string;
  readonly modelSource: string;
  readonly options: DeviceOptions;
  /** The device starts in RESUMING, for a migration stream. */
  readonly resuming?: boolean;
  readonly link: SharedArrayBuffer;
  readonly pinTable: SharedArrayBuffer | PinTableHandle;
  readonly readerSlot: number;
  readonly memory: HostMemoryHandle;
  /** The coordinator's doorbell, and this device's bit in it. */
  readonly coordinatorDoorbell: SharedArrayBuffer;
  readonly coordinatorSenders: number;
  readonly coordinatorBit: number;
  /** Links of the VM's devices by number, this one's too; absent if it cannot reach others. */
  readonly peers?: readonly SharedArrayBuffer[] | undefined;
}

/** The coordinator's doorbell, as far as a device uses it. */
interface DoorbellRinger {
  ring(sender: number): void;
}

/** Most MMIO entries, and most frames, served between two steps. */
const BURST = 64;
/** A sleeping device wakes up at this interval even if its doorbell is silent. */
const IDLE_WAIT_MS = 1000;
/** Interval at which a stalled device retries during a switch of the address space. */
const STALL_WAIT_MS = 5;
/** Longest wait of a device for the record of its fault. */
const FAULT_WAIT_MS = 5000;
/** Most answers kept while the ring to the coordinator is full. Beyond them, requests wait in their ring. */
const ANSWERS_LIMIT = 16;
/** Interval at which a device retries to send them, because no doorbell reports room in the ring. */
const ANSWER_WAIT_MS = 1;
/** Most violations of a kind that are sent one by one; the others are only counted. */
const VIOLATION_LIMIT = 8;

/** Interval at which a busy device checks its model's memory. A check costs about 2 µs. */
const MEMORY_CHECK_US = 10_000;
/** Most bytes of buffers that one device may hold outside V8's heap, which has its own limit. */
export const BUFFER_BYTES_LIMIT: number = 192 * 2 ** 20;

/** Thrown in a device's thread when its model holds more buffers than allowed. */
class DeviceMemoryError extends Error {
  override name = 'DeviceMemoryError';
}

export class DeviceRuntime {
  readonly #task: DeviceTask;
  readonly #link: DeviceLink;
  readonly #mmio: MmioServer;
  readonly #coordinator: DoorbellRinger;
  readonly #device: DeviceInstance;
  readonly #interrupts: InterruptBatch;
  /** True during the model's step, whose interrupts may wait for those of the next one. */
  #stepping = false;
  /** Absent if the device cannot reach others. */
  readonly #peers: PeerPort | undefined;
  /** Target of the guest's accesses. */
  readonly #target: MmioTarget;
  readonly #counts = { stalls: 0, interrupts: 0, faultsDropped: 0 };
  readonly #violations = new Map<string, number>();
  /** Encoded answers that found the ring full, in order. */
  readonly #answers: Uint8Array[] = [];
  #stopping = false;
  #memoryCheckedUs = 0;
  #faultsSent = 0;

  constructor(task: DeviceTask, coordinator: DoorbellRinger, factory: ModelFactory) {
    this.#task = task;
    this.#link = new DeviceLink(task.link);
    this.#mmio = this.#link.mmioServer();
    this.#coordinator = coordinator;
    const port = new InterruptPort(this.#link, {
      messageOf: (vector) => this.#device.model.config.messageOf(vector),
      ringCoordinator: () => this.#coordinator.ring(task.coordinatorBit),
    });
    this.#interrupts = new InterruptBatch(port, nowUs);
    this.#peers = task.peers && new PeerPort(task.device, task.peers);
    this.#device = new DeviceInstance(
      {
        name: task.name,
        table: new PinTableReader(task.pinTable, task.readerSlot),
        memory: new HostMemory(task.memory),
        options: task.options,
        modelName: task.model,
        resuming: task.resuming === true,
        peers: this.#peers && { access: (...request) => this.#accessPeer(...request) },
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
    this.#target = this.#targetOf(this.#device);
    this.#publishBars();
  }

  /** Runs until the coordinator stops the device. `threadId` lets the supervisor find this thread. */
  run(threadId: number): void {
    // The state first: the receiver of the message must find the device ready.
    this.#link.setState(DeviceState.ready);
    this.#send('deviceReady', { threadId, model: this.#task.model });
    while (!this.#stopping) this.turn(IDLE_WAIT_MS);
    this.#publishUse();
    this.#device.close();
    const report = { ...this.#device.report(), ...this.#counts };
    this.#sendViolationTotals();
    this.#send('deviceReport', report);
    this.#link.setState(DeviceState.stopped);
  }

  /** Runs one turn: serves the doorbell, does one step, and waits at most `idleMs` if there was nothing to do. */
  turn(idleMs: number): void {
    const sequence = this.#link.doorbell.sequence;
    this.#link.beginTurn();
    if (this.#link.doorbell.take(() => {}) > 0) this.#interrupts.deliver();
    this.#sendAnswers();
    // While the device does not run, accesses wait in the ring.
    const ran = this.#device.running;
    const servedPeers = ran && this.#peers?.serve(this.#device);
    const moreMmio = ran && this.#mmio.serve(this.#target, BURST);
    const moreControl = this.#serveControl();
    const result = this.#step();
    this.#checkMemory();
    if (result !== 'more' || this.#interrupts.isDue) this.#interrupts.deliver();
    if (result === 'more' || servedPeers || moreMmio || moreControl || ran !== this.#device.running) return;
    if (result === 'stalled') this.#counts.stalls++;
    this.#link.endTurn();
    this.#link.doorbell.wait(sequence, Math.min(this.#waitMs(result), idleMs, this.#device.waitUs / 1000));
  }

  #step(): StepResult {
    if (this.#stopping) return 'more';
    this.#stepping = true;
    try {
      return this.#device.step();
    } finally {
      this.#stepping = false;
    }
  }

  /** Returns the device as a target of the guest's accesses, after which its BARs may have moved. */
  #targetOf(device: DeviceInstance): MmioTarget {
    return {
      read: (region, offset, size) => {
        this.#interrupts.deliver();
        return device.read(region, offset, size);
      },
      write: (region, offset, size, value) => {
        device.write(region, offset, size, value);
        if (region === REGION_CONFIG) this.#publishBars();
      },
      readBlock: (region, offset, bytes) => {
        this.#interrupts.deliver();
        device.readBlock(region, offset, bytes);
      },
      writeBlock: (region, offset, bytes) => {
        device.writeBlock(region, offset, bytes);
        if (region === REGION_CONFIG) this.#publishBars();
      },
    };
  }

  /** Publishes where the BARs answer now, before a later access of the guest is answered. */
  #publishBars(): void {
    if (!this.#peers) return;
    for (const [bar, { address = 0, size }] of this.#device.decodedBars.entries())
      this.#peers.own.setBar(bar, address < 2 ** 32 ? address : 0, size);
  }

  #accessPeer(isWrite: boolean, address: number, bytes: Uint8Array): PeerOutcome {
    this.#interrupts.deliver();
    const outcome = this.#peers?.access(isWrite, address, bytes) ?? 'refused';
    // The wait for the other device does not count as the model's time.
    this.#link.beginTurn();
    return outcome;
  }

  #waitMs(result: StepResult): number {
    if (this.#answers.length > 0) return ANSWER_WAIT_MS;
    return result === 'stalled' ? STALL_WAIT_MS : IDLE_WAIT_MS;
  }

  /** V8 limits a worker's heap, but not the buffers that it references. @throws DeviceMemoryError */
  #checkMemory(): void {
    const now = nowUs();
    if (now - this.#memoryCheckedUs < MEMORY_CHECK_US) return;
    this.#memoryCheckedUs = now;
    // Declared memories have their own size limit.
    const { memoryBytes } = this.#device;
    this.#link.setMemoryBytes(memoryBytes);
    this.#publishUse();
    const bytes = getHeapStatistics().external_memory - memoryBytes;
    if (bytes > BUFFER_BYTES_LIMIT)
      throw new DeviceMemoryError(
        `holds ${Math.ceil(bytes / 2 ** 20)} MiB of buffers; accepted: up to ${BUFFER_BYTES_LIMIT / 2 ** 20} MiB`,
      );
  }

  #publishUse(): void {
    const { hits = 0, misses = 0 } = this.#device.model.translations ?? {};
    this.#link.setUse({ pinnedPages: this.#device.dma.pinnedPages, hits, misses });
  }

  /** Serves at most BURST frames. Returns true if more may be waiting. */
  #serveControl(): boolean {
    for (let served = 0; served < BURST; served++) {
      if (this.#answers.length >= ANSWERS_LIMIT) return false;
      const bytes = this.#link.toDevice.shift();
      if (!bytes) return false;
      this.#serveFrame(decodeFrame(bytes));
    }
    return true;
  }

  #serveFrame(frame: Frame): void {
    if (frame.kind === 'deviceStop') this.#stopping = true;
    else if (frame.kind === 'dmaUnmap') {
      const { iova, size } = frame.body;
      const released = this.#device.dmaUnmap(iova as Iova, size);
      this.#send('dmaUnmapDone', { iova, size, released });
    } else if (frame.kind === 'deviceStateSet') this.#enterState(frame.body.state);
    else if (frame.kind === 'deviceDataRead') this.#readData(frame.body.maxBytes);
    else if (frame.kind === 'deviceDataWrite') this.#writeData(frame.body.data);
    else if (frame.kind === 'deviceReset') this.#reset();
  }

  /** Resets the function for its next guest. The guest has gone: it posts nothing, and nothing of it may still arrive. */
  #reset(): void {
    this.#mmio.discard();
    this.#device.reset();
    this.#publishBars();
    this.#answer('deviceResetDone', {});
  }

  /** Enters a migration state. Writes are posted, so those that the guest made before it stopped are served first. */
  #enterState(state: number): void {
    const runs = state === MigrationState.RUNNING || state === MigrationState.PRE_COPY;
    if (this.#device.running && !runs) this.#mmio.serve(this.#target, MMIO_RING_ENTRIES);
    const error = errorOf(() => this.#device.setMigrationState(state));
    this.#publishBars();
    this.#answer('deviceStateChanged', { state: this.#device.migrationState, error });
  }

  #readData(maxBytes: number): void {
    let part: DeviceStreamPart = { data: NO_BYTES, end: false, initialBytes: 0, dirtyBytes: 0 };
    const error = errorOf(() => {
      part = this.#device.readData(Math.min(maxBytes, DEVICE_DATA_BYTES_MAX));
    });
    this.#answer('deviceData', { ...part, error });
  }

  #writeData(data: Uint8Array): void {
    this.#answer('deviceDataWritten', { error: errorOf(() => this.#device.writeData(data)) });
  }

  #interrupt(vector: number): void {
    this.#counts.interrupts++;
    this.#interrupts.add(vector);
    if (!this.#stepping) this.#interrupts.deliver();
  }

  #sendFault(iova: Iova, write: boolean, denied: boolean): void {
    // The wait keeps a device that faults endlessly at the coordinator's pace. This cannot deadlock: while the
    // coordinator waits for one device, it keeps serving the others.
    if (this.#send('dmaFault', { iova, write, denied })) this.#faultsSent++;
    else this.#counts.faultsDropped++;
    this.#link.waitFaults(this.#faultsSent, FAULT_WAIT_MS);
    // The wait for the coordinator does not count as the model's time.
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
    return this.#push(this.#encode(kind, body));
  }

  /** Sends an answer that the coordinator waits for, now or when there is room. */
  #answer<K extends FrameKind>(kind: K, body: FrameBodies[K]): void {
    this.#answers.push(this.#encode(kind, body));
    this.#sendAnswers();
  }

  #sendAnswers(): void {
    while (this.#answers.length > 0 && this.#push(this.#answers[0]!)) this.#answers.shift();
  }

  #encode<K extends FrameKind>(kind: K, body: FrameBodies[K]): Uint8Array {
    const { process, vm, device } = this.#task;
    return encodeFrame({ timeUs: wallMs() * 1000, process, vm, device }, kind, body);
  }

  #push(frame: Uint8Array): boolean {
    this.#interrupts.deliver();
    const sent = this.#link.fromDevice.push(frame);
    if (sent) this.#coordinator.ring(this.#task.coordinatorBit);
    return sent;
  }
}

const NO_BYTES = new Uint8Array();

/**
 * Runs `work` and returns the message of its state error; empty if it did not fail. Errors of the model's code are not
 * caught.
 */
function errorOf(work: () => void): string {
  try {
    work();
    return '';
  } catch (error) {
    if (error instanceof StateError || error instanceof MigrationStateError) return error.message;
    throw error;
  }
}
