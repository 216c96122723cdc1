/**
 * The mediated devices of a run: the host's registry, the instances of the VMs, and the open instances.
 *
 * All host processes of a run share one registry, in the process that started them. In sysfs they are one host.
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
import { counted } from '../report/text.ts';
import { ScenarioError, type ScenarioSettings, VGPUS_LIMIT } from './scenario.ts';

/** Instances of the run's own parent beyond those of its VMs, for users who create some during the run. */
export const SPARE_INSTANCES = 16;
/** Separates the random numbers of the UUIDs from those of the VMs. */
const UUID_STREAM = 0x6d64_6576;

/** The holder of a device: a VM, and the device's index on its bus. */
interface MdevHolder {
  readonly vm: number;
  readonly device: number;
}

type MdevSettings = Pick<ScenarioSettings, 'vms' | 'vgpus' | 'mdevs' | 'groups'>;

export class RunMdevs {
  readonly registry: MdevRegistry;
  /** The devices of each VM, in bus order. */
  readonly vms: readonly (readonly MdevInstance[])[];
  readonly #open = new Map<string, MdevInstance>();
  /** UUID → name of the VM's device. */
  readonly #holders = new Map<string, string>();

  /**
   * Creates all instances of a run.
   *
   * @param folder base of relative paths of definitions
   * @throws ScenarioError for definitions that cannot be read or divided, and for instances that the registry refuses,
   *   with the kernel's errno
   */
  constructor(settings: MdevSettings, folder: string, seed: number) {
    const own = settings.mdevs === undefined ? countsOf(settings).reduce((sum, count) => sum + count, 0) : 0;
    this.registry = runHost(own + SPARE_INSTANCES, (uuid) => this.#holders.get(uuid) ?? '');
    this.vms = definitionsByVm(settings, folder, seed).map((definitions, vm) =>
      definitions.map((definition) => this.#start(definition, vm)),
    );
  }

  /** The largest device count of any VM. */
  get vgpusMax(): number {
    return Math.max(...this.vms.map((devices) => devices.length));
  }

  /** True if the VMs have different device counts. */
  get isUneven(): boolean {
    return this.vms.some((devices) => devices.length !== this.vgpusMax);
  }

  /** Returns the instances of these VMs, for their host process. */
  mdevsOf(vms: readonly number[]): FrameBodies['runRequest']['mdevs'] & {} {
    const instances = vms.flatMap((vm) =>
      (this.vms[vm] ?? []).map(({ uuid, parent, type }) => ({ vm, uuid, parent, type })),
    );
    return { instances };
  }

  /** Opens the devices of these VMs. `request` is called when a device is being removed and its VM must close it. */
  openAll(vms: readonly number[], request: (holder: MdevHolder, uuid: string) => void): void {
    for (const vm of vms)
      for (const [device, instance] of (this.vms[vm] ?? []).entries()) {
        instance.open(() => request({ vm, device }, instance.uuid));
        this.#open.set(keyOf({ vm, device }), instance);
        this.#holders.set(instance.uuid, `vm${vm}/gpu${device}`);
      }
  }

  /** Closes a VM's device. Closing it again does nothing. */
  close(holder: MdevHolder): void {
    const instance = this.#open.get(keyOf(holder));
    this.#open.delete(keyOf(holder));
    if (!instance) return;
    this.#holders.delete(instance.uuid);
    instance.close();
  }

  /** Closes all devices of a VM that has ended. */
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

/** Returns the definitions of each VM's devices. @throws ScenarioError */
function definitionsByVm(settings: MdevSettings, folder: string, seed: number): Definition[][] {
  const { vms, mdevs } = settings;
  if (mdevs === undefined) return generated(countsOf(settings), seed);
  const each = isSourceList(mdevs)
    ? mdevs.map((source, vm) => read(source, folder, `mdevs.${vm}`))
    : divided(read(mdevs, folder, 'mdevs'), vms);
  if (each.length !== vms)
    throw new ScenarioError(
      `mdevs: ${counted(each.length, 'source')} for ${counted(vms, 'VM')}; accepted: one per VM, or one for all`,
    );
  for (const [vm, { length }] of each.entries())
    if (length < 1 || length > VGPUS_LIMIT)
      throw new ScenarioError(
        `mdevs: ${counted(length, 'definition')} for VM ${vm}; accepted: 1 to ${VGPUS_LIMIT}`,
      );
  return each;
}

/** Returns whether this is a list with one source per VM. mdevctl's dump is one source, although it is a list. */
const isSourceList = (mdevs: unknown): mdevs is unknown[] => Array.isArray(mdevs) && !mdevs.every(isDumpItem);

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

/** Divides the definitions over the VMs, in order, the same count for each. */
function divided(all: Definition[], vms: number): Definition[][] {
  const share = all.length / vms;
  if (!Number.isInteger(share))
    throw new ScenarioError(
      `mdevs: ${counted(all.length, 'definition')} ${all.length === 1 ? 'does' : 'do'} not divide evenly among ${counted(vms, 'VM')}`,
    );
  return Array.from({ length: vms }, (_, vm) => all.slice(vm * share, (vm + 1) * share));
}

/** Returns the count of devices of each VM. */
const countsOf = ({ vms, vgpus, groups }: MdevSettings): number[] =>
  groups
    ? Object.values(groups).flatMap((group) => Array<number>(group.vms).fill(group.vgpus))
    : Array<number>(vms).fill(vgpus);

/** Returns definitions for the run's own parent, with UUIDs drawn from the seed. */
function generated(counts: readonly number[], seed: number): Definition[][] {
  const prng = new Prng(seed ^ UUID_STREAM);
  const one = () => ({ parent: SOFTWARE_GPU, uuid: uuidFrom(prng), type: SOFTWARE_GPU_TYPE, attrs: [] });
  return counts.map((count) => Array.from({ length: count }, one));
}

/** Returns a random UUID (RFC 9562, version 4). */
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
