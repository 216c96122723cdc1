/**
 * Declarations of parent devices, their types and attributes.
 */
import type { Errno } from '../platform/errno.ts';

/** A file that a driver adds to each of its instances. */
export interface AttributeSpec {
  /** Path below the instance's directory, such as `vendor/resolution`. */
  readonly path: string;
  /** Returns the initial value, without the newline that a read adds. */
  initial(uuid: string): string;
  /** Converts the written text to the new value. Left out for a read-only file. @throws MdevError */
  store?(text: string): string;
}

/** A type of instances, as in `mdev_supported_types/<id>/`. */
export interface TypeSpec {
  readonly id: string;
  /** Content of the file `name`. */
  readonly name: string;
  /** Content of the file `description`; left out if there is no description. */
  readonly description?: string;
  /** `vfio-pci`, `vfio-ccw`, `vfio-ap`, … */
  readonly deviceApi: string;
  /** Units of the parent's capacity that an instance takes; by default 1. */
  readonly share?: number;
  /** Error with which the driver refuses every instance; left out if it accepts them. */
  readonly probeErrno?: Errno;
  readonly attributes?: readonly AttributeSpec[];
}

/**
 * A parent's limit on its instances.
 *
 * - `instances`: the mdev core counts instances of all types (`max_instances`). Beyond the limit it returns EUSERS. An
 *   instance counts until it is removed.
 * - `units`: the driver counts units such as ports or MiB (`get_available`). For an instance that does not fit it returns
 *   ENOSPC. The units are free when the driver is detached, even if the device stays.
 */
interface CapacitySpec {
  readonly kind: 'instances' | 'units';
  readonly total: number;
}

/** Identity of a PCI device, as its files show it. */
export interface PciSpec {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
  readonly revision: number;
  readonly classCode: number;
  /** The PCI driver's name in `/sys/bus/pci/drivers/`. */
  readonly driver: string;
  readonly numaNode: number;
  /** Device ID of the virtual functions; by default `deviceId`. */
  readonly vfDeviceId?: number;
}

/** A parent device. */
export interface ParentSpec {
  /** Its name in `/sys/class/mdev_bus/`. */
  readonly name: string;
  /** The mdev driver's name in `/sys/bus/mdev/drivers/`. */
  readonly driver: string;
  /** The device's directory below `/sys/devices/`. */
  readonly device: string;
  /** `/sys/class/NAME` or `/sys/bus/NAME`. */
  readonly subsystem: string;
  readonly capacity: CapacitySpec;
  readonly types: readonly TypeSpec[];
  /** Of a parent on the PCI bus. */
  readonly pci?: PciSpec;
  /**
   * SR-IOV virtual functions, for a parent without mdev. Their directories are beside `device`, and each gets a type
   * through `nvidia/current_vgpu_type`. Type ids must then be numbers.
   */
  readonly virtualFunctions?: readonly string[];
}
