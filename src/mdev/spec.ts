/**
 * What a parent device, its types and their attributes are declared as.
 */
import type { Errno } from '../platform/errno.ts';

/** A file that a driver adds to each of its instances. */
export interface AttributeSpec {
  /** Below the instance's directory, such as `vendor/resolution`. */
  readonly path: string;
  /** What it holds at first, without the newline that a read adds. */
  initial(uuid: string): string;
  /** Given: writable; takes the text written and gives the new value. @throws MdevError */
  store?(text: string): string;
}

/** A type of instances, as `mdev_supported_types/<id>/` shows it. */
export interface TypeSpec {
  readonly id: string;
  /** As `name` says. */
  readonly name: string;
  /** Left out: there is no `description` file. */
  readonly description?: string;
  /** `vfio-pci`, `vfio-ccw`, `vfio-ap`, … */
  readonly deviceApi: string;
  /** Units of the parent's capacity that an instance takes; 1 when left out. */
  readonly share?: number;
  /** Given: the driver refuses every instance with it. */
  readonly probeErrno?: Errno;
  readonly attributes?: readonly AttributeSpec[];
}

/**
 * How a parent limits its instances.
 *
 * - `instances`: the mdev core counts, over all types (`max_instances`); one more is EUSERS; an instance counts until
 *   it is gone.
 * - `units`: the driver counts units of its own, such as ports or MiB (`get_available`); an instance that does not fit
 *   is ENOSPC; units come back when the driver lets go, even if the device stays.
 */
interface CapacitySpec {
  readonly kind: 'instances' | 'units';
  readonly total: number;
}

/** A device that instances are made of. */
export interface ParentSpec {
  /** As `/sys/class/mdev_bus/` lists it. */
  readonly name: string;
  /** The mdev driver's name, under `/sys/bus/mdev/drivers/`. */
  readonly driver: string;
  /** The device's directory, under `/sys/devices/`. */
  readonly device: string;
  /** `/sys/class/NAME` or `/sys/bus/NAME`. */
  readonly subsystem: string;
  readonly capacity: CapacitySpec;
  readonly types: readonly TypeSpec[];
  /** What the device's `uevent` holds; empty when left out. */
  readonly uevent?: string;
  /** Read-only files of the device's own directory: name → content without the newline. */
  readonly files?: Readonly<Record<string, string>>;
  /**
   * Given: the newer style. No mdev at all; each of these SR-IOV virtual functions (directories beside `device`) is
   * given a type through `nvidia/current_vgpu_type`. Type ids are then numbers.
   */
  readonly virtualFunctions?: readonly string[];
}
