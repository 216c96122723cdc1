/**
 * `testdev`: the device that vfio-user's widely used sample client drives from end to end. A time in BAR 0 raises the
 * line interrupt; then the device accesses the client's memory, directly and by messages.
 */
import type { BarRegion } from '../../device/bar-region.ts';
import { DMA_RETRY } from '../../device/dma.ts';
import type { DeviceContext, DeviceModel, ModelStream, StepResult } from '../../device/model.ts';
import { ConfigSpace, type Iova, StateError } from '../../device/sdk/index.ts';
import { COMMAND_BUS_MASTER, COMMAND_IO_SPACE, COMMAND_MEMORY_SPACE } from '../../pci/config-space.ts';

/** BAR 0 has one 64-bit time in seconds since 1970. */
const TIME_BYTES = 8;
/** BAR 1 is memory. Its size is not a power of two, so its register claims the next larger one. */
const TESTDEV_MEMORY_BYTES = 0x3000;
const BAR1_BYTES = 0x4000;
/** The part of BAR 1 that a client may map. */
const MAPPABLE = { offset: 0, size: 0x1000 };
/** After the interrupt the device moves so many blocks of so many bytes, each way. */
const TESTDEV_BLOCKS = 4;
const TESTDEV_BLOCK_BYTES = 1024;
/** The first byte of the blocks: 'A'. */
const FIRST_BYTE = 0x41;
/** The messages follow the interrupt after this time: its client does not expect one before the reply to a command. */
const MESSAGE_DELAY_US = 250_000;
/** The longest time that one timer waits. */
const TIMER_US: number = 3600 * 1e6;

/** A 64-bit time: a write sets it, a read returns the seconds that have passed since. */
class TimeRegion implements BarRegion {
  readonly size = TIME_BYTES;
  readonly #written: (time: bigint) => void;
  readonly #passed: () => bigint;
  readonly #bytes = new DataView(new ArrayBuffer(TIME_BYTES));

  constructor(written: (time: bigint) => void, passed: () => bigint) {
    [this.#written, this.#passed] = [written, passed];
  }

  read(offset: number, size: number): bigint {
    const value = BigInt.asUintN(64, this.#passed());
    return BigInt.asUintN(8 * size, value >> BigInt(8 * offset));
  }

  write(offset: number, size: number, value: bigint): void {
    for (let i = 0; i < size; i++) this.#bytes.setUint8(offset + i, Number((value >> BigInt(8 * i)) & 0xffn));
    this.#written(this.#bytes.getBigInt64(0, true));
  }
}

/** Memory behind BAR 1. */
class MemoryRegion implements BarRegion {
  readonly size: number;
  readonly shared?: NonNullable<BarRegion['shared']>;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array, fd: number | undefined) {
    this.size = bytes.length;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (fd !== undefined) this.shared = { fd, areas: [MAPPABLE] };
  }

  read(offset: number, size: number): bigint {
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.#view.getUint8(offset + i));
    return value;
  }

  write(offset: number, size: number, value: bigint): void {
    for (let i = 0; i < size; i++) this.#view.setUint8(offset + i, Number((value >> BigInt(8 * i)) & 0xffn));
  }

  readBlock(offset: number, target: Uint8Array): void {
    target.set(this.#bytes.subarray(offset, offset + target.length));
  }

  writeBlock(offset: number, source: Uint8Array): void {
    this.#bytes.set(source, offset);
  }
}

export class Testdev implements DeviceModel {
  readonly config = new ConfigSpace({
    vendorId: 0xdead,
    deviceId: 0xbeef,
    subsystemVendorId: 0xcafe,
    subsystemId: 0xbabe,
    revision: 0,
    classCode: 0xff_00_00,
    bar0Bytes: 16,
    barBytes: { 1: BAR1_BYTES },
    msiVectors: 0,
    // Its client knows no command register.
    command: COMMAND_IO_SPACE | COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER,
  });
  readonly bars: DeviceModel['bars'];
  readonly stream: ModelStream;
  readonly #context: DeviceContext;
  readonly #memory: Uint8Array;
  #time = 0n;
  #cancel: () => void = () => {};
  /** Set between the interrupt and the end of the access by messages. */
  #moving = false;

  constructor(context: DeviceContext) {
    this.#context = context;
    const shared = context.served?.sharedMemory('bar1', TESTDEV_MEMORY_BYTES);
    this.#memory = shared?.bytes ?? new Uint8Array(TESTDEV_MEMORY_BYTES);
    this.#memory.fill(0);
    this.bars = {
      0: new TimeRegion(
        (time) => this.#arm(time),
        () => this.#nowSeconds() - this.#time,
      ),
      1: new MemoryRegion(this.#memory, shared?.fd),
    };
    this.stream = new TestdevStream(this.#memory, {
      save: () => this.#time,
      restore: (time) => this.#arm(time),
    });
  }

  step(): StepResult {
    if (!this.#moving) return 'idle';
    if (!this.#moveByMessages()) return 'stalled';
    this.#moving = false;
    return 'idle';
  }

  dmaUnmap(): void {}

  close(): void {
    this.#cancel();
  }

  #nowMs(): number {
    return this.#context.served?.wallMs() ?? this.#context.timers.nowUs() / 1000;
  }

  #nowSeconds(): bigint {
    return BigInt(Math.floor(this.#nowMs() / 1000));
  }

  /** Raises the interrupt at `time`, or at once if it has passed. */
  #arm(time: bigint): void {
    this.#time = time;
    this.#cancel();
    const delayUs = Math.max(0, Number(time) * 1e6 - this.#nowMs() * 1000);
    this.#cancel =
      delayUs > TIMER_US
        ? this.#context.timers.after(TIMER_US, () => this.#arm(time))
        : this.#context.timers.after(delayUs, () => this.#fire());
  }

  #fire(): void {
    this.#context.interrupt(0);
    const [, second] = this.#context.served?.dmaRanges(2) ?? [];
    if (second) this.#moveDirectly(second.iova);
    if (!this.#context.served) return;
    this.#cancel = this.#context.timers.after(MESSAGE_DELAY_US, () => {
      this.#moving = true;
    });
  }

  /** Writes the blocks to the second DMA map and reads them back. */
  #moveDirectly(iova: Iova): void {
    const { dma, metrics } = this.#context;
    for (let i = 0; i < TESTDEV_BLOCKS; i++) dma.write(blockAt(iova, i), blockOf(i));
    for (let i = 0; i < TESTDEV_BLOCKS; i++) {
      const read = new Uint8Array(TESTDEV_BLOCK_BYTES);
      if (dma.read(blockAt(iova, i), read) === DMA_RETRY) continue;
      metrics.add(isBlock(read, i) ? 'blocks moved' : 'blocks broken');
    }
  }

  /** Does the same in the first DMA map by messages. Returns false until the client has answered. */
  #moveByMessages(): boolean {
    const { served, metrics } = this.#context;
    const [first] = served!.dmaRanges(1);
    if (!first) return true;
    let broken = 0;
    for (const isWrite of [true, false])
      for (let i = 0; i < TESTDEV_BLOCKS; i++) {
        const block = isWrite ? blockOf(i) : new Uint8Array(TESTDEV_BLOCK_BYTES);
        const outcome = served!.accessByMessage(isWrite, blockAt(first.iova, i), block);
        if (outcome === 'busy') return false;
        if (outcome === 'refused' || !isBlock(block, i)) broken++;
      }
    metrics.add('blocks moved by messages', 2 * TESTDEV_BLOCKS - broken);
    metrics.add('blocks broken', broken);
    return true;
  }
}

const blockAt = (iova: Iova, index: number): Iova => (iova + index * TESTDEV_BLOCK_BYTES) as Iova;
const blockOf = (index: number): Uint8Array => new Uint8Array(TESTDEV_BLOCK_BYTES).fill(FIRST_BYTE + index);
const isBlock = (bytes: Uint8Array, index: number): boolean =>
  bytes.every((byte) => byte === FIRST_BYTE + index);

/** The stream: BAR 1, and after the stop the time. Each begin starts at its first byte. */
class TestdevStream implements ModelStream {
  readonly #memory: Uint8Array;
  readonly #time: { save(): bigint; restore(time: bigint): void };
  readonly #timeBytes = new DataView(new ArrayBuffer(TIME_BYTES));
  #at = 0;
  #stopped = false;

  constructor(memory: Uint8Array, time: { save(): bigint; restore(time: bigint): void }) {
    this.#memory = memory;
    this.#time = time;
  }

  begin(stopped: boolean): void {
    this.#at = 0;
    this.#stopped = stopped;
  }

  read(maxBytes: number): Uint8Array {
    this.#timeBytes.setBigInt64(0, this.#time.save(), true);
    const time = new Uint8Array(this.#timeBytes.buffer);
    const all = this.#stopped ? Buffer.concat([this.#memory, time]) : this.#memory;
    const part = all.slice(this.#at, this.#at + maxBytes);
    this.#at += part.length;
    return part;
  }

  /** Ignores what a client sends behind the end, as padding. */
  write(bytes: Uint8Array): void {
    const end = TESTDEV_MEMORY_BYTES + TIME_BYTES;
    for (const byte of bytes.subarray(0, Math.max(0, end - this.#at))) {
      if (this.#at < TESTDEV_MEMORY_BYTES) this.#memory[this.#at] = byte;
      else this.#timeBytes.setUint8(this.#at - TESTDEV_MEMORY_BYTES, byte);
      this.#at++;
    }
  }

  finish(): void {
    const end = TESTDEV_MEMORY_BYTES + TIME_BYTES;
    if (this.#at !== end) throw new StateError(`state of testdev: ${this.#at} bytes; accepted: ${end}`);
    this.#at = 0;
    this.#time.restore(this.#timeBytes.getBigInt64(0, true));
  }
}
