/**
 * An educational DMA device modelled on QEMU's `edu`: identification, a liveness register, a factorial, and a DMA
 * engine between guest memory and its own buffer. docs/writing-a-device.md walks through this file.
 */
import {
  type DefinedContext,
  type DeviceBehaviour,
  type DeviceDefinition,
  DMA_OK,
  DMA_RETRY,
  defineDevice,
  type Iova,
  type ModelState,
  type RegisterSpec,
  type StepResult,
} from '../../device/sdk/index.ts';

const ALL32 = 0xffff_ffffn;
const ALL64 = 0xffff_ffff_ffff_ffffn;

const STATUS_COMPUTING = 0x01;
const STATUS_INTERRUPT = 0x80;
const INTERRUPT_FACTORIAL = 0x001;
const INTERRUPT_DMA = 0x100;
const INTERRUPT_DMA_FAULT = 0x200;
const COMMAND_START = 1;
const COMMAND_FROM_BUFFER = 2;
const COMMAND_INTERRUPT = 4;

/** The device's buffer, and its address in the DMA registers. */
export const BUFFER_BASE = 0x4_0000;
export const BUFFER_BYTES = 4096;
/** Duration of a factorial. */
const FACTORIAL_US = 10;

const REGISTERS: readonly RegisterSpec[] = [
  { name: 'Id', offset: 0x00, size: 4, reset: 0x0100_00edn },
  { name: 'Liveness', offset: 0x04, size: 4, rw: ALL32 },
  { name: 'Factorial', offset: 0x08, size: 4, rw: ALL32 },
  { name: 'Status', offset: 0x20, size: 4, rw: 0x80n },
  { name: 'InterruptStatus', offset: 0x24, size: 4 },
  { name: 'InterruptRaise', offset: 0x60, size: 4, rw: ALL32 },
  { name: 'InterruptAcknowledge', offset: 0x64, size: 4, rw: ALL32 },
  { name: 'DmaSource', offset: 0x80, size: 8, rw: ALL64 },
  { name: 'DmaDestination', offset: 0x88, size: 8, rw: ALL64 },
  { name: 'DmaCount', offset: 0x90, size: 8, rw: ALL64 },
  { name: 'DmaCommand', offset: 0x98, size: 4, rw: 0x7n },
];

class Edu implements DeviceBehaviour {
  readonly #context: DefinedContext;
  readonly #registers;
  readonly #buffer = new Uint8Array(BUFFER_BYTES);
  /** Time when the running factorial ends. */
  #doneUs = 0;
  /** Number whose factorial is computed. */
  #operand = 0n;

  /** The clock of another host differs, so the remaining time is saved. Registers are migrated without help. */
  readonly state: ModelState = {
    version: 1,
    save: () => ({
      buffer: this.#buffer,
      factorialUs: Math.max(0, this.#doneUs - this.#context.timers.nowUs()),
    }),
    restore: (saved) => {
      this.#buffer.set(saved.bytes('buffer', BUFFER_BYTES));
      if (this.#registers.get32('Status') & STATUS_COMPUTING) this.#finishIn(saved.number('factorialUs'));
    },
  };

  constructor(context: DefinedContext) {
    this.#context = context;
    this.#registers = context.bar(0);
    this.#registers.onWrite('Liveness', (value) => this.#registers.set('Liveness', ~value & ALL32));
    this.#registers.onWrite('Factorial', () => this.#startFactorial());
    this.#registers.onWrite('InterruptRaise', (value) => this.#raise(Number(value)));
    this.#registers.onWrite('InterruptAcknowledge', (value) => {
      const left = this.#registers.get('InterruptStatus') & ~value;
      this.#registers.set('InterruptStatus', left);
    });
  }

  /** Called after register writes, and again while it returns 'more' or 'stalled'. */
  step(): StepResult {
    const command = this.#registers.get32('DmaCommand');
    if ((command & COMMAND_START) === 0 || !this.#context.config.busMaster) return 'idle';
    const status = this.#transfer((command & COMMAND_FROM_BUFFER) !== 0);
    if (status === DMA_RETRY) return 'stalled'; // the address space is being switched: retry later
    this.#registers.set('DmaCommand', BigInt(command & ~COMMAND_START));
    this.#context.metrics.add(status === DMA_OK ? 'transfers' : 'failed transfers');
    if (status !== DMA_OK) this.#raise(INTERRUPT_DMA_FAULT);
    else if (command & COMMAND_INTERRUPT) this.#raise(INTERRUPT_DMA);
    return 'idle';
  }

  #transfer(fromBuffer: boolean): number {
    const count = Number(this.#registers.get('DmaCount'));
    const source = Number(this.#registers.get('DmaSource'));
    const destination = Number(this.#registers.get('DmaDestination'));
    const at = (fromBuffer ? source : destination) - BUFFER_BASE;
    if (at < 0 || at + count > BUFFER_BYTES) {
      this.#context.log(`transfer of ${count} bytes at ${at} of a buffer of ${BUFFER_BYTES}`);
      return -1;
    }
    const piece = this.#buffer.subarray(at, at + count);
    this.#context.metrics.add('bytes moved', count);
    if (fromBuffer) return this.#context.dma.write(destination as Iova, piece);
    return this.#context.dma.read(source as Iova, piece);
  }

  #startFactorial(): void {
    const status = this.#registers.get32('Status');
    if (status & STATUS_COMPUTING) {
      this.#registers.set('Factorial', this.#operand); // as QEMU, which ignores the write
      return;
    }
    this.#registers.set('Status', BigInt(status | STATUS_COMPUTING));
    this.#finishIn(FACTORIAL_US);
  }

  #finishIn(delayUs: number): void {
    this.#doneUs = this.#context.timers.nowUs() + delayUs;
    this.#operand = this.#registers.get('Factorial');
    this.#context.timers.after(delayUs, () => {
      let result = 1;
      // Modulo 2^32, 34! and all larger factorials are 0, so a guest cannot make the loop longer than that.
      for (let n = this.#registers.get32('Factorial'); n > 1 && result !== 0; n--)
        result = Math.imul(result, n);
      this.#registers.set('Factorial', BigInt(result >>> 0));
      const after = this.#registers.get32('Status') & ~STATUS_COMPUTING;
      this.#registers.set('Status', BigInt(after));
      if (after & STATUS_INTERRUPT) this.#raise(INTERRUPT_FACTORIAL);
    });
  }

  #raise(bits: number): void {
    this.#registers.set('InterruptStatus', this.#registers.get('InterruptStatus') | BigInt(bits));
    this.#context.interrupt(0);
  }
}

const edu: DeviceDefinition = defineDevice({
  identity: {
    vendorId: 0x1234,
    deviceId: 0x11e8,
    subsystemVendorId: 0x1234,
    subsystemId: 0x0002,
    revision: 0x10,
    classCode: 0x00_ff_00,
  },
  bars: { 0: { bytes: 0x1000, registers: REGISTERS } },
  create: (context) => new Edu(context),
});
export default edu;
