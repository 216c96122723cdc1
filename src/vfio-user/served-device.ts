/**
 * A device model behind the protocol: its instance, container, pin table, host memory and interrupts, all in the thread
 * that serves its socket.
 */
import { ftruncateSync, readlinkSync, writeSync } from 'node:fs';
import { drawBytes, nowUs, wallMs } from '#host';
import { REGION_CONFIG } from '../channel/mmio-channel.ts';
import type { BarIndex } from '../device/bar-region.ts';
import { DeviceInstance } from '../device/instance.ts';
import { MigrationStateError } from '../device/migration/migration.ts';
import type { ModelFactory, StepResult } from '../device/model.ts';
import type { SharedRegion } from '../device/served-context.ts';
import type { GpuSlotHandle } from '../gpu/engine-slot.ts';
import { type Hpa, type Iova, PAGE_SIZE } from '../memory/address.ts';
import { PinTableReader } from '../pin-table/reader.ts';
import { PinTableWriter } from '../pin-table/writer.ts';
import type { Completion } from '../platform/completion.ts';
import { StateError } from '../proto/state-codec.ts';
import { encodePng } from '../report/png.ts';
import { Container, type DmaUser } from '../vfio/container.ts';
import { VfioError } from '../vfio/errors.ts';
import type { DmaMapping } from '../vfio/mapping.ts';
import { ClientMemory } from './client-memory.ts';
import type { MigrationPort, ServedRegion, VfioDevice } from './device.ts';
import { DirtyLog } from './dirty-log.ts';
import { DmaSpace, SERVED_MAPS_LIMIT } from './dma-space.ts';
import { GuestWindows } from './guest-windows.ts';
import { type CapabilityLink, irqCounts, msixLink } from './irq-capabilities.ts';
import { EVENT_ONE, IrqSet } from './irqs.ts';
import { closeFile, mapFile, memoryFile, release, reserve, waitWritable } from './linux.ts';
import { MapRecorder } from './map-recorder.ts';
import { REGION_FLAG_READ, REGION_FLAG_WRITE, REGION_INDEX_CONFIG } from './protocol.ts';
import type { FrameSink } from './serve-trace.ts';

/** Nodes of the pin table: room for the most maps, in pages that lie far apart. */
const PIN_TABLE_NODES: number = 2 ** 19 - 4096;
const LEAST_NODES = 4096;
/** Time limit of a model to unpin after each request. It runs in this thread, so it has done so or never will. */
const UNMAP_WAIT_MS = 1;
/** Most violations of which the text is kept. */
const VIOLATIONS_LIMIT = 32;
/** Most logged lines of a device. */
const LINES_LIMIT = 64;
/** Most DMA faults that are passed on to the client's vIOMMU; the others are counted. */
const PROBES_LIMIT = 4096;
/** A model raises no interrupt in these states, and its steps are not due. */
const ABSENT: ServedRegion = { size: 0, flags: 0 };

/** The device as its process knows it. */
interface ServedOptions {
  readonly name: string;
  readonly model: string;
  /** Folder of the captures of its clients' maps, or empty. */
  readonly captures?: string;
  /** False for a device whose clients see no MSI-X capability. */
  readonly msix?: boolean;
  /** A vGPU's slot on a physical GPU. */
  readonly gpu?: GpuSlotHandle | undefined;
  /** Receiver of its frames, if they are traced. */
  readonly trace?: FrameSink | undefined;
}

export class ServedDevice implements VfioDevice, DmaUser {
  readonly name: string;
  readonly slot: number;
  /** Another device may hand it the engine at any time. */
  readonly sharesEngine: boolean;
  readonly dma: DmaSpace;
  readonly irqs: IrqSet;
  readonly client = new ClientMemory();
  readonly log: DirtyLog;
  readonly migration: MigrationPort;
  readonly recorder: MapRecorder | undefined;
  readonly instance: DeviceInstance;
  readonly windows = GuestWindows.reserve();
  readonly container: Container;
  readonly violations: string[] = [];
  violationCount = 0;
  readonly lines: string[] = [];
  /** Why the device no longer works, or empty. */
  broken = '';
  readonly #shared = new Map<string, SharedRegion & { readonly address: bigint }>();
  /** The link to the MSI-X capability, if it is hidden. */
  readonly #hidden: CapabilityLink | undefined;
  /** Count of switches between guest RAM and a vIOMMU. */
  switches = 0;
  readonly #trace: FrameSink | undefined;
  #probes = 0;
  /** Set when a step may find work. */
  #stepDue = true;

  /** Creates the model. @throws whatever its factory throws */
  constructor({ name, model, captures = '', msix = true, gpu, trace }: ServedOptions, factory: ModelFactory) {
    this.name = name;
    this.#trace = trace;
    this.sharesEngine = gpu !== undefined;
    this.recorder = captures === '' ? undefined : new MapRecorder(captures, name);
    const table = allocateTable(this.windows);
    this.slot = table.addReader();
    const reader = new PinTableReader(table.handle, this.slot);
    const backing = { extents: (vaddr: number, size: number) => [{ hpa: vaddr as Hpa, size }] };
    this.container = new Container(table, backing, {
      entryLimit: SERVED_MAPS_LIMIT,
      unmapWaitMs: UNMAP_WAIT_MS,
    });
    this.container.addUser(this);
    this.log = new DirtyLog(this.container, table);
    this.dma = new DmaSpace({
      container: this.container,
      windows: this.windows,
      client: this.client,
      switched: (from, to) => this.#switched(from, to),
      violation: (kind, detail) => this.#violation(kind, detail),
      lookup: (iova) => reader.lookup(iova),
      beforeUnmap: (mappings) => this.#beforeUnmap(mappings),
    });
    this.client.onWritten = (iova, length) => this.log.mark(iova, length);
    this.instance = new DeviceInstance(
      {
        name,
        table: reader,
        memory: this.windows,
        options: { fault: '', gpu },
        modelName: model,
        peers: this.dma,
      },
      {
        fault: (iova, write, denied) => this.#fault(iova, write, denied),
        violation: (kind, detail) => this.#violation(kind, detail),
        interrupt: () => {},
        log: (text) => this.#line(text),
        nowUs,
      },
      (context, options) => {
        const model = factory(
          {
            ...context,
            interrupt: (vector) => this.#raise(vector),
            random: drawBytes,
            served: this.#services(),
          },
          options,
        );
        model.config?.decodeAlways?.();
        return model;
      },
    );
    const config = this.instance.model.config.bytes();
    this.#hidden = msix ? undefined : msixLink(config);
    this.irqs = new IrqSet(irqCounts(config, this.#hidden !== undefined), eventCalls);
    this.migration = migrationPort(this.instance, () => this.#touch());
  }

  /** Microseconds until a step is due; 0 if one is due now. */
  get waitUs(): number {
    return this.#stepDue ? 0 : this.instance.waitUs;
  }

  region(index: number): ServedRegion {
    const { config, bars } = this.instance.model;
    const flags = REGION_FLAG_READ | REGION_FLAG_WRITE;
    if (index === REGION_INDEX_CONFIG) return { size: config.registers.size, flags };
    const bar = bars[index as BarIndex];
    return bar ? { size: bar.size, flags, shared: bar.shared } : ABSENT;
  }

  read(index: number, offset: number, target: Uint8Array): void {
    const region = index === REGION_INDEX_CONFIG ? REGION_CONFIG : index;
    const { length } = target;
    if (this.broken !== '') target.fill(0xff);
    else if (length === 4 || length === 1 || length === 2 || length === 8) {
      const value = this.instance.read(region, offset, length);
      const low = Number(BigInt.asUintN(32, value));
      const high = length === 8 ? Number(value >> 32n) : 0;
      for (let i = 0; i < length; i++) target[i] = ((i < 4 ? low : high) >>> (8 * (i & 3))) & 0xff;
    } else this.instance.readBlock(region, offset, target);
    if (this.#hidden && region === REGION_CONFIG && this.broken === '') {
      const at = this.#hidden.offset - offset;
      if (at >= 0 && at < length) target[at] = this.#hidden.next;
    }
  }

  write(index: number, offset: number, source: Uint8Array): void {
    if (this.broken !== '') return;
    const region = index === REGION_INDEX_CONFIG ? REGION_CONFIG : index;
    const { length } = source;
    if (length === 4 || length === 1 || length === 2 || length === 8) {
      let value = 0n;
      for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(source[i] as number);
      this.instance.write(region, offset, length, value);
    } else this.instance.writeBlock(region, offset, source);
    this.#touch();
  }

  reset(): void {
    if (this.broken !== '') throw new VfioError('EIO', `${this.name} is broken: ${this.broken}`);
    this.client.endStep();
    this.instance.reset();
    this.#touch();
  }

  disconnected(): Completion {
    this.recorder?.end(this.dma.liveMaps);
    this.client.connect(undefined);
    this.client.endStep();
    this.irqs.clear();
    this.log.stop();
    return this.dma.leave();
  }

  /** Does a step of the model. A client's reply, a write or a timer makes the next one due. */
  step(): StepResult {
    if (this.broken !== '') return 'idle';
    const result = this.instance.step();
    this.#stepDue = result === 'more';
    if (result !== 'stalled') this.client.endStep();
    return result;
  }

  /** Returns the displayed picture as a PNG, if there is one. */
  picture(): Uint8Array | undefined {
    if (this.broken !== '') return undefined;
    try {
      const { scanout } = this.instance;
      return scanout && encodePng(scanout);
    } catch (error) {
      this.fail(String(error));
      return undefined;
    }
  }

  /** Makes a step due, because something that the model waits for may have happened. */
  wake(): void {
    this.#stepDue = true;
  }

  dmaUnmap(iova: Iova, size: number): void {
    if (this.broken === '') this.instance.dmaUnmap(iova, size);
  }

  /** Ends the model for a breach of its contract (R7). The device answers with ones from then on. */
  quarantine(kind: string, detail: string): Promise<void> {
    this.#violation(kind, detail);
    this.#break(`${kind}: ${detail}`);
    return Promise.resolve();
  }

  /** Ends the model because its code has thrown. */
  fail(reason: string): void {
    this.#violation('model-failed', reason);
    this.#break(reason);
  }

  /** Closes the model and gives back files, memory and address space. No map may be left. */
  close(): void {
    if (this.broken === '') this.instance.close();
    for (const { fd, bytes, address } of this.#shared.values()) {
      closeFile(fd);
      release(address, bytes.length);
    }
    this.windows.free();
  }

  #break(reason: string): void {
    if (this.broken !== '') return;
    this.broken = reason;
    this.container.releaseUser(this);
    this.irqs.clear();
  }

  #touch(): void {
    this.#stepDue = true;
  }

  #beforeUnmap(mappings: readonly DmaMapping[]): void {
    if (this.instance.dma.heldPins > 0 && this.broken === '')
      for (const { iova, size } of mappings) this.instance.dmaUnmap(iova, size);
    this.log.takeMappings(mappings);
  }

  #raise(vector: number): void {
    if (this.broken === '' && this.instance.running) this.irqs.raise(vector);
  }

  /** Lets the client's vIOMMU meet the same fault, so that the guest finds it in its log. */
  #fault(iova: Iova, write: boolean, denied: boolean): void {
    this.#trace?.('dmaFault', { iova, write, denied });
    if (++this.#probes <= PROBES_LIMIT) this.client.probe(iova);
  }

  #violation(kind: string, detail: string): void {
    if (++this.violationCount > VIOLATIONS_LIMIT) return;
    this.violations.push(`${kind}: ${detail}`);
    this.#trace?.('violation', { kind, detail, repeats: 0 });
  }

  #switched(from: string, to: string): void {
    if (from !== 'blocked' && to !== 'blocked') this.switches++;
    this.#trace?.('addressSpaceSwitch', { from, to, liveMappings: this.dma.liveMaps, tookUs: 0 });
  }

  #line(text: string): void {
    if (this.lines.length < LINES_LIMIT) this.lines.push(text);
  }

  #services() {
    return {
      wallMs,
      dmaRanges: (limit: number) => this.dma.ranges(limit),
      accessByMessage: (isWrite: boolean, iova: Iova, bytes: Uint8Array) =>
        this.client.access(isWrite, iova, bytes),
      sharedMemory: (name: string, bytes: number) => this.#sharedMemory(name, bytes),
    };
  }

  #sharedMemory(name: string, bytes: number): SharedRegion {
    const known = this.#shared.get(name);
    if (known) return known;
    const fd = memoryFile(`${this.name} ${name}`);
    ftruncateSync(fd, bytes);
    const { address, buffer } = reserve(bytes);
    mapFile(address, bytes, fd);
    const region = { bytes: new Uint8Array(buffer), fd, address };
    this.#shared.set(name, region);
    return region;
  }
}

/** Allocates a table, a smaller one if the address space does not allow more. @throws RangeError */
function allocateTable(windows: GuestWindows): PinTableWriter {
  const hostPages = { first: windows.base / PAGE_SIZE, count: windows.size / PAGE_SIZE };
  for (let nodes = PIN_TABLE_NODES; ; nodes >>>= 1)
    try {
      return new PinTableWriter(nodes, { hostPages });
    } catch (error) {
      if (!(error instanceof RangeError) || nodes < LEAST_NODES) throw error;
    }
}

const eventCalls = {
  signal(fd: number): void {
    // A counter that is full would block the thread, and its owner has been told often enough.
    if (waitWritable(fd, 0)) writeSync(fd, EVENT_ONE);
  },
  close: closeFile,
  isEvent: (fd: number) => readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]',
};

/** Returns the migration interface of an instance, with its errors as errnos. */
function migrationPort(instance: DeviceInstance, changed: () => void): MigrationPort {
  const attempt = <T>(work: () => T): T => {
    try {
      return work();
    } catch (error) {
      if (error instanceof MigrationStateError || error instanceof StateError)
        throw new VfioError('EINVAL', error.message);
      throw error;
    }
  };
  return {
    get supported() {
      return instance.model.state !== undefined || instance.model.stream !== undefined;
    },
    get state() {
      return instance.migrationState;
    },
    setState: (state) => {
      attempt(() => instance.setMigrationState(state));
      changed();
    },
    read: (maxBytes) => attempt(() => instance.readData(maxBytes).data),
    write: (bytes) => attempt(() => instance.writeData(bytes)),
  };
}
