/**
 * Rig for harnesses of device models: a device as in its worker, with mapped memory, and the guest's side of it. One thread
 * calls `serve`, another one everything else.
 */
import { Doorbell, doorbellWords } from '../channel/doorbell.ts';
import { MMIO_CHANNEL_BYTES, MmioPort, MmioServer, REGION_CONFIG } from '../channel/mmio-channel.ts';
import { DeviceInstance } from '../device/instance.ts';
import { type DeviceDefinition, factoryOf } from '../device/sdk/definition.ts';
import { type Hpa, type Iova, PAGE_2M, PAGE_SIZE, PERM_RW } from '../memory/address.ts';
import type { AccessSize } from '../memory/bus-access.ts';
import { HostMemory, HPA_BASE } from '../memory/host-memory.ts';
import { COMMAND_BUS_MASTER, COMMAND_MEMORY_SPACE } from '../pci/config-space.ts';
import { PinTableReader } from '../pin-table/reader.ts';
import { PinTableWriter } from '../pin-table/writer.ts';
import { Container } from '../vfio/container.ts';
import { ensure, ld, st, ViolationError, wordsOf } from './sdk.ts';

/** Pages that are mapped from IOVA 4096 on. */
const PAGES = 2;
const TABLE_NODES = 8;
const OFFSET_COMMAND = 4;
/** Limit of a wait; the model ends none by it. */
const WAIT_MS = 1000;

/** Senders of the device's doorbell. */
const RING_MMIO = 0;
const RING_UNMAP = 1;
const RING_STOP = 2;
const SENDERS = 3;

/** Words of the request to unpin, and of the stop. */
const ASKED = 0;
const ASKED_PAGE = 1;
const ASKED_PAGES = 2;
const STOPPED = 3;

/** Entries served between two steps of the model. */
const SERVED_AT_ONCE = 8;

export class DeviceRig {
  /** The device. Only the thread that calls {@link serve} may use it. */
  readonly device: DeviceInstance;
  readonly memory: HostMemory = HostMemory.allocate(HPA_BASE as Hpa, PAGE_2M);
  readonly #table = new PinTableWriter(TABLE_NODES);
  readonly #container = new Container(
    this.#table,
    { extents: (vaddr, size) => [{ hpa: (HPA_BASE + vaddr) as Hpa, size }] },
    { unmapWaitMs: WAIT_MS },
  );
  readonly #doorbell = new Doorbell(new SharedArrayBuffer(doorbellWords(SENDERS) * 4), 0, SENDERS);
  readonly #words = wordsOf(new SharedArrayBuffer(16));
  readonly #port: MmioPort;
  readonly #server: MmioServer;

  /** Creates the device, with bus mastering on and its first PAGES pages mapped. */
  constructor(definition: DeviceDefinition) {
    const slot = this.#table.addReader();
    const link = new SharedArrayBuffer(MMIO_CHANNEL_BYTES);
    this.#port = new MmioPort(link, 0, () => this.#doorbell.ring(RING_MMIO));
    this.#server = new MmioServer(link, 0);
    this.device = new DeviceInstance(
      {
        name: 'vm0/device0',
        table: new PinTableReader(this.#table.sab, slot),
        memory: this.memory,
        options: { fault: '' },
      },
      {
        // A guest may unmap at any time: a fault alone breaks no rule.
        fault: () => {},
        violation: (kind, detail) => {
          throw new ViolationError(kind, detail);
        },
        interrupt: () => {},
        log: () => {},
        nowUs: () => 0,
      },
      factoryOf(definition),
    );
    this.device.write(REGION_CONFIG, OFFSET_COMMAND, 2, BigInt(COMMAND_BUS_MASTER | COMMAND_MEMORY_SPACE));
    this.#container.addUser({
      name: 'vm0/device0',
      slot,
      dmaUnmap: (iova, size) => this.#ask(iova, size),
      wake: () => this.#doorbell.ring(RING_UNMAP),
      quarantine: async (kind, detail) => ensure(false, 'R7', `${kind}: ${detail}`),
    });
    this.#container.map(PAGE_SIZE as Iova, 0, PAGES * PAGE_SIZE, PERM_RW);
  }

  /** Device thread: serves accesses and requests to unpin, and lets the model work, until {@link stop}. */
  serve(): void {
    for (;;) {
      const sequence = this.#doorbell.sequence;
      this.#doorbell.take(() => {});
      this.#unpinIfAsked();
      const waiting = this.#server.serve(this.device, SERVED_AT_ONCE);
      const result = this.device.step();
      if (waiting || result === 'more') continue;
      if (ld(this.#words, STOPPED, 'rig.stopped') !== 0) return;
      this.#doorbell.wait(sequence, WAIT_MS);
    }
  }

  /** Guest: writes a register. */
  async write(bar: number, offset: number, size: AccessSize, value: bigint): Promise<void> {
    await this.#port.write(bar, offset, size, value);
  }

  /** Guest: reads a register, behind all earlier writes. */
  async read(bar: number, offset: number, size: AccessSize): Promise<bigint> {
    return await this.#port.read(bar, offset, size);
  }

  /** Host: unmaps everything. When it is complete, the device cannot use the pages any more. */
  async unmap(): Promise<void> {
    const unmapped = this.#container.unmapAll();
    if (unmapped) await unmapped;
  }

  /** Lets {@link serve} return when the model has no work. */
  stop(): void {
    st(this.#words, STOPPED, 1, 'rig.stopped');
    this.#doorbell.ring(RING_STOP);
  }

  #ask(iova: number, size: number): void {
    st(this.#words, ASKED_PAGE, iova / PAGE_SIZE, 'rig.asked');
    st(this.#words, ASKED_PAGES, size / PAGE_SIZE, 'rig.asked');
    st(this.#words, ASKED, 1, 'rig.asked');
    this.#doorbell.ring(RING_UNMAP);
  }

  #unpinIfAsked(): void {
    if (ld(this.#words, ASKED, 'rig.asked') === 0) return;
    st(this.#words, ASKED, 0, 'rig.asked');
    const page = ld(this.#words, ASKED_PAGE, 'rig.asked');
    const pages = ld(this.#words, ASKED_PAGES, 'rig.asked');
    this.device.dmaUnmap((page * PAGE_SIZE) as Iova, pages * PAGE_SIZE);
  }
}
