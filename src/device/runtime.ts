/**
 * The life of one device in its worker: serve the doorbell, step the model, answer the coordinator, until stopped.
 */
import { wallMs } from '#host';
import type { Iova } from '../address/address.ts';
import { decodeFrame, encodeFrame, type FrameKind } from '../channel/codec.ts';
import { DeviceLink, DeviceState } from '../channel/device-link.ts';
import { type AccessSize, type MmioServer, REGION_BAR0, REGION_CONFIG } from '../channel/mmio-channel.ts';
import type { FrameBodies } from '../channel/schema.ts';
import { HostMemory, type HostMemoryHandle } from '../host/host-memory.ts';
import type { RegisterFile } from '../pci/registers.ts';
import type { PinTableHandle } from '../pin-table/kernels.ts';
import { PinTableReader } from '../pin-table/reader.ts';
import { DeviceDma } from './dma.ts';
import type { DeviceContext, DeviceModel, DeviceOptions, ModelFactory } from './model.ts';

/** Everything a device worker is given: shared memory and numbers. */
export interface DeviceTask {
  readonly process: number;
  readonly vm: number;
  readonly device: number;
  readonly name: string;
  readonly model: string;
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

export class DeviceRuntime {
  readonly #task: DeviceTask;
  readonly #link: DeviceLink;
  readonly #mmio: MmioServer;
  readonly #coordinator: Ringer;
  readonly #dma: DeviceDma;
  readonly #model: DeviceModel;
  readonly #counts = { stalls: 0, interrupts: 0, faultsDropped: 0 };
  readonly #violations = new Map<string, number>();
  #stopping = false;
  #faultsSent = 0;

  constructor(task: DeviceTask, coordinator: Ringer, factory: ModelFactory) {
    this.#task = task;
    this.#link = new DeviceLink(task.link);
    this.#mmio = this.#link.mmioServer();
    this.#coordinator = coordinator;
    this.#dma = new DeviceDma(
      new PinTableReader(task.pinTable, task.readerSlot),
      new HostMemory(task.memory),
      {
        fault: (iova, write, denied) => this.#sendFault(iova, write, denied),
        violation: (kind, detail) => this.#sendViolation(kind, detail),
      },
    );
    const context: DeviceContext = {
      name: task.name,
      dma: this.#dma,
      interrupt: (vector) => this.#interrupt(vector),
    };
    this.#model = factory(context, task.options);
  }

  /** Runs until the coordinator says stop. `threadId` lets the supervisor find this thread. */
  run(threadId: number): void {
    // The state first: who has heard that the device is ready must find it so.
    this.#link.setState(DeviceState.ready);
    this.#send('deviceReady', { threadId, model: this.#task.model });
    while (!this.#stopping) this.turn(IDLE_WAIT_MS);
    this.#model.close();
    this.#sendViolationTotals();
    this.#send('deviceReport', this.#report());
    this.#link.setState(DeviceState.stopped);
  }

  /** One turn: what was rung for, one step, and a wait of at most `idleMs` if there was nothing to do. */
  turn(idleMs: number): void {
    const sequence = this.#link.doorbell.sequence;
    this.#link.doorbell.take(() => {});
    const moreMmio = this.#mmio.serve(this.#target, BURST);
    const moreControl = this.#serveControl();
    const result = this.#stopping ? 'more' : this.#model.step();
    if (result === 'more' || moreMmio || moreControl) return;
    if (result === 'stalled') this.#counts.stalls++;
    this.#link.doorbell.wait(sequence, result === 'stalled' ? Math.min(STALL_WAIT_MS, idleMs) : idleMs);
  }

  readonly #target = {
    read: (region: number, offset: number, size: AccessSize): bigint =>
      this.#registers(region)?.read(offset, size) ?? (1n << BigInt(8 * size)) - 1n,
    write: (region: number, offset: number, size: AccessSize, value: bigint): void =>
      this.#registers(region)?.write(offset, size, value),
  };

  #registers(region: number): RegisterFile<string> | undefined {
    if (region === REGION_CONFIG) return this.#model.config.registers;
    // A BAR answers only while memory space is enabled; else nobody claims the access.
    return region === REGION_BAR0 && this.#model.config.memorySpace ? this.#model.bar0 : undefined;
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
        const before = this.#dma.counters.unpins;
        this.#model.dmaUnmap(iova as Iova, size);
        this.#send('dmaUnmapDone', { iova, size, released: this.#dma.counters.unpins - before });
      }
    }
    return true;
  }

  #interrupt(vector: number): void {
    if (!this.#model.config.msiEnabled) return;
    this.#counts.interrupts++;
    this.#link.interrupt(vector);
  }

  #sendFault(iova: Iova, write: boolean, denied: boolean): void {
    // Waiting also keeps a device that faults without end at the coordinator's pace. The coordinator never waits for
    // a device without serving the others, so this cannot be a circle.
    if (this.#send('dmaFault', { iova, write, denied })) this.#faultsSent++;
    else this.#counts.faultsDropped++;
    this.#link.waitFaults(this.#faultsSent, FAULT_WAIT_MS);
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

  #report(): FrameBodies['deviceReport'] {
    const unimplemented = [...this.#model.bar0.unimplemented].map(([offset, count]) => ({ offset, count }));
    return { ...this.#model.counters, ...this.#dma.counters, ...this.#counts, unimplemented };
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
