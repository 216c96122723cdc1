/**
 * Device calls of the kernel's sample drivers: information, regions, interrupts.
 */
import { VfioError } from '../../vfio/errors.ts';

interface DeviceInfo {
  readonly regions: number;
  readonly irqs: number;
}
interface RegionInfo {
  readonly flags: number;
  readonly size: number;
  readonly offset: number;
}
interface IrqInfo {
  readonly flags: number;
  readonly count: number;
}

/** VFIO_DEVICE_SET_IRQS. Its data is an eventfd or a bool; both are undefined if the data is missing. */
export interface SetIrqs {
  readonly flags: number;
  readonly index: number;
  readonly start: number;
  readonly count: number;
  /** `none` is the descriptor -1: the interrupt gets no eventfd. */
  readonly eventfd: Eventfd | 'bad' | 'none' | undefined;
  readonly bool: number | undefined;
}

/** Counter of an eventfd. */
export class Eventfd {
  #count = 0;

  signal(): void {
    this.#count++;
  }

  /** Returns the count and resets it to 0. @throws VfioError EAGAIN at 0 */
  read(): number {
    if (this.#count === 0) throw new VfioError('EAGAIN', 'the eventfd was not signalled');
    const count = this.#count;
    this.#count = 0;
    return count;
  }
}

export const REGION_READ = 1;
export const REGION_WRITE = 2;
export const REGION_MMAP = 4;
export const CONFIG_REGION = 7;
export const REGION_COUNT = 9;
export const IRQ_COUNT = 5;
export const DATA_NONE = 1;
export const DATA_BOOL = 2;
export const DATA_EVENTFD = 4;
export const DATA_MASK = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
export const ACTION_MASK = 8;
export const ACTION_UNMASK = 16;
export const ACTION_TRIGGER = 32;
export const ACTION_ALL = ACTION_MASK | ACTION_UNMASK | ACTION_TRIGGER;

export const refuse = (what: string): never => {
  throw new VfioError('EINVAL', what);
};

const missing = (call: string): never => {
  throw new VfioError('ENOTTY', `the driver has no ${call}`);
};

/**
 * Device calls of one driver. This class has no regions and no interrupts, like the recorder's own driver, and refuses
 * every ioctl that such a driver does not have. VFIO's core answers for the region calls of a driver without them. All
 * methods throw VfioError.
 */
export class SampleDevice {
  info(): DeviceInfo {
    return { regions: 0, irqs: 0 };
  }

  region(index: number): RegionInfo {
    return refuse(`no region ${index}`);
  }

  irq(_index: number): IrqInfo {
    return missing('GET_IRQ_INFO');
  }

  /** Reads into `target`. */
  read(region: number, _offset: number, _target: Uint8Array): void {
    refuse(`no region ${region}`);
  }

  write(region: number, _offset: number, _source: Uint8Array): void {
    refuse(`no region ${region}`);
  }

  mmap(region: number, _length: number, _shared: boolean): void {
    refuse(`region ${region} cannot be mapped`);
  }

  setIrqs(_set: SetIrqs): void {
    missing('SET_IRQS');
  }

  reset(): void {
    missing('RESET');
  }

  /** Called when the last file is closed. */
  close(): void {}
}
