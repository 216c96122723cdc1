/**
 * Configuration space of a virtio-iommu (virtio 1.3 section 5.13.4) as a register table.
 */

import * as format from '../../abi/virtio-iommu.ts';
import { RegisterFile } from '../../registers/register-file.ts';

/** Limits of a unit. They determine the configuration space. */
export interface VirtioIommuLimits {
  /** Bytes of the smallest page: a power of two, at least 4096. */
  readonly granule: number;
  /** Width of the IOVAs that a domain translates, 32 to 64 bits. */
  readonly awBits: number;
  /** First and last domain id. */
  readonly domains: readonly [number, number];
  /** Bytes of a PROBE answer's properties. */
  readonly probeSize: number;
}

type ConfigField =
  | 'PAGE_SIZE_MASK'
  | 'INPUT_START'
  | 'INPUT_END'
  | 'DOMAIN_START'
  | 'DOMAIN_END'
  | 'PROBE_SIZE'
  | 'BYPASS'
  | 'RESERVED_LOW'
  | 'RESERVED_HIGH';

export type ConfigFile = RegisterFile<ConfigField>;

/** Returns the 64-bit mask of all page sizes from `granule` up. */
const pageSizeMask = (granule: number): bigint => BigInt.asUintN(64, -BigInt(granule));

/** @throws RangeError for invalid limits */
export function createConfig(limits: VirtioIommuLimits): ConfigFile {
  const { granule, awBits, domains, probeSize } = limits;
  if (!(granule >= 4096 && Number.isInteger(Math.log2(granule))))
    throw new RangeError(`granule ${granule}; accepted: a power of two from 4096`);
  if (!(Number.isInteger(awBits) && awBits >= 32 && awBits <= 64))
    throw new RangeError(`awBits ${awBits}; accepted: 32 to 64`);
  const [first, last] = domains;
  const spec = '5.13.4';
  return new RegisterFile<ConfigField>(format.CONFIG_BYTES, [
    {
      name: 'PAGE_SIZE_MASK',
      offset: format.CONFIG_PAGE_SIZE_MASK,
      size: 8,
      reset: pageSizeMask(granule),
      spec,
    },
    { name: 'INPUT_START', offset: format.CONFIG_INPUT_START, size: 8, spec },
    { name: 'INPUT_END', offset: format.CONFIG_INPUT_END, size: 8, reset: (1n << BigInt(awBits)) - 1n, spec },
    { name: 'DOMAIN_START', offset: format.CONFIG_DOMAIN_START, size: 4, reset: BigInt(first), spec },
    { name: 'DOMAIN_END', offset: format.CONFIG_DOMAIN_END, size: 4, reset: BigInt(last), spec },
    { name: 'PROBE_SIZE', offset: format.CONFIG_PROBE_SIZE, size: 4, reset: BigInt(probeSize), spec },
    { name: 'BYPASS', offset: format.CONFIG_BYPASS, size: 1, rw: 0xffn, spec },
    // Three bytes without a meaning. They keep the value written, as in QEMU.
    { name: 'RESERVED_LOW', offset: format.CONFIG_RESERVED, size: 1, rw: 0xffn, spec },
    { name: 'RESERVED_HIGH', offset: format.CONFIG_RESERVED + 1, size: 2, rw: 0xffffn, spec },
  ]);
}
