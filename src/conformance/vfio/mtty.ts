/**
 * The kernel's mtty sample driver (samples/vfio-mdev/mtty.c): a PCI serial card with one or two ports.
 */
import { MTTY_PORT_BYTES, mttyIdentity } from '../../abi/mtty.ts';
import { hex } from '../../memory/address.ts';
import { Uart } from '../../models/mtty/uart.ts';
import { ConfigSpace } from '../../pci/config-space.ts';
import { VfioError } from '../../vfio/errors.ts';
import * as api from './device-model.ts';
import { type Eventfd, refuse, SampleDevice, type SetIrqs } from './device-model.ts';

/** Offset of region 1: the upper bits of an offset are the region's index. */
const REGION_OFFSET = 2 ** 40;
/** The driver reports one byte less than the configuration space has. */
const CONFIG_SIZE = 0xff;
/** BARs 0 to 5 are accessible, also those without a port. */
const LAST_BAR = 5;

const INTX = 0;
const MSI = 1;
/** Flags by interrupt index. */
const IRQS: ReadonlyMap<number, number> = new Map([
  [INTX, 7],
  [MSI, 9],
]);

const BAR0 = 0x10;
const BAR1 = 0x14;
const INTERRUPT_LINE = 0x3c;
const ALWAYS_ZERO = [0x18, 0x1c, 0x20];

export class Mtty extends SampleDevice {
  readonly #config: Uint8Array;
  readonly #view: DataView;
  readonly #ports: readonly Uart[];
  /** Count of interrupts. As in the driver, it is 0 until `info` is called. */
  #irqs = 0;
  #irqIndex = -1;
  #eventfd: Eventfd | undefined;
  #masked = false;

  constructor(ports: number) {
    super();
    this.#ports = Array.from({ length: ports }, () => new Uart(() => this.#interrupt()));
    this.#config = new ConfigSpace(mttyIdentity(ports, 0)).bytes();
    this.#view = new DataView(this.#config.buffer);
  }

  override info() {
    this.#irqs = api.IRQ_COUNT;
    return { regions: api.REGION_COUNT, irqs: api.IRQ_COUNT };
  }

  override region(index: number) {
    if (index >= api.REGION_COUNT) refuse(`no region ${index}`);
    const size = index === api.CONFIG_REGION ? CONFIG_SIZE : this.#ports[index] ? MTTY_PORT_BYTES : 0;
    return { flags: api.REGION_READ | api.REGION_WRITE, size, offset: index * REGION_OFFSET };
  }

  override irq(index: number) {
    const flags = IRQS.get(index) ?? refuse(`no interrupt ${index}`);
    return { flags, count: 1 };
  }

  /** Reads in pieces of 4, 2 or 1 bytes, as alignment allows. A port returns one byte per piece. */
  override read(region: number, offset: number, target: Uint8Array): void {
    for (const [at, length] of pieces(offset, target.length))
      if (region === api.CONFIG_REGION) target.set(this.#config.subarray(at, at + length), at - offset);
      else target[at - offset] = this.#port(region)?.read(at) ?? 0;
  }

  override write(region: number, offset: number, source: Uint8Array): void {
    for (const [at, length] of pieces(offset, source.length)) {
      const piece = source.subarray(at - offset, at - offset + length);
      if (region === api.CONFIG_REGION) this.#writeConfig(at, piece);
      else this.#port(region)?.write(at, piece[0]!);
    }
  }

  override setIrqs(set: SetIrqs): void {
    const { flags, index, start, count } = set;
    const known = (flags & ~(api.DATA_MASK | api.ACTION_ALL)) === 0;
    if (index >= api.IRQ_COUNT || !known || start >= this.#irqs || start + count > this.#irqs)
      refuse(`SET_IRQS index ${index} start ${start} count ${count} of ${this.#irqs}`);
    const data = flags & api.DATA_MASK;
    if (data !== api.DATA_NONE && data !== api.DATA_BOOL && data !== api.DATA_EVENTFD)
      refuse(`SET_IRQS data ${hex(data)}`);
    const given = { [api.DATA_NONE]: count, [api.DATA_BOOL]: set.bool, [api.DATA_EVENTFD]: set.eventfd }[
      data
    ];
    if (count > 0 && given === undefined) refuse('SET_IRQS: data is missing');
    const action = flags & api.ACTION_ALL;
    if (action === api.ACTION_TRIGGER && IRQS.has(index)) this.#setTrigger(set, data);
    else {
      // As in the driver, no action or several at once do nothing for an interrupt that it has.
      const masks = action === api.ACTION_MASK || action === api.ACTION_UNMASK;
      if (!IRQS.has(index) || (masks && index !== INTX))
        throw new VfioError('ENOTTY', `interrupt ${index} has no action ${action}`);
      if (masks) this.#setMask(set, data, action === api.ACTION_MASK);
    }
  }

  /** The driver's reset does nothing. */
  override reset(): void {}

  override close(): void {
    this.#disable();
  }

  #port(region: number): Uart | undefined {
    if (region > LAST_BAR) throw new VfioError('EFAULT', `region ${region} cannot be accessed`);
    return this.#ports[region];
  }

  #writeConfig(offset: number, piece: Uint8Array): void {
    if (offset === INTERRUPT_LINE) this.#config[offset] = piece[0]!;
    else if (offset === BAR0 || (offset === BAR1 && this.#ports.length > 1))
      this.#writeBar(offset, Uint8Array.from([...piece, 0, 0, 0]));
    else if (offset === BAR1 || ALWAYS_ZERO.includes(offset)) this.#view.setUint32(offset, 0, true);
  }

  #writeBar(offset: number, bytes: Uint8Array): void {
    const value = new DataView(bytes.buffer).getUint32(0, true);
    const base = value === 0xffff_ffff ? (value & -MTTY_PORT_BYTES) >>> 0 : value;
    this.#view.setUint32(offset, (base | (this.#config[offset]! & 3)) >>> 0, true);
  }

  #setTrigger({ index, start, count, eventfd, bool }: SetIrqs, data: number): void {
    const mine = this.#irqIndex === index;
    if (mine && count === 0 && data === api.DATA_NONE) {
      this.#disable();
      return;
    }
    if (!(mine || this.#irqIndex === -1) || start !== 0 || count !== 1)
      refuse(`interrupt ${this.#irqIndex} is in use, or not exactly one from 0`);
    if (data === api.DATA_EVENTFD) {
      this.#disable();
      if (eventfd === 'none') return;
      if (eventfd === 'bad') throw new VfioError('EBADF', 'not an eventfd');
      this.#eventfd = eventfd;
      this.#irqIndex = index;
    } else if (!mine) refuse(`interrupt ${index} has no eventfd`);
    else if (data === api.DATA_NONE || bool) this.#interrupt();
  }

  #setMask({ start, count, bool }: SetIrqs, data: number, mask: boolean): void {
    if (this.#irqIndex !== INTX || start !== 0 || count !== 1) refuse('INTx is not in use');
    if (data === api.DATA_EVENTFD) throw new VfioError('ENOTTY', 'masking by eventfd');
    if (data === api.DATA_NONE || bool) this.#masked = mask;
  }

  #disable(): void {
    this.#irqIndex = -1;
    this.#eventfd = undefined;
    this.#masked = false;
  }

  /** Signals the interrupt, unless it is a masked INTx. INTx is then masked until it is unmasked. */
  #interrupt(): void {
    if (this.#irqIndex === INTX && this.#masked) return;
    this.#eventfd?.signal();
    if (this.#irqIndex === INTX) this.#masked = true;
  }
}

/** Splits an access as the driver does. */
function pieces(offset: number, length: number): [at: number, length: number][] {
  const parts: [number, number][] = [];
  for (let at = offset; at < offset + length; ) {
    const left = offset + length - at;
    const size = [4, 2].find((candidate) => left >= candidate && at % candidate === 0) ?? 1;
    parts.push([at, size]);
    at += size;
  }
  return parts;
}
