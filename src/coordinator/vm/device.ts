/**
 * The coordinator's part of one mediated device: link, container, address space, worker.
 */

import { DeviceLink, DeviceState, RING_CONTROL } from '../../channel/device-link.ts';
import { LOG_LINES_LIMIT } from '../../device/instance.ts';
import { SPINS_LIMIT } from '../../device/spin-detector.ts';
import { type Iova, PAGE_SIZE } from '../../memory/address.ts';
import { BusMemory } from '../../memory/bus-memory.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { requesterId } from '../../pci/config-space.ts';
import type { HostPages } from '../../pin-table/page-log.ts';
import { PinTableWriter } from '../../pin-table/writer.ts';
import { encodeFrame, type FrameHeader, type FrameKind } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { boundedText } from '../../report/text.ts';
import { Container, type DmaUser } from '../../vfio/container.ts';
import { DMA_ENTRY_LIMIT } from '../../vfio/mapping-rules.ts';
import { SpaprContainer } from '../../vfio/spapr-container.ts';
import { DeviceAddressSpace } from '../../viommu/address-space.ts';
import { DEFAULT_MODEL, type DeviceRun } from '../workers/supervisor.ts';
import { ContainerNotifier } from './container-notifier.ts';
import { DeviceControl } from './device-control.ts';
import { StripRecorder } from './strip-recorder.ts';

/** Characters kept of a logged line. The watchdog's lines are longer than a model's. */
const LOGGED_TEXT_LIMIT = 400;

/** The VM's interface for its devices. */
export interface DeviceOwner {
  header(device: number): FrameHeader;
  /** Called with every frame sent to the device. */
  sent(bytes: Uint8Array): void;
  /** Called after the device's address space has been switched. */
  switched(device: VmDevice, what: FrameBodies['addressSpaceSwitch']): void;
  /** Quarantines a device that broke the contract; resolves when its thread has ended. */
  quarantine(device: VmDevice, kind: string, detail: string): Promise<void>;
  /** Ends the VM because of an error of the coordinator. */
  lose(error: unknown): void;
}

/**
 * Pin table nodes per device. A full container fits, wherever its mappings lie: the ends of a mapping take up to two leaf
 * tables and two nodes above them, and 64 GiB more may be mapped as 4 KiB pages. Unused nodes take no memory.
 */
const PIN_TABLE_NODES = 4 * DMA_ENTRY_LIMIT + 2 ** 15;
/** Nodes of the smallest table that a device gets where address space is limited: 2 GiB mapped as 4 KiB pages. */
const LEAST_NODES = 1024;

export class VmDevice implements DmaUser {
  readonly index: number;
  readonly name: string;
  readonly requesterId: number;
  readonly link = new DeviceLink();
  readonly table: PinTableWriter;
  readonly container: Container;
  readonly notifier: ContainerNotifier;
  readonly space: DeviceAddressSpace;
  readonly strip: StripRecorder;
  readonly slot: number;
  /** Requests to its migration interface. */
  readonly control = new DeviceControl(this);
  /** Set when the worker has its task. */
  run: DeviceRun | undefined;
  report: FrameBodies['deviceReport'] | undefined;
  /** Lines logged by the model, and findings of the guest watchdog. */
  readonly logged: FrameBodies['deviceLog'][] = [];
  /** Count of such lines beyond the limit. */
  linesCut = 0;
  /** Why the device failed, or empty. */
  failure = '';
  /** Why it is about to fail, or empty: its host removes it. */
  leaving = '';
  /** Kind of a loss: one that fails the run, one that the script has announced, or one on the VM's last host. */
  loss: 'failure' | 'announced' | 'earlier' = 'failure';
  readonly #owner: DeviceOwner;

  constructor(
    index: number,
    name: string,
    requesterId: number,
    memory: BusMemory,
    owner: DeviceOwner,
    windowed = false,
  ) {
    this.index = index;
    this.name = name;
    this.requesterId = requesterId;
    this.#owner = owner;
    const { host } = memory.ram;
    const hostPages = { first: host.base / PAGE_SIZE, count: host.size / PAGE_SIZE };
    this.table = allocateTable(hostPages);
    this.slot = this.table.addReader();
    this.container = windowed ? new SpaprContainer(this.table, memory) : new Container(this.table, memory);
    this.container.addUser(this);
    this.notifier = new ContainerNotifier(this.container, memory, this.link);
    this.strip = new StripRecorder(
      this.container,
      sizeOf(memory.regions) - sizeOf(memory.ram.regions),
      ({ from, to, tookUs }) =>
        owner.switched(this, {
          from,
          to,
          liveMappings: this.container.liveMappings,
          tookUs: Math.round(tookUs),
        }),
    );
    this.space = new DeviceAddressSpace(requesterId, this.notifier, memory.regions, this.strip);
  }

  get isReady(): boolean {
    return this.link.state === DeviceState.ready;
  }

  get alive(): boolean {
    return this.failure === '' && this.leaving === '' && this.link.state !== DeviceState.stopped;
  }

  dmaUnmap(iova: Iova, size: number): void {
    this.send('dmaUnmap', { iova, size });
  }

  wake(): void {
    this.link.doorbell.ring(RING_CONTROL);
  }

  quarantine(kind: string, detail: string): Promise<void> {
    return this.#owner.quarantine(this, kind, detail);
  }

  /** Ends the device's VM because of an error of the coordinator. */
  lose(error: unknown): void {
    this.#owner.lose(error);
  }

  /** Sends a control frame. Returns false if the ring is full; the caller retries if necessary. */
  send<K extends FrameKind>(kind: K, body: FrameBodies[K]): boolean {
    const bytes = encodeFrame(this.#owner.header(this.index), kind, body);
    const sent = this.link.toDevice.push(bytes);
    if (sent) this.#owner.sent(bytes);
    this.link.doorbell.ring(RING_CONTROL);
    return sent;
  }

  /** Keeps a line for the report, up to the count of lines that a correct device sends. */
  addLog(line: FrameBodies['deviceLog']): void {
    if (this.logged.length > LOG_LINES_LIMIT + SPINS_LIMIT) this.linesCut++;
    else this.logged.push({ ...line, text: boundedText(line.text, LOGGED_TEXT_LIMIT) });
  }

  /** Marks the device as lost on the VM's last host. It has no thread here. */
  arriveLost(reason: string): void {
    this.loss = 'earlier';
    this.fail(reason);
  }

  /** Marks the device as failed and releases its pins; returns their count. The thread must have ended. */
  fail(reason: string): number {
    this.failure = reason;
    this.control.lost(reason);
    const before = this.container.counters.forcedPins;
    this.container.releaseUser(this);
    this.link.mmioServer().close();
    this.link.setState(DeviceState.failed);
    return this.container.counters.forcedPins - before;
  }
}

const sizeOf = (regions: BusMemory['regions']): number => regions.reduce((sum, { size }) => sum + size, 0);

/** Creates the devices of a VM, at the functions 00:01.0, 00:02.0, … @param windowed as of the VM's vIOMMU */
export function createDevices(
  { vm, vgpus, model }: { readonly vm: number; readonly vgpus: number; readonly model: string },
  owner: DeviceOwner & { readonly ram: GuestRam },
  windowed = false,
): VmDevice[] {
  const kind = model === DEFAULT_MODEL ? 'gpu' : 'dev';
  const memory = new BusMemory(owner.ram, vgpus > 1);
  const create = (index: number) =>
    new VmDevice(index, `vm${vm}/${kind}${index}`, requesterId(0, index + 1, 0), memory, owner, windowed);
  return Array.from({ length: vgpus }, (_, index) => create(index));
}

/** Allocates a table; the smallest one if the address space is limited. @throws RangeError */
function allocateTable(hostPages: HostPages): PinTableWriter {
  try {
    const table = new PinTableWriter(PIN_TABLE_NODES, { hostPages });
    // V8 would count a plain buffer as memory of the device's model.
    if (table.handle.wasm) return table;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return new PinTableWriter(LEAST_NODES, { hostPages });
}
