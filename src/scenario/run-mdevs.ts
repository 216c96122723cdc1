/**
 * A run's mediated devices: the registry of its host, the instances that its VMs are given, and who holds which open.
 *
 * One registry for all host processes of a run, in the process that started them: they are one host to sysfs.
 */

import { resolve } from 'node:path';
import { Prng } from '#host';
import { runHost, SOFTWARE_GPU, SOFTWARE_GPU_TYPE } from '../coordinator/default-host.ts';
import {
  type Definition,
  DefinitionError,
  definitionsOf,
  readDefinitions,
  startDefinition,
} from '../mdev/definitions.ts';
import { MdevError, type MdevInstance, type MdevRegistry } from '../mdev/registry.ts';
import { hexDigits } from '../memory/address.ts';
import type { FrameBodies } from '../proto/schema.ts';
import { ScenarioError, type ScenarioSettings, VGPUS_LIMIT } from './scenario.ts';

/** Instances of the run's own parent beyond what its VMs are given: for those who make some while it lives. */
export const SPARE_INSTANCES = 16;
/** Keeps the UUIDs' random numbers apart from those of the VMs. */
const UUID_STREAM = 0x6d64_6576;

/** Who holds a device: a VM, and the place on its bus. */
interface MdevHolder {
  readonly vm: number;
  readonly device: number;
}

type Named = Pick<ScenarioSettings, 'vms' | 'vgpus' | 'mdevs'>;

export class RunMdevs {
  readonly registry: MdevRegistry;
  /** The devices of each VM, in the order of its bus. */
  readonly vms: readonly (readonly MdevInstance[])[];
  readonly #open = new Map<string, MdevInstance>();
  /** UUID → the name of the VM's device. */
  readonly #holders = new Map<string, string>();

  /**
   * Makes every instance of a run.
   *
   * @param folder what paths of definitions are relative to
   * @throws ScenarioError for definitions that cannot be read or do not divide, and for what the registry refuses, with
   *   the kernel's errno
   */
  constructor(settings: Named, folder: string, seed: number) {
    const own = settings.mdevs === undefined ? settings.vms * settings.vgpus : 0;
    this.registry = runHost(own + SPARE_INSTANCES, (uuid) => this.#holders.get(uuid) ?? '');
    this.vms = wanted(settings, folder, seed).map((definitions, vm) =>
      definitions.map((definition) => this.#start(definition, vm)),
    );
  }

  /** The most devices of any VM. */
  get vgpusMax(): number {
    return Math.max(...this.vms.map((devices) => devices.length));
  }

  /** True if the VMs have different numbers of devices. */
  get isUneven(): boolean {
    return this.vms.some((devices) => devices.length !== this.vgpusMax);
  }

  /** What a host process must know of its VMs' devices. */
  mdevsOf(vms: readonly number[]): FrameBodies['runRequest']['mdevs'] & {} {
    const instances = vms.flatMap((vm) =>
      (this.vms[vm] ?? []).map(({ uuid, parent, type }) => ({ vm, uuid, parent, type })),
    );
    return { instances };
  }

  /** Every VM opens its devices. `request` is called when one is to go: its VM shall close it. */
  openAll(request: (holder: MdevHolder, uuid: string) => void): void {
    for (const [vm, devices] of this.vms.entries())
      for (const [device, instance] of devices.entries()) {
        instance.open(() => request({ vm, device }, instance.uuid));
        this.#open.set(keyOf({ vm, device }), instance);
        this.#holders.set(instance.uuid, `vm${vm}/gpu${device}`);
      }
  }

  /** A VM has closed a device. Once is enough; a second time does nothing. */
  close(holder: MdevHolder): void {
    const instance = this.#open.get(keyOf(holder));
    this.#open.delete(keyOf(holder));
    if (!instance) return;
    this.#holders.delete(instance.uuid);
    instance.close();
  }

  /** A VM has ended, and all that it held is closed. */
  closeVm(vm: number): void {
    for (const device of this.vms[vm]?.keys() ?? []) this.close({ vm, device });
  }

  #start(definition: Definition, vm: number): MdevInstance {
    try {
      return startDefinition(this.registry, definition);
    } catch (error) {
      if (error instanceof MdevError) throw new ScenarioError(`mdevs of VM ${vm}: ${error.message}`);
      throw error;
    }
  }
}

const keyOf = ({ vm, device }: MdevHolder): string => `${vm}/${device}`;

/** What each VM is to be given. @throws ScenarioError */
function wanted({ vms, vgpus, mdevs }: Named, folder: string, seed: number): Definition[][] {
  if (mdevs === undefined) return drawn(vms, vgpus, seed);
  const each = isList(mdevs)
    ? mdevs.map((source, vm) => read(source, folder, `mdevs.${vm}`))
    : dealt(read(mdevs, folder, 'mdevs'), vms);
  if (each.length !== vms)
    throw new ScenarioError(
      `mdevs: ${each.length} sources for ${vms} VMs; accepted: one each, or one for all`,
    );
  for (const [vm, { length }] of each.entries())
    if (length < 1 || length > VGPUS_LIMIT)
      throw new ScenarioError(`mdevs: ${length} definitions for VM ${vm}; accepted: 1 to ${VGPUS_LIMIT}`);
  return each;
}

/** True for a list with one source for each VM; false for one source, which mdevctl's dump, a list too, also is. */
const isList = (mdevs: unknown): mdevs is unknown[] => Array.isArray(mdevs) && !mdevs.every(isDumpItem);

const isDumpItem = (item: unknown): boolean =>
  typeof item === 'object' &&
  item !== null &&
  !Array.isArray(item) &&
  Object.values(item).every(Array.isArray);

function read(source: unknown, folder: string, where: string): Definition[] {
  try {
    return typeof source === 'string'
      ? readDefinitions(resolve(folder, source))
      : definitionsOf(source, where);
  } catch (error) {
    if (error instanceof DefinitionError) throw new ScenarioError(error.message);
    throw error;
  }
}

/** The first to VM 0, and so on, the same number to each. */
function dealt(all: Definition[], vms: number): Definition[][] {
  const share = all.length / vms;
  if (!Number.isInteger(share))
    throw new ScenarioError(`mdevs: ${all.length} definitions do not divide evenly among ${vms} VMs`);
  return Array.from({ length: vms }, (_, vm) => all.slice(vm * share, (vm + 1) * share));
}

/** Devices of the run's own parent; their UUIDs follow from the seed. */
function drawn(vms: number, vgpus: number, seed: number): Definition[][] {
  const prng = new Prng(seed ^ UUID_STREAM);
  const one = () => ({ parent: SOFTWARE_GPU, uuid: uuidFrom(prng), type: SOFTWARE_GPU_TYPE, attrs: [] });
  return Array.from({ length: vms }, () => Array.from({ length: vgpus }, one));
}

/** A random UUID (RFC 9562, version 4). */
function uuidFrom(prng: Prng): string {
  const hex = Array.from({ length: 4 }, () => hexDigits(prng.next32(), 8)).join('');
  const variant = '89ab'[Number.parseInt(hex.charAt(16), 16) & 3];
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `4${hex.slice(13, 16)}`,
    `${variant}${hex.slice(17, 20)}`,
    hex.slice(20),
  ].join('-');
}
